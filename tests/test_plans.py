"""What identifies a training run: a change of it must not pass unnoticed."""

from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from tiny import TINY, smoke

from helpers import data, encoders, losses, systems
from helpers.training import plans

TILES = data.Tiles(np.array(["a"]), np.zeros((1, 101, 101), "u1"), None, np.array([9]))


def closure(alpha):
    def loss(y_true, y_pred):
        return alpha * ops.mean((y_true - y_pred) ** 2)

    return loss


class Bare(keras.losses.Loss):
    """A loss without `get_config`, which Keras gives a new name each time."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha

    def call(self, y_true, y_pred):
        return self.alpha * ops.mean((y_true - y_pred) ** 2)


class Full(Bare):
    def get_config(self):
        return super().get_config() | {"alpha": self.alpha}


class Heir(Full):
    """May have more values than `get_config` tells."""


@pytest.mark.parametrize(
    "make",
    [
        Full,
        lambda alpha: Full(np.full(3, alpha)),
        lambda alpha: losses.WeightedSum([losses.DiceLoss(), Full(alpha)], [1, 1]),
        lambda alpha: losses.WeightedSum([losses.DiceLoss(), Full(1)], [1, alpha]),
    ],
)
def test_changed_parameter_of_a_loss_of_ones_own_is_noticed(make):
    one, same, other = (plans._describe(make(alpha)) for alpha in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (closure(1), "loss"),
        (Bare(1), "Bare"),
        (Heir(1), "Heir"),
        (partial(closure(1), sample_weight=1), "partial"),
        (Bare(1).call, "call"),
        (losses.WeightedSum([losses.DiceLoss(), Bare(1)], [1, 1]), "Bare"),
        (losses.WeightedSum([closure(1)], [1]), "loss"),
    ],
)
def test_loss_whose_values_cannot_be_compared_is_refused_by_name(
    loss, name, monkeypatch, tmp_path
):
    monkeypatch.setitem(losses.LOSSES, "mine", lambda: loss)
    row = replace(TINY, stages=(systems.Stage("mine", 1),))
    remedy = "would not be noticed: write a keras.losses.Loss with get_config"
    with pytest.raises(ValueError, match=f"a change of the loss {name} {remedy}"):
        plans.make_plan(row, TILES, 0, smoke(tmp_path))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_of_the_course_are_described_by_keras(name):
    loss = losses.get(name)
    assert plans._describe(loss) == keras.losses.serialize(loss)


def test_changed_weight_file_and_skip_layers_are_noticed(tmp_path, monkeypatch):
    file, settings = tmp_path / "weights.h5", smoke(tmp_path)
    row = replace(TINY, network=systems.Network("vgg16", weights=str(file)))
    file.write_bytes(b"one")
    before = plans.make_plan(row, TILES, 0, settings)
    assert before == plans.make_plan(row, TILES, 0, settings)
    file.write_bytes(b"two")
    after = plans.make_plan(row, TILES, 0, settings)
    assert before != after
    monkeypatch.setitem(encoders.SKIP_LAYERS, "vgg16", {"block1_conv1": 1})
    assert plans.make_plan(row, TILES, 0, settings) != after


@pytest.mark.parametrize("name", ["geology", "imagenet", "photographs"])
def test_name_of_weights_is_not_read_as_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"one")
    row = TINY.with_weights(name)
    plan = plans.make_plan(row, TILES, 0, smoke(tmp_path))
    (tmp_path / name).write_bytes(b"two")
    assert plan == plans.make_plan(row, TILES, 0, smoke(tmp_path))
