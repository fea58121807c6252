"""The synthetic tiles: their published figures, their files, their geology."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.rle import rle_encode
from helpers.synthetic import SALT, SURVEYS, make_section, make_tiles, write_dataset
from helpers.synthetic.tiles import CLASS_COUNTS
from helpers.utils.files import DataError


@pytest.fixture(
    scope="module", params=[200, pytest.param(1500, marks=pytest.mark.slow)]
)
def tiles(request):
    return make_tiles(request.param, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tgs", train=50, test=10)


def read(path):
    """The pictures of a zip: name -> PIL image."""
    with zipfile.ZipFile(path) as archive:
        return {n: Image.open(io.BytesIO(archive.read(n))) for n in archive.namelist()}


def table(path):
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False)


def vertical_frequency(section):
    """Mean vertical frequency of a section, cycles per pixel."""
    power = np.abs(np.fft.rfft(section.seismic, axis=0)) ** 2
    return np.average(np.fft.rfftfreq(len(section.seismic)), weights=power.sum(1))


def test_shapes_and_types(tiles):
    shape = (len(tiles.depths), 101, 101)
    assert tiles.images.shape == tiles.masks.shape == tiles.labels.shape == shape
    assert tiles.images.dtype == tiles.labels.dtype == np.uint8
    assert tiles.masks.dtype == bool
    assert tiles.depths.shape == tiles.surveys.shape == shape[:1]
    assert tiles.depths.min() >= 51
    assert tiles.depths.max() <= 959
    assert set(tiles.surveys) == {s.name for s in SURVEYS} | {"blank"}


def test_coverage_as_published(tiles):
    coverage = tiles.masks.mean((1, 2))
    counts = np.bincount(np.ceil(10 * coverage).astype(int), minlength=11)
    real = np.array(CLASS_COUNTS) / sum(CLASS_COUNTS)
    assert np.abs(counts / counts.sum() - real).max() < 0.03
    assert np.mean(coverage == 0) == pytest.approx(0.3905, abs=0.03)
    assert coverage.mean() == pytest.approx(0.248, abs=0.02)


def test_extreme_masks_as_published(tiles):
    pixels = tiles.masks.sum((1, 2))
    assert pixels.max() <= 10_200
    assert np.sum((pixels > 0) & (pixels < 10)) > 0
    assert np.mean((pixels > 0) & (pixels < 100)) > 10 / 1500


def test_intensities_as_published(tiles):
    images = tiles.images / 255
    assert images.mean() == pytest.approx(0.47, abs=0.02)
    assert images.std() == pytest.approx(0.16, abs=0.02)
    assert images.std((1, 2)).mean() == pytest.approx(0.11, abs=0.02)


def test_depth_says_little_about_salt(tiles):
    correlation = np.corrcoef(tiles.depths, tiles.masks.mean((1, 2)))[0, 1]
    assert 0 < correlation < 0.25


def test_black_tiles_are_empty(tiles):
    black = ~tiles.images.any((1, 2))
    assert black.sum() == 0.02 * len(black)
    assert (tiles.surveys[black] == "blank").all()
    assert not tiles.masks[black].any()


def test_masks_are_the_salt_of_the_labels(tiles):
    assert np.array_equal(tiles.masks, tiles.labels == SALT)
    assert set(np.unique(tiles.labels)) == {0, 1, 2}


def test_salt_is_quieter_than_the_beds(tiles):
    coverage = tiles.masks.mean((1, 2))
    both = (coverage > 0.2) & (coverage < 0.8)
    pairs = zip(tiles.images[both], tiles.masks[both], strict=True)
    ratio = [image[mask].std() / image[~mask].std() for image, mask in pairs]
    assert np.median(ratio) < 1


def test_tiles_of_a_section_come_from_one_survey(tiles):
    for section in np.unique(tiles.sections):
        assert len(set(tiles.surveys[tiles.sections == section])) == 1
    black = tiles.surveys == "blank"
    assert np.bincount(tiles.sections)[tiles.sections[black]].max() == 1
    assert np.bincount(tiles.sections).max() > 1


def test_few_tiles_are_deterministic():
    first, again, other = make_tiles(20, seed=3), make_tiles(20, seed=3), make_tiles(20)
    for name in ("images", "masks", "labels", "depths", "surveys", "sections"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.images, other.images)
    assert np.mean(~first.masks.any((1, 2))) == pytest.approx(0.39, abs=0.03)


@pytest.mark.parametrize("survey", SURVEYS, ids=lambda survey: survey.name)
def test_section(survey):
    section, again = make_section(survey, seed=5), make_section(survey, seed=5)
    assert section.labels.dtype == np.uint8
    for name in ("impedance", "reflectivity", "seismic"):
        field = getattr(section, name)
        assert field.dtype == np.float32
        assert field.shape == section.labels.shape == (400, 600)
        assert np.isfinite(field).all()
        assert np.array_equal(field, getattr(again, name))
    z, r = section.impedance.astype(float), section.reflectivity
    assert np.allclose(r[1:], np.diff(z, axis=0) / (z[1:] + z[:-1]), atol=1e-5)
    assert np.abs(r).max() < 1


def test_surveys_differ_in_scale():
    shelf, sheets, deep = (
        np.mean([vertical_frequency(make_section(survey, seed)) for seed in (1, 2)])
        for name in ("shelf", "sheets", "deep")
        for survey in SURVEYS
        if survey.name == name
    )
    assert shelf > 1.5 * sheets
    assert shelf > 2.5 * deep


def test_frequency_falls_with_depth():
    sections = [make_section(SURVEYS[0], seed) for seed in range(5, 13)]
    lines = np.stack([s.seismic for s in sections if not (s.labels == 2).any()])
    change = np.abs(np.diff(lines, axis=1)).mean((0, 2)) / lines.std((0, 2))[1:]
    assert change[-130:].mean() < change[:130].mean()


def test_tables(folder):
    train, depths = table(folder / "train.csv"), table(folder / "depths.csv")
    sample = table(folder / "sample_submission.csv")
    assert list(train) == list(sample) == ["id", "rle_mask"]
    assert list(depths) == ["id", "z"]
    sections = table(folder / "sections.csv")
    assert list(sections) == ["id", "section"] and list(sections.id) == list(train.id)
    assert len(train) == 50
    assert len(sample) == 10
    assert (sample.rle_mask == "1 1").all()
    assert list(depths.id) == [*train.id, *sample.id]
    assert depths.id.is_unique
    assert depths.id.str.fullmatch("[0-9a-f]{10}").all()
    for ids in (train.id, depths.id):
        assert ids.str.fullmatch("[0-9]{10}").any()
        assert ids.str.fullmatch("[0-9]e[0-9]{8}").any()


def test_pictures(folder):
    pictures, train = read(folder / "train.zip"), table(folder / "train.csv")
    assert len(pictures) == 100
    for name, runs in train.itertuples(index=False):
        image, mask = pictures[f"images/{name}.png"], pictures[f"masks/{name}.png"]
        assert (image.mode, image.size) == ("RGB", (101, 101))
        red, green, blue = np.moveaxis(np.array(image), -1, 0)
        assert np.array_equal(red, green)
        assert np.array_equal(red, blue)
        assert mask.mode == ("I;16" if runs else "L")
        values = np.array(mask)
        assert set(np.unique(values)) <= {0, 65535}
        assert rle_encode(values > 0) == runs
    asked = set(table(folder / "sample_submission.csv").id)
    assert set(read(folder / "test.zip")) == {f"images/{i}.png" for i in asked}


def test_equal_arguments_give_equal_bytes(folder, tmp_path):
    again = write_dataset(tmp_path / "again", train=50, test=10)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_existing_folder_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match="exists: remove it"):
        write_dataset(folder, train=4, test=2)
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_nothing_half_written(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("pandas.DataFrame.to_csv", fail)
    with pytest.raises(DataError, match="disk full"):
        write_dataset(tmp_path / "tgs", train=4, test=2)
    assert not list(tmp_path.iterdir())
