"""Notebooks in fresh kernels: faults, progress of training runs, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from helpers.utils import execute

V4 = nbformat.v4
ROOT = Path(__file__).parents[1]


def book(path, *cells):
    cells = [V4.new_markdown_cell("# A notebook"), *map(V4.new_code_cell, cells)]
    nbformat.write(V4.new_notebook(cells=cells), path)
    return path


def test_failing_cell_stops_with_notebook_cell_and_error(tmp_path):
    bad = book(tmp_path / "01_bad.ipynb", "x = 1", "x / 0", "print('not reached')")
    later = book(tmp_path / "02_later.ipynb", "1")
    fault = execute.run([bad, later], tmp_path / "executed", tmp_path / "runs")
    assert fault.startswith("01_bad.ipynb failed in cell 2 (`x / 0`)")
    assert "ZeroDivisionError" in fault
    executed = nbformat.read(tmp_path / "executed" / "01_bad.ipynb", as_version=4)
    assert executed.cells[2].outputs and not executed.cells[3].outputs
    assert not (tmp_path / "executed" / "02_later.ipynb").exists()
    assert not nbformat.read(bad, as_version=4).cells[2].outputs


def test_bad_data_in_a_notebook_is_reported_in_one_line(tmp_path):
    cells = "class DataError(Exception): ...", "raise DataError('a.csv: gone')"
    path = book(tmp_path / "01_bad.ipynb", *cells)
    fault = execute.run([path], tmp_path / "executed", tmp_path / "runs")
    assert fault.splitlines()[1:] == ["a.csv: gone"]


def test_widgets_leave_their_picture_and_nothing_else():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    cells = [V4.new_code_cell(""), V4.new_code_cell("")]
    cells[0].outputs = [V4.new_output("display_data", {**widget, "image/png": "aGk="})]
    cells[1].outputs = [V4.new_output("display_data", dict(widget))]
    kept = V4.new_notebook(cells=cells)
    execute._keep_images(kept)
    assert kept.cells[0].outputs[0].data == {"image/png": "aGk="}
    assert kept.cells[1].outputs == []


def training(runs_dir, epochs):
    """Files of a run that is being trained, for two stages of 3 and 5 epochs."""
    folder = runs_dir / "tiny" / "fold-0"
    (folder / "work").mkdir(parents=True)
    plan = {"system": {"stages": [{"epochs": 3}, {"epochs": 5}]}}
    (folder / "work" / "plan.json").write_text(json.dumps(plan))
    if epochs:
        rows = [f"{n},0.5,{0.1 * n:.2f},4.0\n" for n in range(epochs)]
        (folder / "history.csv").write_text(
            "epoch,loss,val_score,seconds\n" + "".join(rows)
        )
    return folder


def test_progress_of_a_training_run_is_epoch_score_and_time_left(tmp_path):
    assert execute.training_progress(tmp_path, 0) == ("", None)
    training(tmp_path, 3)
    text, left = execute.training_progress(tmp_path, 0)
    assert text == "tiny: epoch 4 of 8, score 0.200, 00:20 left; " and left == 20
    assert execute.training_progress(tmp_path, time.time() + 9) == ("", None)


def test_first_epoch_has_no_time_yet(tmp_path):
    training(tmp_path, 0)
    assert execute.training_progress(tmp_path, 0) == ("tiny: epoch 1 of 8; ", None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("work/plan.json", text) for text in ("", '{"system": {"st', "[]", "{}")],
        *[("history.csv", text) for text in ("epoch,seconds\n0,", "a\n\x00", "a\n1")],
    ],
)
def test_files_that_are_cut_off_stop_no_notebook(name, content, tmp_path):
    folder = training(tmp_path, epochs=2)
    (folder / name).write_text(content)
    assert execute.training_progress(tmp_path, 0)[1] is None


def test_missing_kernel_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "KERNEL", "no-such-kernel")
    path = book(tmp_path / "01_a.ipynb", "1")
    fault = execute.run([path], tmp_path / "executed", tmp_path)
    assert "01_a.ipynb failed" in fault and "no-such-kernel" in fault


def test_time_left_follows_the_pace_of_this_machine(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = execute._Clock([270.0, 60.0, 30.0])
    assert clock.left() == 360  # as recorded
    now[0] += 100
    assert clock.left() == 260
    assert clock.left(600.0) == 690  # a training run knows better
    now[0] += 2 * 300 - 30 - 100  # the first cell took twice as long as recorded
    clock.next_cell()
    assert clock.left() == 180
    now[0] += 500  # longer than expected
    assert clock.left() == 60


@pytest.mark.parametrize(
    ("number", "seconds"),
    [(signal.SIGINT, None), (signal.SIGTERM, None), (signal.SIGINT, 0.2)],
    ids=["SIGINT", "SIGTERM", "while the kernel starts"],
)
def test_interrupt_ends_in_one_line(number, seconds, tmp_path):
    path = book(
        tmp_path / "01_a.ipynb", f"open(r'{tmp_path}/there', 'w')", "import time",
        "time.sleep(60)",
    )  # fmt: skip
    program = (
        "import sys; from helpers import __main__ as main, data;"
        f"from pathlib import Path; main.NOTEBOOKS = [Path(r'{path}')];"
        "data.check_parts = lambda settings: None; sys.exit(main.main(sys.argv[1:]))"
    )
    arguments = ["--output-dir", tmp_path, "--data-dir", "synthetic"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # which a job in the background ignores, and would pass on:
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    if seconds is None:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1)
    else:
        text = ""
        while "01_a" not in text:
            text += process.stderr.read(1)
        time.sleep(seconds)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == (
        "stopped in 01_a.ipynb: run the same command to resume"
    )
    assert "Traceback" not in err and "Error" not in err
