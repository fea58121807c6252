"""The networks: shapes, gradients, and learning."""

import keras
import numpy as np
import pytest

from helpers import losses, synthetic
from helpers.encoders import ENCODERS, conv_block
from helpers.unet import build_unet


@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits_have_the_size_of_the_tile(encoder):
    model = build_unet(encoder, (64, 64, 1))
    assert model.input_shape == (None, 64, 64, 1)
    assert model.output_shape == (None, 64, 64, 1)
    logits = model(np.zeros((2, 64, 64, 1), "float32"))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


def test_logits_stay_float32_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("encoder0_0_conv1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("options", [{}, {"residual": True, "stem": 2, "blocks": 2}])
def test_scratch_network_has_the_width_and_depth_asked_for(options):
    model = build_unet(input_shape=(64, 64, 1), filters=4, depth=3, **options)
    kernels = [layer.kernel.shape for layer in model.layers if "conv2" in layer.name]
    assert {kernel[-1] for kernel in kernels} == {4, 8, 16, 32}
    assert model.output_shape == (None, 64, 64, 1)


def test_second_convolution_of_a_block_reads_the_first():
    """Not the block's input, as in a published solution."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, conv_block(inputs, 5, name="block"))
    assert model.get_layer("block_conv2").kernel.shape[2] == 5


def test_transposed_convolutions_grow_the_picture():
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2)
    grown = [x for x in model.layers if isinstance(x, keras.layers.Conv2DTranspose)]
    assert len(grown) == 2


def test_every_weight_learns():
    """One step changes each trainable weight: nothing hangs loose."""
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, residual=True)
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0), losses.get("bce"), jit_compile=False)
    rng = np.random.default_rng(0)
    tile = rng.random((4, 32, 32, 1), np.float32)
    model.train_on_batch(tile, (tile > 0.7).astype("float32"))
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path


def test_frozen_blocks_do_not_learn():
    model = build_unet("vgg16", (32, 32, 1), frozen=("block1", "block2"))
    frozen = {layer.name for layer in model.layers if not layer.trainable}
    assert {"block1_conv1", "block2_conv2"} <= frozen
    assert not any(name.startswith("block3") for name in frozen)


def test_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="divisible by 16"):
        build_unet(input_shape=(101, 101, 1), filters=4, depth=4)


@pytest.mark.parametrize("size", [8, 17, 31])
def test_sizes_that_only_seem_to_fit_are_refused(size):
    with pytest.raises(ValueError, match="divisible by 16"):
        build_unet(input_shape=(size, size, 1), filters=4, depth=4)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_any_stem_gives_logits_at_full_size(stem):
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, stem=stem)
    assert model.output_shape == (None, 32, 32, 1)


def test_odd_stem_and_unknown_frozen_layers_are_refused():
    with pytest.raises(ValueError, match="stem is 1, 2 or 4, not 3"):
        build_unet(input_shape=(48, 48, 1), stem=3)
    with pytest.raises(ValueError, match="no layer of vgg16 starts with 'blok1'"):
        build_unet("vgg16", (32, 32, 1), frozen=("blok1",))


def test_wrong_decoder_width_is_refused():
    with pytest.raises(ValueError, match="needs 2 numbers"):
        build_unet(input_shape=(32, 32, 1), filters=4, depth=2, decoder_filters=[8])


def test_three_classes_are_learned():
    """Sediment, salt and water, with Keras' own loss and metric."""
    tiles = synthetic.make_tiles(40, seed=3)
    crops = slice(0, 96, 3)
    images = tiles.images[:, crops, crops, None].astype("float32") / 255
    labels = tiles.labels[:, crops, crops]
    model = build_unet(input_shape=(32, 32, 1), filters=8, depth=2, classes=3)
    assert model.output_shape[-1] == 3
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
        jit_compile=False,
    )
    history = model.fit(images, labels, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["iou"][-1] > history["iou"][0]
