"""Cost and sight of networks, against numbers worked out by hand and by experiment."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.ops import convert_to_numpy as to_numpy

from helpers.encoders import build_encoder
from helpers.utils.model_stats import multiply_adds, receptive_field


def test_multiply_adds_of_layers_counted_by_hand():
    tile = keras.Input((8, 8, 2))
    x = layers.Conv2D(5, 3, 2, "same")(tile)  # 4 x 4 outputs, 3 x 3 x 2 x 5 each
    x = layers.Conv2DTranspose(3, 3, 2, "same")(x)  # 4 x 4 inputs, 3 x 3 x 5 x 3 each
    x = layers.DepthwiseConv2D(3, padding="same")(x)  # 8 x 8 outputs, 3 x 3 x 3
    x = layers.Dense(7)(layers.GlobalAveragePooling2D()(x))  # 3 x 7
    expected = 16 * 90 + 16 * 135 + 64 * 27 + 21
    assert multiply_adds(keras.Model(tile, x)) == expected


def test_multiply_adds_of_vgg16_are_those_known():
    """15.35 billion at 224 x 224 without the classifier, as commonly reported."""
    model = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(224, 224, 3)
    )
    assert multiply_adds(model) == pytest.approx(15.35e9, rel=1e-3)


def test_receptive_fields_known_from_the_literature():
    assert receptive_field(keras.applications.VGG16(False, None)) == 212  # after pool5
    assert receptive_field(build_encoder("vgg16", (32, 32, 1))) == 196  # before it
    assert receptive_field(build_encoder("resnet34", (32, 32, 1))) == 899


@pytest.mark.parametrize("depth", [1, 2])
def test_receptive_field_is_what_a_changed_pixel_reaches(depth):
    """All weights positive: no change can cancel."""
    size = 64
    encoder = build_encoder("scratch", (size, size, 1), filters=2, depth=depth)
    for layer in encoder.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(np.ones(layer.kernel.shape))
    deepest = keras.Model(encoder.input, encoder.outputs[-1])
    middle = size >> depth + 1
    flat = np.ones((1, size, size, 1), np.float32)
    rows = []
    for row in range(size):
        tile = flat.copy()
        tile[0, row] += 1
        change = (
            to_numpy(deepest(tile))[0, middle, middle]
            - to_numpy(deepest(flat))[0, middle, middle]
        )
        rows.append(np.abs(change).max() > 1e-4)
    assert sum(rows) == receptive_field(encoder)
