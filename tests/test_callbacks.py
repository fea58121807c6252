"""Callbacks: learning rates, names in the logs, the order of an epoch."""

import keras
import numpy as np

from helpers.augmentation import Augmentation
from helpers.batches import ResizeOrPad, TileBatches
from helpers.systems import Stage
from helpers.training.callbacks import (
    CosineRate,
    EpochLogs,
    SeedEpoch,
)


def test_scores_of_several_outputs_get_their_plain_names():
    logs = {"loss": 1, "mask_loss": 2, "gate_loss": 5}
    logs |= {"mask_score": 3, "val_mask_iou": 4}
    renamed = EpochLogs(0)
    renamed.on_epoch_begin(0)
    renamed.on_epoch_end(0, logs)
    assert logs.pop("seconds") == 0.0
    plain = {"loss": 1, "mask_loss": 2, "score": 3, "val_iou": 4, "gate_loss": 5}
    assert logs == plain


def test_cosine_warms_up_and_ends_near_zero():
    rate = CosineRate(Stage("bce", 10, 1.0), first=0, steps=100)
    assert rate.rate(0, 0) < 0.02
    assert rate.rate(1, 1) > 0.9
    assert rate.rate(9, 99) < 1e-3
    second = CosineRate(Stage("bce", 10, 1.0, warm_up=0), first=10, steps=100)
    assert second.rate(10, 0) == 1.0


def test_time_left_is_estimated_from_the_last_epoch(capsys):
    loud, quiet = EpochLogs(epochs=5), EpochLogs(epochs=0)
    for logs in (loud, quiet):
        logs.on_epoch_begin(2)
        logs.start -= 20
        logs.on_epoch_end(2, {})
    assert capsys.readouterr().out == ""
    loud.on_epoch_begin(3), quiet.on_epoch_begin(3)
    assert capsys.readouterr().out == "00:40 to go\n"


def test_keras_fetches_each_batch_of_each_epoch_in_that_epoch():
    """Whatever it prefetches: epoch 1 must not see the order of epoch 0."""
    fetched = []
    images = np.random.default_rng(0).integers(0, 256, (40, 101, 101), np.uint8)

    class Recorded(TileBatches):
        def __getitem__(self, index):
            fetched.append((self.epoch, index))
            return super().__getitem__(index)

    transform = ResizeOrPad(32, "resize")
    batches = Recorded(images, images > 99, transform, 8, Augmentation(), seed=1)
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Conv2D(1, 1)])
    model.compile("sgd", "mse")
    order = SeedEpoch(batches)
    model.fit(batches, epochs=3, shuffle=False, verbose=0, callbacks=[order])
    expected = [(epoch, batch) for epoch in range(3) for batch in range(5)]
    assert set(fetched) == set(expected)
    for batch in expected:  # Keras peeks before the first epoch, to learn the shapes
        assert fetched.count(batch) == 1 or batch[0] == 0
