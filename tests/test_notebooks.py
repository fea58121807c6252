"""The notebooks as documents, and alone in an empty folder as in Colab.

That they run is tested by nbval, which collects them beside these tests.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import publish
import pytest
from nbclient import NotebookClient

from helpers.config import HOME, PROFILES
from helpers.inference import PostProcess
from helpers.panel.comparison import Choice

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["01_eda", "02_scratch_unet", "03_vgg19_unet", "04_losses_comparison"]
NAMES.append("05_submission")


def read(path):
    return nbformat.read(path, as_version=4)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def body(cell):
    """The text of a cell without folded parts, code blocks and addresses."""
    text = re.sub(r"<details>.*?</details>", "", cell.source, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"\]\(.*?\)", "]", text)


def prose(book):
    return "\n".join(body(cell) for cell in book.cells if cell.cell_type == "markdown")


def test_there_are_five():
    assert [path.stem for path in PATHS] == NAMES


def test_set_up_is_one_identical_cell():
    first = {code(read(path))[0].source for path in PATHS}
    assert len(first) == 1
    assert "config.start()" in first.pop()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_code_cell_is_short_and_explained(path):
    book = read(path)
    for before, cell in zip(book.cells, book.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", cell.source
            lines = cell.source.splitlines()
            assert len(lines) <= 25 and max(map(len, lines)) <= 88, cell.source
    counts = [len(cell.source.splitlines()) for cell in code(book)]
    assert counts[0] <= (20 if HOME else 12) and statistics.median(counts) <= 6, counts


def test_the_text_is_short():
    counts = {path.stem: len(prose(read(path)).split()) for path in PATHS}
    assert sum(counts.values()) <= 8000, counts


def test_first_prediction_comes_within_300_words():
    words = 0
    for cell in read(PATHS[0]).cells:
        if "predict_section" in cell.source:
            break
        words += len(body(cell).split()) if cell.cell_type == "markdown" else 0
    assert words <= 300


LITERATURE = {  # numbers in the text that no notebook computes, and where they are from
    "01_eda": {
        **dict.fromkeys(("0.50", "0.55", "0.60", "0.65", "0.95"), "Kaggle's thresholds")
    },
    "03_vgg19_unet": dict.fromkeys(("0.698", "0.391"), "helpers/weights/README.md"),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_numbers_in_the_text_are_in_the_outputs_or_the_code(path):
    """Decimal numbers such as 0.74: so that no sentence contradicts an output."""
    book = read(path)
    texts = [cell.source for cell in code(book)]
    for output in [output for cell in code(book) for output in cell.outputs]:
        texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    number = r"(?<![\w.])\d+\.\d+(?![\w.]*\d)"
    known = {*re.findall(number, "\n".join(texts)), *LITERATURE.get(path.stem, {})}
    assert {*re.findall(number, prose(book))} <= known


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_outputs_come_from_one_clean_run_on_synthetic_tiles(path):
    book = read(path)
    counts = [cell.execution_count for cell in code(book)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in code(book) for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert "data:    synthetic" in code(book)[0].outputs[0].text
    assert not re.search(r"/(tmp|root|home|Users)/", str(outputs))  # whose machine?
    assert path.stat().st_size <= 1_500_000
    again = "edited since its run: python tests/publish.py refresh"
    assert book.metadata[publish.STAMP] == publish.stamp(book), again
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures and all(o.metadata["image/png"]["alt"] for o in pictures)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_nothing_hides_a_failure_from_nbval(path):
    """A failing `!command` passes there, and so does `raises-exception`."""
    for cell in code(read(path)):
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE)
        assert not cell.metadata.get("tags")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_sections_and_links_are_there(path):
    text = "\n".join(cell.source for cell in read(path).cells)
    for part in (
        "# " + path.stem[:2] + " · ",
        "## Setup",
        "## Recap",
        "<summary>Solution<",
    ):
        assert part in text
    links = re.findall(r"\]\(([\w.]+\.(?:ipynb|md))\)", text)
    assert "glossary.md" in links
    for target in links:
        assert (path.parent / target).is_file(), target


def test_glossary_names_notebooks_that_have_the_word():
    rows = (PATHS[0].parent / "glossary.md").read_text().splitlines()
    texts = {path.stem[:2]: prose(read(path)).lower() for path in PATHS}
    for row in [row for row in rows if row.startswith("| ") and "(0" in row]:
        words = row.lower().split("|")[1].strip().split(", ")
        for number in re.findall(r"0[1-5](?=[,)])", row):
            assert any(word[:8] in texts[number] for word in words), row


LONE = PATHS if os.environ.get("SALT_LONE") == "all" else PATHS[:1]


@pytest.mark.slow
@pytest.mark.parametrize("path", LONE, ids=lambda path: path.stem)
def test_lone_notebook_fetches_the_course_as_in_colab(path, tmp_path, monkeypatch):
    """An empty folder, a stand-in for google.colab, and the address of a clone.

    All five, with the versions that Colab has: `bash tests/colab/run`.
    """
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    course = tmp_path / "course"
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("helpers", "notebooks"):
        shutil.copytree(ROOT / folder, course / folder, ignore=skip)
    subprocess.run([*git, "init", "-q", course], check=True)
    subprocess.run([*git, "add", "-A"], cwd=course, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "course"], cwd=course, check=True)

    colab = tmp_path / "stand-in" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("")
    content = tmp_path / "content"
    content.mkdir()
    monkeypatch.setenv("SALT_REPOSITORY", course.as_uri())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    monkeypatch.setenv("SALT_PROFILE", "smoke")
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    monkeypatch.delenv("SALT_OUTPUT_DIR", raising=False)
    book = read(shutil.copy(path, content))
    where = "import google.colab, helpers; print(helpers.__file__)"
    book.cells.append(nbformat.v4.new_code_cell(where))
    NotebookClient(
        book, timeout=900, resources={"metadata": {"path": str(content)}}
    ).execute()
    found = Path(book.cells[-1].outputs[-1].text.strip())
    assert found.relative_to(content).parts[0].startswith("salt-course-")
    assert (found.parents[1] / "outputs").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_solutions_of_the_exercises_run(path, tmp_path, monkeypatch):
    """All `python` blocks of the folded solutions, after the notebook, in order.

    Blocks marked `py` are for reading only: they show somebody's fault. Notebook 05
    finds what somebody has chosen in the panel, and must submit with it.
    """
    chosen = Choice(
        (("salt-net", 1.0),), tta=False, post_process=PostProcess(0.4, 30, 20)
    )
    chosen.save(
        SimpleNamespace(
            output_dir=tmp_path, kind="synthetic", profile=PROFILES["smoke"]
        )
    )
    monkeypatch.setenv("SALT_PROFILE", "smoke")
    monkeypatch.setenv("SALT_DATA_DIR", "synthetic")
    monkeypatch.setenv("SALT_OUTPUT_DIR", str(tmp_path))
    book = read(path)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    folded = re.findall(r"<summary>Solution<.*?</details>", text, re.DOTALL)
    assert 3 <= len(folded) <= 5
    for solution in folded:
        for block in re.findall(r"```python\n(.*?)```", solution, re.DOTALL):
            book.cells.append(nbformat.v4.new_code_cell(block))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(book, timeout=900, resources=where).execute()
    if path.stem == "05_submission":
        result = json.loads((tmp_path / "result.json").read_text())
        used = PostProcess(
            result["threshold"], result["min_mask_size"], result["min_component_size"]
        )
        assert used == chosen.post_process
        assert result["voters"] == {"salt-net/fold-0": 1}
        assert (tmp_path / "rehearsal.csv").is_file()
        assert not (tmp_path / "submission.csv").exists()  # nothing for Kaggle


def test_ruff_finds_nothing_in_code_and_notebooks():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_ci_runs_exactly_the_test_command_of_the_readme_then_the_slow_lane(tmp_path):
    """Its lines, in a copy of the script with nothing to install or to run."""
    block = re.findall(
        r"^```\n(.*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    script = (ROOT / ".ci" / "run").read_text()
    before, after = script.split('eval "$command"\n')
    assert after.splitlines()[-1] == ".venv/bin/pytest -m slow"
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(before)
    shutil.copy(ROOT / "README.md", tmp_path)
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == block[1]
    assert done.stdout.strip().endswith("&& .venv/bin/pytest")
