"""Outputs are renewed, and the one address of the course is set."""

import shutil
from pathlib import Path

import nbformat
import publish
import pytest

from helpers import __main__ as main
from helpers import data
from helpers.config import HOME
from helpers.utils.files import DataError

ROOT = Path(__file__).parents[1]
V4 = nbformat.v4


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


def test_address_is_the_same_everywhere_and_set_at_once(tmp_path):
    for pattern in publish.ADDRESSED:
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    read = {path: path.read_text() for path in tmp_path.glob("notebooks/*.ipynb")}
    changed = publish.set_home("someone/salt", tmp_path)
    assert set(read) < set(changed) and tmp_path / "helpers" / "config.py" in changed
    for path, old in read.items():
        text = path.read_text()
        assert HOME not in text
        assert "https://github.com/someone/salt" in text  # the set-up cell
        assert "research.google.com/github/someone/salt/blob" in text  # the badge
        before, after = (nbformat.reads(part, as_version=4) for part in (old, text))
        assert publish.stamp(before) == publish.stamp(after, "someone/salt")
    with pytest.raises(ValueError, match="is OWNER/NAME"):
        publish.set_home("https://github.com/someone/salt", tmp_path)
