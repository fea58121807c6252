"""Outputs are renewed, and the one address of the course is set."""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import nbformat
import publish
import pytest

from helpers import __main__ as main
from helpers import data
from helpers.utils.files import DataError

ROOT = Path(__file__).parents[1]
V4 = nbformat.v4
HOME_OF_SOMEBODY = "someone/salt@" + "0123456789" * 4

WORDS = f"Salt.\n\n{publish.WORDS}\n\nA line\nthat rises.\n\n</details>"


def write(path, *code, markdown=WORDS):
    cells = [V4.new_markdown_cell(f"## Title\n\n{markdown}")]
    nbformat.write(V4.new_notebook(cells=[*cells, *map(V4.new_code_cell, code)]), path)
    return path


def test_outputs_are_renewed_cleaned_and_stamped(tmp_path, monkeypatch):
    picture = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    path = write(tmp_path / "05_a.ipynb", "print('\\x1b[31mred')", picture)
    monkeypatch.setattr(main, "NOTEBOOKS", [path])
    monkeypatch.setattr(data, "check_parts", lambda settings: None)  # 1,500 tiles
    monkeypatch.setenv("SALT_OUTPUT_DIR", str(tmp_path / "out"))
    for name in ("SALT_DATA_DIR", "SALT_PROFILE"):
        monkeypatch.setenv(name, "")  # to be put back afterwards
    (tmp_path / "out").mkdir()
    result = '{"score": 0.5, "what": "tiles", "submission": "s.csv"}'
    (tmp_path / "out" / "result.json").write_text(result)
    assert publish.refresh() == 0
    book = nbformat.read(path, as_version=4)
    first, second = book.cells[1:]
    assert first.outputs[0].text == "red\n" and first.execution_count == 1
    alt = second.outputs[-1].metadata["image/png"]["alt"]
    assert alt == "A line that rises."
    assert book.metadata[publish.STAMP] == publish.stamp(book)
    first_took, second_took = book.metadata["seconds"]
    assert 0 < first_took + second_took < 60
    second.source += "\n# edited afterwards"
    assert book.metadata[publish.STAMP] != publish.stamp(book)


def test_refresh_wants_a_clean_start(tmp_path, monkeypatch):
    monkeypatch.setenv("SALT_OUTPUT_DIR", str(tmp_path))
    for name in ("SALT_DATA_DIR", "SALT_PROFILE"):
        monkeypatch.setenv(name, "")  # to be put back afterwards
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="not a clean start: move it away"):
        publish.refresh()


def test_warning_is_not_committed(tmp_path):
    executed = write(tmp_path / "a.ipynb", "1")
    book = nbformat.read(executed, as_version=4)
    book.cells[1].outputs = [V4.new_output("stream", name="stderr", text="Warning: x")]
    nbformat.write(book, executed)
    with pytest.raises(DataError, match="Warning: x"):
        publish.keep_outputs(executed, executed)


def test_figure_must_be_described(tmp_path):
    executed = write(tmp_path / "a.ipynb", "draw()", markdown="No word about it.")
    book = nbformat.read(executed, as_version=4)
    book.cells[1].outputs = [V4.new_output("display_data", {"image/png": "aGk="})]
    nbformat.write(book, executed)
    before = executed.read_bytes()
    with pytest.raises(DataError, match=r"a\.ipynb: the figure of 'draw\(\)' is not"):
        publish.keep_outputs(executed, executed)
    assert executed.read_bytes() == before


def copy_house(folder):
    for pattern in ("helpers/config.py", "notebooks/*.ipynb"):
        for path in ROOT.glob(pattern):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return sorted(folder.glob("notebooks/*.ipynb"))


def test_notebooks_have_the_set_up_cell_and_become_scripts():
    exporter = pytest.importorskip("nbconvert").ScriptExporter()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        first = next(cell for cell in book.cells if cell.cell_type == "code")
        assert first.source == publish.setup_cell(), "python tests/publish.py setup"
        code, resources = exporter.from_notebook_node(book)
        assert resources["output_extension"] == ".py"
        compile(code, path.name, "exec")


