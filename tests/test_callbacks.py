"""What the training loop is told: rates, names, the order of an epoch."""

import keras
import numpy as np

from helpers.augmentation import Augmentation
from helpers.callbacks import CosineRate, EpochOrder, ShortNames
from helpers.pipeline import Frame, TileBatches


def test_scores_of_several_outputs_get_their_plain_names():
    logs = {"loss": 1, "mask_loss": 2, "gate_loss": 5}
    logs |= {"mask_score": 3, "val_mask_iou": 4}
    ShortNames().on_epoch_end(0, logs)
    plain = {"loss": 1, "mask_loss": 2, "score": 3, "val_iou": 4, "gate_loss": 5}
    assert logs == plain


def test_cosine_warms_up_and_ends_near_zero():
    rate = CosineRate(peak=1.0, first=0, epochs=10, steps=100)
    assert rate.rate(0, 0) < 0.02
    assert rate.rate(1, 1) > 0.9
    assert rate.rate(9, 99) < 1e-3
    second = CosineRate(peak=1.0, first=10, epochs=10, steps=100)
    assert second.rate(10, 0) == 1.0  # no second warm-up


def test_keras_fetches_each_batch_of_each_epoch_in_that_epoch():
    """Whatever it prefetches: epoch 1 must not see the order of epoch 0."""
    fetched = []
    images = np.random.default_rng(0).integers(0, 256, (40, 101, 101), np.uint8)

    class Recorded(TileBatches):
        def __getitem__(self, index):
            fetched.append((self.epoch, index))
            return super().__getitem__(index)

    frame = Frame(32, "resize")
    batches = Recorded(images, images > 99, frame, 8, Augmentation(), seed=1)
    model = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Conv2D(1, 1)])
    model.compile("sgd", "mse")
    order = EpochOrder(batches)
    model.fit(batches, epochs=3, shuffle=False, verbose=0, callbacks=[order])
    expected = [(epoch, batch) for epoch in range(3) for batch in range(5)]
    assert set(fetched) == set(expected)
    for batch in expected:  # Keras peeks before the first epoch, to learn the shapes
        assert fetched.count(batch) == 1 or batch[0] == 0
