import pytest

from helpers import config
from helpers.config import PROFILES, Settings


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository without data, on a machine without Kaggle's folder or a GPU."""
    (tmp_path / "repo").mkdir()
    monkeypatch.setattr(config, "ROOT", tmp_path / "repo")
    monkeypatch.setattr(config, "KAGGLE_FOLDERS", (tmp_path / "kaggle",))
    monkeypatch.setattr(config, "accelerators", list)
    return tmp_path


def test_without_data_and_accelerator_it_is_synthetic_and_quick(house):
    settings = Settings.from_env({})
    assert settings.synthetic
    assert settings.profile is PROFILES["quick"]
    assert settings.output_dir == house / "repo" / "outputs"
    assert settings.runs_dir == house / "repo" / "outputs" / "runs"


def test_an_own_folder_goes_before_kaggle_and_both_before_synthetic(house):
    (house / "kaggle").mkdir()
    assert Settings.from_env({}).data == house / "kaggle"
    (house / "repo" / "data" / "tgs").mkdir(parents=True)
    assert Settings.from_env({}).data == house / "repo" / "data" / "tgs"
    assert Settings.from_env({"SALT_DATA_DIR": "synthetic"}).synthetic


def test_relative_folders_start_at_the_repository_and_absolute_ones_do_not(house):
    (house / "repo" / "tiles").mkdir(parents=True)
    (house / "bundle.zip").touch()
    env = {"SALT_DATA_DIR": "tiles", "SALT_OUTPUT_DIR": "here"}
    settings = Settings.from_env(env)
    assert settings.data == house / "repo" / "tiles"
    assert settings.output_dir == house / "repo" / "here"
    env = {"SALT_DATA_DIR": str(house / "bundle.zip"), "SALT_OUTPUT_DIR": str(house)}
    settings = Settings.from_env(env)
    assert (settings.data, settings.output_dir) == (house / "bundle.zip", house)


def test_a_folder_that_does_not_exist_is_never_replaced_by_another(house):
    (house / "kaggle").mkdir()
    with pytest.raises(ValueError, match=r"SALT_DATA_DIR.*nowhere.*train\.zip"):
        Settings.from_env({"SALT_DATA_DIR": "nowhere"})


@pytest.mark.parametrize(
    ("gpu", "real", "wanted", "profile"),
    [
        ("", True, "", "quick"),
        ("gpu:0", False, "", "quick"),
        ("gpu:0", True, "", "full"),
        ("gpu:0", True, "smoke", "smoke"),
        ("", False, "full", "full"),
    ],
)
def test_profile_follows_machine_and_data(
    house, monkeypatch, gpu, real, wanted, profile
):
    monkeypatch.setattr(config, "accelerators", lambda: [gpu] if gpu else [])
    data = str(house) if real else "Synthetic"
    settings = Settings.from_env({"SALT_DATA_DIR": data, "SALT_PROFILE": wanted})
    assert settings.profile.name == profile


def test_an_unknown_profile_is_refused_with_the_known_ones(house):
    with pytest.raises(ValueError, match=r"SALT_PROFILE.*'fast'.*smoke, quick, full"):
        Settings.from_env({"SALT_PROFILE": "fast"})


def test_the_process_environment_is_read_by_default(house, monkeypatch):
    monkeypatch.setenv("SALT_PROFILE", "smoke")
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    assert Settings.from_env().profile.name == "smoke"


def test_description_gives_choice_and_reason_without_private_folders(house):
    lines = Settings.from_env({}).describe().splitlines()
    assert [line.split(":")[0] for line in lines] == ["data", "profile", "output"]
    assert "synthetic" in lines[0] and "no competition data found" in lines[0]
    assert "quick" in lines[1] and "no accelerator" in lines[1]
    assert str(house) not in "".join(lines)


def test_start_prints_versions_and_one_line_about_the_data(house, monkeypatch, capsys):
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    monkeypatch.delenv("SALT_PROFILE", raising=False)
    assert config.start().synthetic
    out = capsys.readouterr().out
    assert "Keras" in out and "no accelerator\n" in out
    assert len([line for line in out.splitlines() if line.startswith("data:")]) == 1


@pytest.mark.parametrize("name", config.GPU_HINTS)
def test_start_says_where_a_gpu_is_to_be_had(house, monkeypatch, capsys, name):
    monkeypatch.setenv(name, "1")
    config.start()
    assert f"no accelerator{config.GPU_HINTS[name]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "path", "fault"),
    [
        ("SALT_OUTPUT_DIR", "file/out", "Not a directory.*: mount its disk"),
        ("SALT_OUTPUT_DIR", "file", "file cannot be written .*File exists"),
        ("SALT_OUTPUT_DIR", "/proc/out", "cannot be written"),
        ("SALT_OUTPUT_DIR", "~nobody-of-this-name/out", "home directory"),
        ("SALT_DATA_DIR", "~nobody-of-this-name/tgs", "home directory"),
        ("SALT_DATA_DIR", "x" * 300, "File name too long"),
        ("SALT_DATA_DIR", "a\0b", "does not exist"),
    ],
)
def test_path_that_cannot_be_used_is_told_by_the_name_of_its_variable(
    house, name, path, fault
):
    (house / "repo" / "file").touch()
    with pytest.raises(ValueError, match=f"^{name}: .*{fault}"):
        Settings.from_env({name: path})


def test_output_on_a_disk_that_is_not_mounted_is_refused(house):
    drive = house / "drive"
    with pytest.raises(ValueError, match=r"SALT_OUTPUT_DIR: .*No such.*drive.*mount"):
        Settings.from_env({"SALT_OUTPUT_DIR": str(drive / "salt")})
    drive.mkdir()
    settings = Settings.from_env({"SALT_OUTPUT_DIR": str(drive / "salt")})
    assert settings.output_dir == drive / "salt"
