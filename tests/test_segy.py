"""SEG-Y in, SEG-Y out: a network's probabilities in the amplitudes' place."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logit
from survey import write_survey

from helpers import __main__ as main
from helpers.inference import predict_section
from helpers.utils import segy
from helpers.utils.files import DataError

segyio = pytest.importorskip("segyio")
VALUES = np.random.default_rng(0).standard_normal((4, 6, 20)).astype(np.float32)
TRACE = 240 + 4 * VALUES.shape[2]  # bytes; the first one begins at 3600


def identity(batch):
    return logit(batch.clip(1e-6, 1 - 1e-6))


MODEL = SimpleNamespace(predict_on_batch=identity, get_weights=lambda: [np.ones(3)])


@pytest.fixture(autouse=True)
def network(monkeypatch):
    predict = partial(predict_section, MODEL)
    monkeypatch.setattr(segy, "_predictor", lambda run: predict)


@pytest.fixture
def survey(tmp_path):
    return write(tmp_path / "in.sgy")


def write(path, values=VALUES, **options):
    segyio.tools.from_array3D(str(path), values, **{"format": 5} | options)
    return path


def read(path, lines=(189, 193)):
    with segyio.open(path, "r", *lines) as file:
        return segyio.cube(file)


def expected(values):
    return np.stack([predict_section(MODEL, inline.T).T for inline in values])


@pytest.mark.parametrize("kind", [1, 5])
def test_probabilities_take_the_place_of_amplitudes_and_headers_stay(tmp_path, kind):
    source = write(tmp_path / "in.sgy", format=kind)
    with segyio.open(source, "r+") as file:
        file.text[0] = b"C 1 A survey of ours".ljust(3200)
        file.header[7] = {segyio.TraceField.CDP_X: 123456, 21: 77}
        file.bin[segyio.BinField.JobID] = 42
    before = source.read_bytes()
    segy.mark_survey(source, tmp_path / "out.sgy")
    after = (tmp_path / "out.sgy").read_bytes()
    marked = read(tmp_path / "out.sgy")
    np.testing.assert_allclose(marked, expected(read(source)), atol=1e-6)
    assert marked.std() > 0.1 and source.read_bytes() == before
    assert len(after) == len(before) and after[:3600] == before[:3600]
    for start in range(3600, len(before), TRACE):
        assert after[start : start + 240] == before[start : start + 240]
    assert {path.name for path in tmp_path.iterdir()} == {"in.sgy", "out.sgy"}


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_an_interrupted_survey_is_resumed(survey, tmp_path, monkeypatch, stop):
    whole, target, mark, seen = (
        tmp_path / "whole.sgy",
        tmp_path / "out.sgy",
        segy._mark,
        [],
    )
    segy.mark_survey(survey, whole)

    def interrupted(*args):
        if len(seen) == stop:
            raise KeyboardInterrupt
        seen.append(args[-1])
        return mark(*args)

    monkeypatch.setattr(segy, "_mark", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segy.mark_survey(survey, target)
    assert not target.exists()
    monkeypatch.setattr(segy, "_mark", lambda *x: (seen.append(x[-1]), mark(*x))[1])
    segy.mark_survey(survey, target)
    assert seen == [1, 2, 3, 4]
    assert target.read_bytes() == whole.read_bytes()


def test_what_another_network_marked_is_not_resumed(survey, tmp_path, monkeypatch):
    mark = segy._mark

    def interrupted(*args):
        if args[-1] == 3:
            raise KeyboardInterrupt
        return mark(*args)

    monkeypatch.setattr(segy, "_mark", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segy.mark_survey(survey, tmp_path / "out.sgy")
    seen = []
    monkeypatch.setattr(segy, "_mark", lambda *x: (seen.append(x[-1]), mark(*x))[1])
    monkeypatch.setattr(MODEL, "get_weights", lambda: [np.zeros(3)])
    segy.mark_survey(survey, tmp_path / "out.sgy")
    assert seen == [1, 2, 3, 4]


def test_crossline_sorting_and_other_header_bytes(survey, tmp_path):
    """As in some old files."""
    spec = segyio.spec()
    spec.ilines, spec.xlines, spec.samples = [10, 20, 30, 40], range(5, 11), range(20)
    spec.sorting, spec.format, spec.iline, spec.xline = 1, 5, 9, 21
    other = tmp_path / "other.sgy"
    with segyio.create(other, spec) as file:
        for trace, (x, i) in enumerate(np.ndindex(6, 4)):
            file.header[trace] = {9: spec.ilines[i], 21: spec.xlines[x], 37: 1}
            file.trace[trace] = VALUES[i, x]
    with pytest.raises(DataError, match=r"at bytes \(189, 193\): .*--lines"):
        segy.mark_survey(other, tmp_path / "out.sgy")
    segy.mark_survey(other, tmp_path / "out.sgy", lines=(9, 21))
    marked = read(tmp_path / "out.sgy", (9, 21)).swapaxes(0, 1)
    np.testing.assert_allclose(marked, expected(VALUES), atol=1e-6)


def unsorted(raw):
    traces = [raw[i : i + TRACE] for i in range(3600, len(raw), TRACE)]
    order = np.random.default_rng(0).permutation(len(traces))
    return raw[:3600] + b"".join(traces[i] for i in order)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"", "not SEG-Y, or truncated"),
        (lambda raw: b"hello" * 1000, "not SEG-Y, or truncated"),
        (lambda raw: raw[:-100], "not SEG-Y, or truncated"),
        (lambda raw: raw[:3000], "not SEG-Y, or truncated"),
        (lambda raw: raw[:3600], "not SEG-Y, or truncated"),
        (lambda raw: bytes(5000), "not SEG-Y, or truncated"),
        (lambda raw: raw[:-TRACE], "no full, sorted grid at bytes"),
        (unsorted, "no full, sorted grid at bytes"),
        (lambda raw: raw[: 3600 + 6 * TRACE], "2-D line to inference.predict_section"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(survey, tmp_path, damage, message):
    survey.write_bytes(damage(survey.read_bytes()))
    with pytest.raises(DataError, match=message) as refused:
        segy.mark_survey(survey, tmp_path / "out.sgy")
    assert str(survey) in str(refused.value) and "\n" not in str(refused.value)
    assert [*tmp_path.iterdir()] == [survey]


def test_integer_samples_and_gathers_are_refused(tmp_path):
    whole = np.arange(4 * 6 * 20, dtype=np.int16).reshape(4, 6, 20)
    with pytest.raises(DataError, match="4-byte floats"):
        segy.mark_survey(write(tmp_path / "in.sgy", whole, format=3), tmp_path / "out")
    segyio.tools.from_array4D(str(tmp_path / "4.sgy"), VALUES.reshape(4, 3, 2, 20))
    with pytest.raises(DataError, match="not a stacked"):
        segy.mark_survey(tmp_path / "4.sgy", tmp_path / "out.sgy")


def test_nothing_is_overwritten(survey):
    with pytest.raises(ValueError, match=r"in\.sgy exists: remove it"):
        segy.mark_survey(survey, survey)


def test_without_segyio_the_remedy_is_named(survey, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segyio", None)
    with pytest.raises(DataError, match="pip install segyio"), segy.open_survey(survey):
        pass


def test_iou_of_two_surveys(tmp_path):
    one, two = (np.zeros((4, 6, 20), np.float32) for _ in "ab")
    one[:, :, :10], two[:, :, 5:10] = 0.9, 1
    files = write(tmp_path / "one.sgy", one), write(tmp_path / "two.sgy", two)
    assert segy.iou(*files) == pytest.approx(0.5)
    assert segy.iou(files[0], files[0]) == 1


@pytest.fixture(scope="module")
def modelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    files = folder / "seismic.sgy", folder / "salt.sgy"
    write_survey(*files, inlines=12)
    return files


def test_a_modelled_survey_changes_slowly(modelled):
    seismic, salt = map(read, modelled)
    assert seismic.shape == salt.shape == (12, 300, 200)
    assert set(np.unique(salt)) == {0, 1} and 0.05 < salt.mean() < 0.6
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairwise(seismic)]
    ends = np.corrcoef(seismic[0].ravel(), seismic[-1].ravel())[0, 1]
    assert min(alike) > 0.9 and ends < 0.6
    alike = [overlap(*pair) for pair in pairwise(salt)]
    assert min(alike) > 0.95 and overlap(salt[0], salt[-1]) < 0.9


def overlap(a, b):
    return (a * b).sum() / np.maximum(a, b).sum()


def test_the_command_marks_a_survey_and_tells_the_iou(modelled, tmp_path, capsys):
    source, truth = modelled
    options = ["section", str(source), str(tmp_path / "out.sgy"), "--truth", str(truth)]
    assert main.main(options) == 0
    out = capsys.readouterr().out
    value = segy.iou(tmp_path / "out.sgy", truth)
    assert f"IoU of the salt: {value:.3f}" in out and "data:" not in out
    assert main.main(options) == 1
    error = capsys.readouterr().err
    assert "exists: remove it" in error and "Traceback" not in error
    assert main.main(["section", "nowhere.sgy", str(tmp_path / "o.sgy")]) == 1
    assert "nowhere.sgy" in capsys.readouterr().err
