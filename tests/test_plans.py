"""What identifies a training run: a change of it must not pass unnoticed."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from tiny import TINY, smoke

from helpers import data, encoders, losses, systems
from helpers.training import plans

FACTOR = 1.0
TILES = data.Tiles(np.array(["a"]), np.zeros((1, 101, 101), "u1"), None, np.array([9]))


def closure(alpha):
    def loss(y_true, y_pred):
        return alpha * ops.mean((y_true - y_pred) ** 2)

    return loss


def with_global(y_true, y_pred):
    return FACTOR * ops.mean(y_true - y_pred)


class Bare(keras.losses.Loss):
    """A loss without `get_config`, which Keras gives a new name each time."""

    power = 2

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def call(self, y_true, y_pred):
        return self.alpha * ops.mean((y_true - y_pred) ** self.power)


class Full(Bare):
    def get_config(self):
        return super().get_config() | {"alpha": self.alpha}


def described(loss, monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "mine", lambda: loss)
    return plans._describe("mine")


@pytest.mark.parametrize(
    "make",
    [
        closure,
        Bare,
        Full,
        lambda alpha: losses.WeightedSum([losses.DiceLoss(), Bare(alpha)], [1, 1]),
        lambda alpha: Bare(np.full(3, alpha)),
        lambda alpha: Bare(ops.full((3,), alpha)),
        lambda alpha: Bare({"weights": [1, alpha]}),
        lambda alpha: partial(closure(1), sample_weight=alpha),
        lambda alpha: Bare(closure(alpha)).call,
        lambda alpha: lambda y_true, y_pred: closure(alpha)(y_true, y_pred),
    ],
)
def test_changed_parameter_of_a_loss_of_ones_own_is_noticed(make, monkeypatch):
    one, same, other = (described(make(alpha), monkeypatch) for alpha in (1, 1, 2))
    assert one == same != other


def test_changed_code_globals_and_class_attributes_are_noticed(monkeypatch):
    before = described(with_global, monkeypatch), described(Bare(1), monkeypatch)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    monkeypatch.setattr(Bare, "power", 4)
    after = described(with_global, monkeypatch), described(Bare(1), monkeypatch)
    assert before[0] != after[0] and before[1] != after[1]
    monkeypatch.setattr(Bare, "call", lambda self, y_true, y_pred: 0 * y_pred)
    assert described(Bare(1), monkeypatch) != after[1]


def test_what_cannot_be_compared_is_refused_by_name(monkeypatch):
    message = (
        r"loss 'mine': a change of it .*: write a keras.losses.Loss with get_config"
    )
    with pytest.raises(ValueError, match=message):
        described(closure(alpha=(x for x in "")), monkeypatch)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_of_the_course_are_described_by_keras(name):
    assert plans._describe(name) == keras.losses.serialize(losses.get(name))


def test_description_is_the_same_in_another_process():
    program = (
        "from helpers.utils.hardware import load_keras; load_keras()\n"
        "import test_plans as t\nfrom helpers import losses\n"
        "losses.LOSSES['mine'] = lambda: t.Bare(t.closure(3))\n"
        "print(t.plans._describe('mine'))"
    )
    tests = Path(__file__).parent
    run = partial(subprocess.run, [sys.executable, "-c", program], check=True)
    path = {"PYTHONPATH": f"{tests}:{tests.parent}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    said = {run(capture_output=True, env=path | {"PYTHONHASHSEED": seed}).stdout
            for seed in "12"}  # fmt: skip
    assert len(said) == 1 and len(said.pop().strip()) == 8


def test_changed_weight_file_and_skip_layers_are_noticed(tmp_path, monkeypatch):
    file, settings = tmp_path / "weights.h5", smoke(tmp_path)
    row = replace(TINY, network=systems.Network("vgg16", weights=str(file)))
    file.write_bytes(b"one")
    before = plans.make_plan(row, TILES, 0, settings)
    assert before == plans.make_plan(row, TILES, 0, settings)
    file.write_bytes(b"two")
    after = plans.make_plan(row, TILES, 0, settings)
    assert before.pop("weights") != after.pop("weights") and before == after
    monkeypatch.setitem(encoders.SKIP_LAYERS, "vgg16", {"block1_conv1": 1})
    assert plans.make_plan(row, TILES, 0, settings) != after
