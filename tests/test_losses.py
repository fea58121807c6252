import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers import losses
from helpers.losses import DiceLoss, LovaszHinge, WeightedSum, lovasz_hinge
from helpers.metrics import mean_precision

CASES = {  # name: (logits, labels), one row an image
    "A": ([[2, -1, 0.5, -3]], [[1, 0, 0, 1]]),
    "B": (
        [[1.2, -0.7, 0.3, -2.1, 0.4, 2.5], [-1.5, 0.2, -0.4, -3, 1.1, -0.6]],
        [[1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]],
    ),
    "C": (
        [[3, 2, 1.5, 0.1, -0.2, 4], [-2, -1.2, 0.6, 0.9, -0.3, 2.2]],
        [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]],
    ),
}
VALUES = [  # loss, its value on A, B, C
    (LovaszHinge(), 2.25, 1.42, 0.829166667),
    (LovaszHinge(per_image=False), 2.25, 1.093968254, 0.685555556),
    (LovaszHinge("elu"), 3.09196986, 2.326015107, 1.592461038),
    (LovaszHinge("elu", per_image=False), 3.09196986, 1.992766006, 1.424911113),
    (LovaszHinge(symmetric=True), 2.041666667, 1.151666667, 0.97),
    (losses.get("bce"), 1.115713509, 0.526185525, 0.488825414),
    (DiceLoss(), 0.407330099, 0.410295343, 0.223047355),
    (DiceLoss(per_image=True), 0.407330099, 0.471839512, 0.252216517),
    (losses.get("focal"), 0.248018311, 0.102903008, 0.134002534),
    (losses.get("jain-mix"), 1.803456541, 1.13447213, 0.687197582),
]
GRADIENTS = {  # of LovaszHinge()
    "A": [[0, 0, 1 / 6, -1 / 2]],
    "B": [[0, -0.125, 0.075, 0, -0.1, 0], [0, 0, 0, 0, 0.5, 0]],
    "C": [
        [0, 0, 0, -1 / 12, -1 / 12, 0],
        [0, 0, -0.125, -0.125, 1 / 12, 1 / 6],
    ],
}


def case(name):
    """(labels, logits), float32 (images, 2, columns, 1)."""
    logits, labels = (np.array(part, np.float32) for part in CASES[name])
    shape = (len(logits), 2, -1, 1)
    return labels.reshape(shape), logits.reshape(shape)


