"""The networks: shapes, gradients, and learning."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from helpers import losses, synthetic
from helpers.encoders import ENCODERS, conv_block
from helpers.unet import aspp, build_unet, scse_block
from helpers.utils import hardware

BIG = ("inceptionresnetv2", "seresnext101")


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in BIG else name
        for name in ENCODERS
    ],
)
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


@pytest.mark.parametrize(
    "options", [{}, {"residual": True, "stem_stride": 2, "blocks": 2}]
)
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


@pytest.mark.parametrize(("upsampling", "count"), [("transpose", 2), ("bilinear", 0)])
def test_transposed_convolutions_are_used_where_asked_for(upsampling, count):
    model = build_unet(
        input_shape=(32, 32, 1), filters=4, depth=2, upsampling=upsampling
    )
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(keras.layers.Conv2DTranspose) == count
    assert kinds.count(keras.layers.UpSampling2D) == 2 - count


def test_every_weight_learns():
    """One step changes each trainable weight: nothing hangs loose."""
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, residual=True)
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0), losses.get("bce"), run_eagerly=True)
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


@pytest.mark.parametrize("shape", [(101, 101, 1), (32, 31, 1), (4, 8, 1)])
def test_tiles_that_cannot_be_halved_often_enough_are_refused(shape):
    with pytest.raises(ValueError, match=r"divisible by 8, not .*: resize"):
        build_unet(input_shape=shape, filters=4, depth=3)


@pytest.mark.parametrize("shape", [(36, 32, 1), (32, 36, 1)])
def test_center_block_halves_once_more(shape):
    with pytest.raises(ValueError, match=r"center_block cannot halve .*: resize"):
        build_unet(input_shape=shape, filters=4, depth=2, center_block=8)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_any_stem_stride_gives_logits_at_full_size(stem):
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, stem_stride=stem)
    assert model.output_shape == (None, 32, 32, 1)


def test_last_upsampling_covers_every_pixel_equally_often():
    """With an even kernel size: nothing after it could smooth a checkerboard."""
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, stem_stride=2)
    assert model.get_layer("to_32").kernel.shape[:2] == (4, 4)


def test_odd_stem_and_unknown_frozen_layers_are_refused():
    with pytest.raises(ValueError, match=r"stem_stride is one of \[1, 2, 4\], not 3"):
        build_unet(input_shape=(48, 48, 1), stem_stride=3)
    with pytest.raises(ValueError, match="no layer of vgg16 starts with 'blok1'"):
        build_unet("vgg16", (32, 32, 1), frozen=("blok1",))


def test_wrong_decoder_width_is_refused():
    with pytest.raises(ValueError, match="needs 2 numbers"):
        build_unet(input_shape=(32, 32, 1), filters=4, depth=2, decoder_filters=[8])


def test_three_classes_are_learned():
    """Sediment, salt and water, with Keras' own loss and metric."""
    tiles = synthetic.make_tiles(24, seed=3)
    crops = slice(0, 96, 3)
    images = tiles.images[:, crops, crops, None].astype("float32") / 255
    labels = tiles.labels[:, crops, crops]
    model = build_unet(input_shape=(32, 32, 1), filters=8, depth=2, classes=3)
    assert model.output_shape[-1] == 3
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
        jit_compile=hardware.jit_compile(),
    )
    history = model.fit(images, labels, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["iou"][-1] > history["iou"][0]


PARTS = [
    {"upsampling": "bilinear"},
    {"center_block": 12},
    {"dilations": (1, 3, 5, 7)},
    {"scse": True},
    {"hypercolumn": (2, 4)},
    {"gate": True},
    {
        "upsampling": "bilinear",
        "center_block": 12,
        "dilations": (1, 2),
        "scse": True,
        "hypercolumn": (1, 2, 4, 8),
        "gate": True,
    },
]


def by_name(logits):
    logits = logits if isinstance(logits, dict) else {"mask": logits}
    return {name: to_numpy(values) for name, values in logits.items()}


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: "+".join(parts))
def test_every_part_can_be_switched_on_learns_and_is_saved(parts, tmp_path):
    """Each weight moves in one step, and a saved network says the same."""
    keras.utils.set_random_seed(1)
    model = build_unet(input_shape=(32, 32, 1), filters=8, depth=2, **parts)
    tile = np.random.default_rng(0).random((4, 32, 32, 1), np.float32)
    tile[2:] *= 0.5  # two tiles without salt
    mask = (tile > 0.7).astype("float32")
    single = not isinstance(model.output, dict)
    target = dict.fromkeys(["mask"] if single else model.output, mask)
    if "gate" in target:
        target["gate"] = mask.max(axis=(1, 2))
    before = [weight.numpy().copy() for weight in model.trainable_weights]
    loss = {name: losses.get("bce") for name in target}
    model.compile(
        keras.optimizers.Adam(1e-2),
        loss["mask"] if single else loss,
        run_eagerly=True,
    )
    model.train_on_batch(tile, target["mask"] if single else target)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.path
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    ours, theirs = by_name(model(tile)), by_name(again(tile))
    for name in ours:
        assert ours[name].shape == ((4, 1) if name == "gate" else tile.shape)
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)


def test_scse_adds_what_two_gates_let_through():
    inputs = keras.Input((4, 4, 6))
    model = keras.Model(inputs, scse_block(inputs, name="gates"))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype("float32")
    weights = {layer.name[6:]: layer.get_weights() for layer in model.layers}

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    squeeze, bias = weights["channel_fc1"]
    channel, channel_bias = weights["channel_fc2"]
    hidden = np.maximum(x.mean(axis=(1, 2)) @ squeeze[0, 0] + bias, 0)
    which = sigmoid(hidden @ channel[0, 0] + channel_bias)[:, None, None]
    pixel, pixel_bias = weights["pixel"]
    where = sigmoid(x @ pixel[0, 0] + pixel_bias)
    np.testing.assert_allclose(to_numpy(model(x)), x * which + x * where, atol=1e-5)


def test_closed_gate_leaves_the_bias_alone():
    model = build_unet(input_shape=(32, 32, 1), filters=4, depth=2, gate=True)
    model.get_layer("gate").set_weights([np.zeros((64, 1)), np.array([-50.0])])
    model.get_layer("logits").bias.assign([-2.0])
    mask = model(np.random.default_rng(0).random((1, 32, 32, 1), np.float32))["mask"]
    np.testing.assert_allclose(to_numpy(mask), -2.0, atol=1e-5)


def test_dilated_branch_sees_as_far_as_it_should():
    inputs = keras.Input((15, 15, 1))
    model = keras.Model(inputs, aspp(inputs, 4, (1, 3, 5, 7)))
    far = keras.Model(inputs, model.get_layer("aspp_7").output)
    tile = np.zeros((1, 15, 15, 1), np.float32)
    tile[0, 0, 0] = 1
    seen = np.argwhere(np.abs(to_numpy(far(tile))[0, ..., 0]) > 0)
    np.testing.assert_array_equal(seen, [[0, 0], [0, 7], [7, 0], [7, 7]])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"upsampling": "linear"}, "is 'transpose' or 'bilinear', not 'linear'"),
        ({"hypercolumn": (3,)}, "hypercolumn: no stride 3"),
    ],
)
def test_parts_that_do_not_exist_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        build_unet(input_shape=(32, 32, 1), filters=4, depth=2, **parts)