@pytest.mark.parametrize("home", ["", HOME_OF_SOMEBODY], ids=["no home", "a home"])
def test_set_up_cell_is_short(home):
    lines = publish.setup_cell(home).splitlines()
    assert len(lines) <= (20 if home else 12) and max(map(len, lines)) <= 88


def test_address_is_set_everywhere_and_taken_back(tmp_path):
    books = copy_house(tmp_path)
    publish.set_up("", tmp_path)
    read = {path: path.read_text() for path in books}
    assert "github.com" not in "".join(
        publish.setup_cell() + nbformat.reads(text, as_version=4).cells[0].source
        for text in read.values()
    )
    changed = publish.set_home(HOME_OF_SOMEBODY, tmp_path)
    config = tmp_path / "helpers" / "config.py"
    assert set(changed) == {config, *books}
    assert f'HOME = "{HOME_OF_SOMEBODY}"' in config.read_text()
    for path, old in read.items():
        before, after = (
            nbformat.reads(part, as_version=4) for part in (old, path.read_text())
        )
        assert f"github/someone/salt/blob/main/notebooks/{path.name})" in str(
            after.cells[0].source
        )
        assert publish.stamp(before) == publish.stamp(after)
        assert before.cells[3:] == after.cells[3:]
    assert publish.set_up(HOME_OF_SOMEBODY, tmp_path) == []
    assert publish.set_up("", tmp_path) == books
    assert {path: path.read_text() for path in books} == read


@pytest.mark.parametrize(
    "home", ["https://github.com/a/b", "a/b", "a/b@123", "", "a/b@" + "g" * 40]
)
def test_half_an_address_is_refused(home, tmp_path):
    with pytest.raises(ValueError, match="is OWNER/NAME, and a commit in full"):
        publish.set_home(home, tmp_path)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A small course in a repository of two commits, and in zips: its folder."""
    folder = tmp_path_factory.mktemp("course")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q", folder], check=True)
    for name in ("helpers", "notebooks"):
        (folder / name).mkdir()
        (folder / name / "a.txt").touch()
    shutil.copy(ROOT / "helpers" / "__init__.py", folder / "helpers")
    for text in ("first", "second"):
        program = f"def start(): print({text!r}, __file__)"
        (folder / "helpers" / "config.py").write_text(program)
        subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "-qm", text], cwd=folder, check=True)
    for name, prefix in ("plain.zip", ""), ("main.zip", "salt-main/"):
        pack = ["archive", f"--prefix={prefix}", "-o", name, "HEAD", "helpers"]
        subprocess.run([*git, *pack], cwd=folder, check=True)
    return folder


def start(folder, home="", **env):
    """Run the set-up cell in a folder: `(where the course is, what it says)`."""
    cell = publish.setup_cell(home).replace("timeout 25", "timeout 1")
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}
    done = subprocess.run(
        [sys.executable, "-c", cell],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == bool(done.stdout)
    return done.stdout.strip(), done.stderr  # where Git says what it met


REMEDIES = "Upload the course's zip here, or set SALT_REPOSITORY"


def never_answers(folder, monkeypatch):
    """An address that takes a connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(publish, "a_server", server, raising=False)  # keeps it open
    return {"SALT_REPOSITORY": f"http://127.0.0.1:{server.getsockname()[1]}/a"}


def asks_for_a_name(folder, monkeypatch):
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()

        def log_message(self, *args): ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"SALT_REPOSITORY": f"http://127.0.0.1:{server.server_port}/a"}


def no_network(folder, monkeypatch):
    return {"SALT_REPOSITORY": "http://127.0.0.1:9/a"}


def no_repository(folder, monkeypatch):
    return {"SALT_REPOSITORY": (folder / "nowhere").as_uri()}


