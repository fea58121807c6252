"""Our layers compute what those of Keras do; preprocessing is that of the families."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from helpers.backbones.layers import BatchNorm, GroupedConv2D, to_rgb
from helpers.utils import hardware

FAMILIES = ("vgg16", "vgg19", "mobilenet", "inception_resnet_v2", "densenet", "resnet")


@pytest.mark.parametrize("family", [*FAMILIES, "resnet_v2", "efficientnet", "timm"])
def test_preprocessing_is_that_of_the_family(family):
    grey = np.random.default_rng(0).random((2, 5, 4, 1), np.float32)
    rgb = np.repeat(grey, 3, axis=-1)
    if family == "timm":  # what its configurations say
        preprocess = None
        expected = (rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    else:
        preprocess = getattr(keras.applications, family).preprocess_input
        expected = preprocess(255 * rgb)
    tile = keras.Input((5, 4, 1))
    found = keras.Model(tile, to_rgb(tile, preprocess))(grey)
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-3)


def grouped(channels=64, stride=1, dtype="float32"):
    """A grouped convolution with weights, and something to convolve."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 8, channels)).astype("float32")
    layer = GroupedConv2D(
        2 * channels,
        3,
        stride,
        "same",
        groups=32,
        dtype=dtype,
        kernel_initializer=keras.initializers.RandomNormal(seed=1, stddev=0.3),
    )
    layer.build(x.shape)
    return layer, x


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 8, 16, 48, 64, 1000])
def test_bundles_convolve_as_groups_do(channels, stride):
    layer, x = grouped(stride=stride)
    x = keras.ops.convert_to_tensor(x)
    native = to_numpy(keras.layers.Conv2D.convolution_op(layer, x, layer.kernel))
    bundled = to_numpy(layer.in_bundles(x, layer.kernel, channels))
    assert np.abs(native).max() > 1
    np.testing.assert_allclose(bundled, native, atol=1e-5)


def test_groups_see_only_their_own_channels():
    """Group 3 of 32 has the channels 6 and 7, and makes 12 to 15."""
    layer, x = grouped()
    before = to_numpy(layer(x))
    x[..., 6:8] += 1
    changed = np.any(to_numpy(layer(x)) != before, axis=(0, 1, 2))
    assert np.flatnonzero(changed).tolist() == [12, 13, 14, 15]


def test_kernel_has_the_shape_of_keras_own():
    layer, x = grouped()
    plain = keras.layers.Conv2D(128, 3, padding="same", groups=32)
    plain.build(x.shape)
    assert [w.shape for w in layer.weights] == [w.shape for w in plain.weights]


def test_accelerators_convolve_groups_natively(monkeypatch, tmp_path):
    """A model saved on a CPU gives the same numbers on an accelerator."""
    layer, x = grouped()
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    expected = to_numpy(model(x))
    monkeypatch.setattr(hardware, "accelerators", lambda: ["gpu:0"])
    monkeypatch.setattr(GroupedConv2D, "in_bundles", None)  # not called any more
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = to_numpy(loaded(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bundles_compute_in_16_bits_too():
    layer, x = grouped(dtype="mixed_bfloat16")
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    exact = layer.in_bundles(keras.ops.convert_to_tensor(x), layer.kernel, 32)
    found = to_numpy(keras.ops.cast(y, "float32"))
    np.testing.assert_allclose(found, to_numpy(exact), atol=0.05)


def after_training(layer, policy, trainable=True):
    """What a batch norm predicts after three steps on six tiles, and its weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (6, 5, 7, 4)).astype("float32")
    y = rng.normal(size=(6, 1)).astype("float32")
    keras.utils.set_random_seed(1)
    with hardware.precision(policy):
        tile = keras.Input((5, 7, 4))
        norm = layer(momentum=0.9, name="norm")
        convolved = keras.layers.Conv2D(3, 3, padding="same")(tile)
        pooled = keras.layers.GlobalMaxPooling2D()(norm(convolved))
        model = keras.Model(tile, keras.layers.Dense(1, dtype="float32")(pooled))
        norm.trainable = trainable
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    for _ in range(3):
        model.train_on_batch(x, y)
    return model.predict_on_batch(x), model.get_weights()


@pytest.mark.parametrize("trainable", [True, False])
def test_batch_norm_trains_and_predicts_as_that_of_keras(trainable):
    ours = after_training(BatchNorm, "float32", trainable)
    theirs = after_training(keras.layers.BatchNormalization, "float32", trainable)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_batch_norm_in_16_bits_is_as_near_to_32_as_that_of_keras():
    exact = after_training(BatchNorm, "float32")[0]
    ours = after_training(BatchNorm, "mixed_bfloat16")[0]
    theirs = after_training(keras.layers.BatchNormalization, "mixed_bfloat16")[0]
    assert np.abs(ours - exact).max() < 2 * np.abs(theirs - exact).max() + 1e-3
