"""The encoders: pyramids, preprocessing inside, names that last, options."""

import functools

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from helpers import encoders
from helpers.encoders import APPLICATIONS, ENCODERS, STRIDES, build_encoder, stride_of
from helpers.utils import hardware

FAMILIES = {
    "vgg16": keras.applications.vgg16,
    "vgg19": keras.applications.vgg19,
    "mobilenet": keras.applications.mobilenet,
    "inceptionresnetv2": keras.applications.inception_resnet_v2,
}
WAYS = [(name, stem) for name in ENCODERS for stem in STRIDES[name]]
WAYS.remove(("seresnext101", 1))  # as seresnext50, at three times the price
WAYS.remove(("inceptionresnetv2", 1))  # see its own test


@functools.cache
def built(name, stem):
    """An encoder for tiles of 64 x 128, built once."""
    options = {"stem_stride": stem} if len(STRIDES[name]) > 1 else {}
    return build_encoder(name, (64, 128, 1), **options)


@pytest.mark.parametrize(("name", "stem"), WAYS)
def test_pyramid_is_finest_first_and_halves(name, stem):
    features = built(name, stem).outputs
    count = 4 if name.startswith(("resnet", "seresnext")) and stem == 1 else 5
    expected = [(64 // s, 128 // s) for s in (stem << n for n in range(count))]
    assert [feature.shape[1:3] for feature in features] == expected


@pytest.mark.parametrize(("name", "stem"), WAYS)
def test_stride_is_that_of_the_coarsest_features(name, stem):
    encoder = built(name, stem)
    options = {"stem_stride": stem} if len(STRIDES[name]) > 1 else {}
    assert 64 // encoder.outputs[-1].shape[1] == stride_of(name, **options)
    if stem == next(iter(STRIDES[name])):
        assert stride_of(name) == stride_of(name, **options)


def test_stride_of_scratch_depends_on_its_depth():
    assert stride_of("scratch", depth=3, stem_stride=2, filters=4) == 16


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "scratch"])
def test_preprocessing_is_that_of_the_family(name):
    encoder = built(name, next(iter(STRIDES[name])))
    grey = np.random.default_rng(0).random((2, 64, 128, 1), np.float32)
    inside = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(grey)
    rgb = np.repeat(grey, 3, axis=-1)
    if name in APPLICATIONS:
        expected = FAMILIES[name].preprocess_input(255 * rgb)
    else:  # what timm's configurations say
        expected = (rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(to_numpy(inside), expected, atol=1e-3)


ADDED = {
    "ResNet50": (keras.applications.resnet, "conv5_block3_out"),
    "ResNet50V2": (keras.applications.resnet_v2, "post_relu"),
    "MobileNetV2": (keras.applications.mobilenet_v2, "out_relu"),
    "EfficientNetB0": (keras.applications.efficientnet, "top_activation"),
    "DenseNet121": (keras.applications.densenet, "relu"),
}


def add(monkeypatch, build="MobileNet", taps=(), strides=()):
    """An encoder more, "added", in the tables that get an entry."""
    tables = {"APPLICATIONS": build, "SKIP_LAYERS": taps, "STRIDES": strides}
    for table, entry in tables.items():
        if entry:
            monkeypatch.setitem(getattr(encoders, table), "added", entry)


@pytest.mark.parametrize("build", ADDED)
def test_preprocessing_of_an_added_family_is_its_own(monkeypatch, build):
    family, last = ADDED[build]
    add(monkeypatch, build, [last], {2: 32})
    encoder = build_encoder("added", (32, 32, 1))
    grey = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    inside = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(grey)
    expected = family.preprocess_input(255 * np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(to_numpy(inside), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            ("DenseNet122", ["relu"], {2: 32}),
            "no network 'DenseNet122'; .* DenseNet121",
        ),
        (("densenet", ["relu"], {2: 32}), "no network 'densenet'; .*DenseNet"),
        ((None, ["relu"], {2: 32}), "no entry in APPLICATIONS"),
        (("MobileNet", (), {2: 32}), "no entry in SKIP_LAYERS"),
        (("MobileNet", ["conv_pw_1_relu"]), "no entry in STRIDES"),
        (("MobileNet", ["conv_pw_1_relu"], {2: 2, 1: 1}), "so one entry in STRIDES"),
        (
            ("MobileNet", ["conv_pw1_relu"], {2: 2}),
            "MobileNet has no layer 'conv_pw1_relu'; did you .*conv_pw_1_relu",
        ),
        (("MobileNet", ["x"], {2: 2}), r"no layer 'x'; its summary\(\) lists"),
        (
            ("MobileNet", ["conv_pw_1_relu", "conv_pw_5_relu"], {2: 8}),
            r"not halve.* conv_pw_1_relu \(32, 64\), conv_pw_5_relu \(8, 16\)",
        ),
        (("MobileNet", ["conv_pw_3_relu", "conv_pw_1_relu"], {2: 2}), "not halve"),
        (
            ("MobileNet", ["conv_pw_1_relu", "conv_pw_3_relu"], {2: 32}),
            "STRIDES says 32, SKIP_LAYERS end at 4",
        ),
        (
            ("Xception", ["block1_conv2_act", "block3_sepconv1_act"], {2: 4}),
            "not halve.*29",  # its convolutions lose the border
        ),
    ],
)
def test_wrong_entries_are_named(monkeypatch, entries, message):
    add(monkeypatch, *entries)
    where = r"the encoder added in helpers/encoders\.py: .*"
    with pytest.raises(ValueError, match=where + message) as caught:
        build_encoder("added", (64, 128, 1))
    assert len(str(caught.value)) < 250  # a few names, not all layers