def no_git(folder, monkeypatch):
    for name in ("sh", "timeout"):
        (folder / name).symlink_to(shutil.which(name))
    return {"SALT_REPOSITORY": "http://127.0.0.1:9/a", "PATH": str(folder)}


def interrupted_clone(folder, monkeypatch):
    for name in ("salt-segmentation", "salt-course-1"):
        (folder / name / ".git").mkdir(parents=True)
    return {}


def truncated_zip(folder, monkeypatch):
    (folder / "course.zip").write_bytes(b"PK\x03\x04" + bytes(99))
    return {}


def nothing(folder, monkeypatch):
    return {"SALT_REPOSITORY": ""}


@pytest.mark.parametrize(
    "fault",
    [
        *(nothing, no_network, never_answers, asks_for_a_name, no_repository, no_git),
        *(interrupted_clone, truncated_zip),
    ],
)
def test_lone_notebook_says_how_to_go_on_and_then_does(
    fault, course, tmp_path, monkeypatch
):
    where, said = start(tmp_path, **fault(tmp_path, monkeypatch))
    assert not where and said.count(REMEDIES) == 1
    if fault in (truncated_zip, no_git, nothing):
        shutil.copy(course / "main.zip", tmp_path / "course.zip")
        where, _ = start(tmp_path)
        assert where.startswith(f"second {tmp_path}/salt-course/course/salt-main/")
    else:
        where, _ = start(tmp_path, SALT_REPOSITORY=course.as_uri())
        assert where.startswith(f"second {tmp_path}/salt-course-")
        assert start(tmp_path)[0] == where  # a new kernel finds it again


def test_course_is_found_above_and_beside_and_in_any_zip_of_it(course, tmp_path):
    assert start(course / "notebooks")[0] == f"second {course}/helpers/config.py"
    assert start(course.parent)[0] == f"second {course}/helpers/config.py"
    for name in ("data.zip", "plain.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("train/images/a.png", "")
    shutil.copy(course / "plain.zip", tmp_path)
    where = f"{tmp_path}/salt-course/plain/helpers/config.py"
    assert start(tmp_path)[0] == f"second {where}"


def test_damaged_file_in_a_zip_is_named(course, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(course / "helpers" / "__init__.py", "helpers/__init__.py")
        file.write(course / "helpers" / "config.py", "helpers/config.py")
        file.writestr("helpers/z.txt", "salt" * 9)
    content = (tmp_path / "a.zip").read_bytes()
    place = content.index(b"saltsalt")
    (tmp_path / "a.zip").write_bytes(content[:place] + b"?" + content[place + 1 :])
    where, said = start(tmp_path)
    assert not where and f"{tmp_path}/a.zip cannot be unpacked (Bad CRC" in said


def test_home_is_fetched_at_the_commit_that_was_set_and_at_no_other(course, tmp_path):
    """Git takes GitHub's address for that of the small course here."""
    address = f"url.{course.as_uri()}.insteadOf"
    env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": address}
    env["GIT_CONFIG_VALUE_0"] = "https://github.com/someone/salt"
    log = ["git", "log", "--format=%H", "--reverse"]
    first, second = subprocess.run(
        log, cwd=course, capture_output=True, text=True, check=True
    ).stdout.split()
    for commit, text in (first, "first"), (second, "second"):
        (tmp_path / text).mkdir()
        where, _ = start(tmp_path / text, f"someone/salt@{commit}", **env)
        assert where.startswith(f"{text} {tmp_path}/{text}/salt-course-")
    other = "0" * 40  # a branch of that name is not the commit
    subprocess.run(["git", "branch", "-f", "x", first], cwd=course, check=True)
    heads = course / ".git" / "refs" / "heads"
    shutil.copy(heads / "x", heads / other)
    where, said = start(tmp_path, f"someone/salt@{other}", **env)
    assert not where and "not our ref" in said and REMEDIES in said
    assert start(course / "notebooks", f"someone/salt@{other}")[0]  # fetches nothing