@keras.saving.register_keras_serializable("test")
class FreeLogits(keras.layers.Layer):
    """A "network" that learns its logits directly, whatever comes in."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.logits = self.add_weight(shape=start.shape, name="logits")
        self.logits.assign(start)

    def call(self, inputs):
        return self.logits + 0.0 * inputs


def free_model(start, loss, optimizer):
    inputs = keras.Input(start.shape[1:], batch_size=len(start))
    model = keras.Model(inputs, FreeLogits(start)(inputs))
    model.compile(optimizer, loss)
    return model


@pytest.mark.parametrize("column", range(3), ids=CASES)
@pytest.mark.parametrize("row", VALUES, ids=lambda row: row[0].name)
def test_losses_have_their_published_values(row, column):
    loss, *values = row
    value = loss(*case(list(CASES)[column]))
    assert float(value) == pytest.approx(values[column], abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_lovasz_has_its_published_gradient(name):
    labels, logits = case(name)
    model = free_model(logits, LovaszHinge(), keras.optimizers.SGD(1.0))
    model.train_on_batch(np.zeros_like(logits), labels)
    gradient = logits - model.get_weights()[0]  # one step of length 1
    expected = np.reshape(GRADIENTS[name], logits.shape)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_lovasz_of_an_image_without_salt_is_its_single_worst_error():
    logits = np.array([[-3.0, 0.5, 0.2]], np.float32)
    value = losses.lovasz_hinge(np.zeros_like(logits), logits)
    assert float(value[0]) == pytest.approx(1.5)


def test_dice_of_two_empty_masks_costs_nothing_and_that_of_keras_costs_all():
    empty, nothing = np.zeros((2, 8, 8, 1), np.float32), np.full((2, 8, 8, 1), -20.0)
    for per_image in (True, False):
        assert float(DiceLoss(per_image)(empty, nothing)) == pytest.approx(0, abs=1e-4)
    probabilities = keras.ops.sigmoid(nothing)
    assert float(keras.losses.Dice()(empty, probabilities)) > 0.99


@pytest.mark.parametrize("logit", [-1.0, -200.0])
@pytest.mark.parametrize("per_image", [True, False])
def test_dice_without_smoothing_calls_every_prediction_of_an_empty_mask_wrong(
    per_image, logit
):
    empty, logits = np.zeros((2, 8, 8, 1)), np.full((2, 8, 8, 1), logit)
    assert float(DiceLoss(per_image, smooth=0.0)(empty, logits)) == 1.0
    half = np.concatenate([np.full((1, 8, 8, 1), 20.0), logits[:1]])
    value = DiceLoss(True, smooth=0.0)(np.where(half > 0, 1.0, 0.0), half)
    assert float(value) == pytest.approx(0.5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_no_loss_hides_nan(name):
    labels, logits = case("B")
    logits[0, 0, 0] = np.nan
    assert np.isnan(float(losses.get(name)(labels, logits)))


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_overfits_one_mask(name):
    rng = np.random.default_rng(0)
    mask = np.zeros((1, 16, 16, 1), np.float32)
    mask[0, 3:11, 5:9] = mask[0, 14, 2] = 1
    start = rng.normal(size=mask.shape).astype(np.float32)
    model = free_model(start, losses.get(name), keras.optimizers.Adam(0.1))
    steps = 300
    zeros = np.zeros((steps, *mask.shape[1:]), np.float32)
    masks = np.repeat(mask, steps, axis=0)
    model.fit(zeros, masks, batch_size=1, shuffle=False, verbose=0)
    guess = model.get_weights()[0][..., 0] > 0
    assert mean_precision(mask[..., 0], start[..., 0] > 0) < 0.5
    assert mean_precision(mask[..., 0], guess) >= 0.9


@pytest.mark.parametrize(
    "loss",
    [
        DiceLoss(per_image=True, smooth=2.0, name="mine"),
        LovaszHinge("elu", per_image=False, symmetric=True),
        WeightedSum([LovaszHinge("elu"), DiceLoss(smooth=3.0)], [0.3, 2]),
        *[losses.get(name) for name in losses.LOSSES],
    ],
    ids=lambda loss: loss.name,
)
def test_a_loss_comes_back_from_its_config(loss):
    config = json.loads(json.dumps(loss.get_config()))
    for _ in range(2):  # the config itself is not used up
        again = type(loss).from_config(config)
        assert again.get_config() == loss.get_config()
    assert float(again(*case("B"))) == float(loss(*case("B")))


IN_A_NEW_PROCESS = """
import sys
import keras, numpy as np
import helpers.losses
labels, logits = np.load(sys.argv[1])
for path in sys.argv[2:]:
    print(float(keras.models.load_model(path).loss(labels, logits)))
import helpers.metrics
for part in ("training", "panel", "data", "synthetic", "inference", "plotting"):
    assert not any(name.startswith(f"helpers.{part}") for name in sys.modules), part
"""


def test_a_model_compiled_with_any_loss_loads_in_a_new_process(tmp_path):
    """There, losses and metrics load neither training nor data."""
    np.save(tmp_path / "case.npy", case("B"))
    values, paths = [], []
    for name in losses.LOSSES:
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 1)])
        model.compile(loss=losses.get(name))
        values.append(float(model.loss(*case("B"))))
        paths.append(str(tmp_path / f"{name}.keras"))
        model.save(paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "case.npy"), *paths],
        cwd=Path(losses.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()] == pytest.approx(values)


def test_wrong_names_and_numbers_are_refused_with_the_choice():
    with pytest.raises(ValueError, match=r"'tversky'.*bce.*lovasz-elu"):
        losses.get("tversky")
    with pytest.raises(ValueError, match=r"'relu' or 'elu', not 'gelu'"):
        LovaszHinge("gelu")(*case("A"))
    with pytest.raises(ValueError, match="2 losses need as many weights"):
        WeightedSum([DiceLoss(), LovaszHinge()], [1.0])
    for weights in ([0, 0], [1, -1], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="of a positive sum, not"):
            WeightedSum([DiceLoss(), LovaszHinge()], weights)


def test_lovasz_hinge_takes_images_rows_or_one_row_of_pixels():
    labels = np.array([[1, 0, 0, 1], [0, 1, 1, 0]], "float32")
    logits = np.array([[2, -1, 0.5, -3], [0, 1, 2, -1]], "float32")
    rows = np.asarray(lovasz_hinge(labels, logits))
    images = lovasz_hinge(labels.reshape(2, 2, 2, 1), logits.reshape(2, 2, 2, 1))
    np.testing.assert_allclose(np.asarray(images), rows)
    np.testing.assert_allclose(np.asarray(lovasz_hinge(labels[0], logits[0])), rows[:1])