@pytest.mark.parametrize(
    ("name", "stage", "prefix"),
    [
        ("vgg16", 0, "block1_"),
        ("resnet34", 0, "stem_"),
        ("seresnext50", 1, "layer1_"),
        ("seresnext101", 4, "layer4_2_"),
        ("inceptionresnetv2", 0, "stem_"),
        ("inceptionresnetv2", 1, "stem_"),
        ("inceptionresnetv2", 2, "block35_10_"),
        ("inceptionresnetv2", 3, "block17_20_"),
    ],
)
def test_stages_end_in_layers_of_their_name(name, stage, prefix):
    """A prefix says which layers not to train."""
    encoder = built(name, next(iter(STRIDES[name])))
    feature = encoder.outputs[stage]
    (last,) = (layer.name for layer in encoder.layers if layer.output is feature)
    assert last.startswith(prefix)


def test_inception_layers_have_lasting_names_and_paddings():
    """Keras would number them anew, and sizes would not halve."""
    with hardware.precision("mixed_bfloat16"):
        again = build_encoder("inceptionresnetv2", (32, 64, 1), stem_stride=1)
    assert [x.shape[1:3] for x in again.outputs] == [
        (32 >> n, 64 >> n) for n in range(5)
    ]
    assert stride_of("inceptionresnetv2", stem_stride=1) == 16
    assert {"same"} == {getattr(layer, "padding", "same") for layer in again.layers}
    assert again.get_layer("block8_10_conv").compute_dtype == "bfloat16"
    names = [layer.name for layer in again.layers]
    assert names == [layer.name for layer in built("inceptionresnetv2", 2).layers]
    assert len(set(names)) == len(names)
    prefixes = (
        "tile",
        "grey",
        "preprocess",
        "stem_stride",
        "mixed",
        "block",
        "conv_7b",
    )
    assert all(name.startswith(prefixes) for name in names)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["scratch", "mobilenet", "resnet34", "seresnext50"])
def test_sixteen_bits_give_nearly_the_same_features(name, policy):
    with hardware.precision(policy):
        encoder = build_encoder(name, (64, 128, 1))
    exact = built(name, next(iter(STRIDES[name])))
    encoder.set_weights(exact.get_weights())
    grey = np.random.default_rng(0).random((1, 64, 128, 1), np.float32)
    found, expected = encoder(grey)[1], exact(grey)[1]
    assert keras.backend.standardize_dtype(found.dtype) == policy.removeprefix("mixed_")
    error = to_numpy(keras.ops.cast(found, "float32") - expected).std()
    assert error < 0.05 * to_numpy(expected).std()


def test_encoder_can_be_saved_and_loaded(tmp_path):
    encoder = built("inceptionresnetv2", 2)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    assert [layer.name for layer in loaded.layers] == [x.name for x in encoder.layers]
    assert [x.shape for x in loaded.outputs] == [x.shape for x in encoder.outputs]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet999", {}, "unknown encoder 'resnet999'"),
        ("vgg16", {"depth": 3}, "vgg16 takes no depth"),
        ("vgg16", {"stem_stride": 1}, "vgg16 takes no stem"),
        ("seresnext50", {"stem_stride": 4}, "stem is 1 or 2, not 4"),
        ("scratch", {"stem_stride": 3}, "stem is 1, 2 or 4, not 3"),
        ("scratch", {"width": 3}, "scratch takes no width"),
        (
            "scratch",
            {"weights": "imagenet"},
            r"no weights to load.*leave --weights away",
        ),
    ],
)
def test_wrong_arguments_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, (32, 32, 1), **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32, 3), r"grey tiles, \(height, width, 1\), not \(32, 32, 3\)"),
        ((32, 32), "grey tiles"),
        ((48, 64, 1), "divisible by 32; pad or resize"),
        ((64, 101, 1), "divisible by 32; pad or resize"),
    ],
)
def test_tiles_of_wrong_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        build_encoder("resnet34", shape)


def test_smaller_strides_take_smaller_tiles():
    assert (
        build_encoder("seresnext50", (40, 8, 1), stem_stride=1).outputs[-1].shape[2]
        == 1
    )


@pytest.mark.parametrize("name", ["scratch", "mobilenet", "inceptionresnetv2"])
def test_averages_of_batch_norm_follow_a_short_training(name):
    """With Keras' 0.99 the averages are still those of the start after 100 steps."""
    norms = [
        layer
        for layer in built(name, 2).layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms and {layer.momentum for layer in norms} == {0.9}
