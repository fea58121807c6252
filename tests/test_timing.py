"""One timed step: which number format is faster, and how long training takes."""

import json
from dataclasses import replace

import keras
import pytest
import tiny
from tiny import TINY

from helpers import systems, training
from helpers.training import runs, stages, timing

eager, settings, tiles = tiny.eager, tiny.settings, tiny.tiles  # fixtures

LONG = replace(TINY, name="long", stages=(systems.Stage("bce", 100_000),))


@pytest.fixture
def clock(monkeypatch):
    """Steps take as long as it says, and are noted down when they are timed."""
    seconds, timed = {"float32": 0.5, timing.hardware.half_precision(): 0.4}, []

    def step(system, policy):
        timed.append((system.name, policy))
        return seconds[policy]

    monkeypatch.setattr(timing, "_time_step", step)
    return seconds, timed


def test_faster_format_is_chosen_and_both_times_are_printed(
    clock, tiles, settings, capsys
):
    seconds, timed = clock
    half = timing.hardware.half_precision()
    assert timing.choose_precision(LONG, tiles, settings) == half
    words = capsys.readouterr().out
    assert words == f"long: one training step takes 0.5 s in float32, 0.4 s in {half}\n"
    seconds[half] = 0.6
    other = replace(LONG, batch_size=4)
    assert timing.choose_precision(other, tiles, settings) == "float32"
    assert len(timed) == 4


def test_steps_are_timed_once_for_a_network_and_a_machine(
    clock, tiles, settings, monkeypatch
):
    _, timed = clock
    timing.choose_precision(LONG, tiles, settings)
    lovasz = replace(LONG, name="x", stages=(systems.Stage("lovasz", 200_000),))
    timing.choose_precision(lovasz, tiles, settings)
    timing.choose_precision(lovasz.with_weights("a.h5"), tiles, settings)
    assert len(timed) == 2  # one in each format
    monkeypatch.setattr(timing.platform, "node", lambda: "another")
    timing.choose_precision(LONG, tiles, settings)
    assert len(timed) == 4
    known = json.loads((settings.output_dir / "step-times.json").read_text())
    assert len(known) == 2


def test_short_run_is_not_worth_a_second_measurement(clock, tiles, settings):
    _, timed = clock
    assert timing.choose_precision(TINY, tiles, settings) == "float32"
    assert timed == [("tiny", "float32")]
    timing.choose_precision(LONG, tiles, settings)  # the same network
    assert timed[1:] == [("long", timing.hardware.half_precision())]


def test_estimate_is_one_line_and_grows_with_the_work(
    clock, tiles, settings, monkeypatch, capsys
):
    seconds = training.estimate([TINY], tiles, settings)
    assert capsys.readouterr().out == "tiny: about 00:08 on this machine\n"
    steps, validation = 32 / 8, 8 / 8
    assert seconds == pytest.approx(0.5 * TINY.epochs * (steps + validation / 3))
    fewer = replace(TINY, tiles=16)
    assert training.estimate([fewer], tiles, settings) < seconds
    capsys.readouterr()
    assert training.estimate([TINY, TINY], tiles, settings) == 2 * seconds
    assert capsys.readouterr().out.startswith("2 training runs: about ")
    monkeypatch.setattr(runs, "look_up", lambda *_: (None, None, "finished"))
    assert training.estimate([TINY], tiles, settings) == 0.0
    assert capsys.readouterr().out == "nothing to train: the runs are there\n"


@pytest.mark.parametrize("parts", [{}, {"gate": True}])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_real_step_is_timed(parts, policy, eager):
    system = replace(TINY, network=replace(TINY.network, **parts))
    assert 0 < timing._time_step(system, policy) < 60
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (stages, "build_unet"),
        (keras.Model, "compile"),
        (keras.Model, "train_on_batch"),
    ],
)
def test_timing_that_fails_leaves_the_number_format_as_it_was(where, name, monkeypatch):
    seen = []

    def fail(*_, **__):
        seen.append(keras.config.dtype_policy().name)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(KeyboardInterrupt):
        timing._time_step(TINY, "mixed_bfloat16")
    assert seen == ["float32" if name == "train_on_batch" else "mixed_bfloat16"]
    assert keras.config.dtype_policy().name == "float32"
