"""The encoders: pyramids, preprocessing inside, names that last, options."""

import functools

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy

from helpers import encoders
from helpers.encoders import (
    APPLICATIONS,
    ENCODERS,
    SKIP_LAYERS,
    STRIDES,
    build_encoder,
    stride_of,
)
from helpers.utils import hardware

BIG = ("inceptionresnetv2", "seresnext101")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


WAYS = [
    (name, stem)
    for name in ENCODERS
    for stem in STRIDES.get(name, [min(SKIP_LAYERS.get(name, {"": 1}).values())])
    if (name, stem) != ("seresnext101", 1)  # as seresnext50, at three times the price
]
WAYS = [slow(*way) if way[0] in BIG else way for way in WAYS]


@functools.cache
def built(name, stem=None):
    """An encoder for tiles of 64 x 128, built once."""
    options = {"stem_stride": stem} if name in STRIDES and stem else {}
    return build_encoder(name, (64, 128, 1), **options)


@pytest.mark.parametrize(("name", "stem"), WAYS)
def test_pyramid_is_finest_first_and_ends_at_the_stride(name, stem):
    encoder = built(name, stem)
    count = 4 if name.startswith(("resnet", "seresnext")) and stem == 1 else 5
    expected = [(64 // s, 128 // s) for s in (stem << n for n in range(count))]
    assert [feature.shape[1:3] for feature in encoder.outputs] == expected
    options = {"stem_stride": stem} if name in STRIDES else {}
    assert 64 // encoder.outputs[-1].shape[1] == stride_of(name, **options)


@pytest.mark.parametrize("name", STRIDES)
def test_default_stem_stride_is_the_first_in_its_table(name):
    first = next(iter(STRIDES[name]))
    assert stride_of(name) == stride_of(name, stem_stride=first)


def test_stride_of_scratch_depends_on_its_depth():
    assert stride_of("scratch", depth=3, stem_stride=2, filters=4) == 16


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("vgg16", "vgg16"),
        ("mobilenet", "mobilenet"),
        ("resnet34", None),
        ("vgg19", "vgg19"),
        ("seresnext50", None),
        slow("inceptionresnetv2", "inception_resnet_v2"),
    ],
)
def test_preprocessing_is_inside(name, family):
    encoder = built(name)
    grey = np.random.default_rng(0).random((2, 64, 128, 1), np.float32)
    inside = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(grey)
    rgb = np.repeat(grey, 3, axis=-1)
    if family:
        expected = getattr(keras.applications, family).preprocess_input(255 * rgb)
    else:  # what timm's configurations say
        expected = (rgb - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(to_numpy(inside), expected, atol=1e-3)


def add(monkeypatch, application=None, skip_layers=None):
    """One more encoder, "added", in the tables that get an entry."""
    if application:
        monkeypatch.setitem(encoders.APPLICATIONS, "added", application)
    if skip_layers:
        monkeypatch.setitem(encoders.SKIP_LAYERS, "added", skip_layers)


@pytest.mark.parametrize(
    ("application", "family", "last"),
    [
        ("MobileNetV2", "mobilenet_v2", "out_relu"),
        slow("ResNet50", "resnet", "conv5_block3_out"),
        slow("ResNet50V2", "resnet_v2", "post_relu"),
        slow("EfficientNetB0", "efficientnet", "top_activation"),
        slow("DenseNet121", "densenet", "relu"),
    ],
)
def test_an_added_application_is_an_encoder(monkeypatch, application, family, last):
    add(monkeypatch, application, {last: 32})
    assert "added" in ENCODERS and stride_of("added") == 32
    encoder = build_encoder("added", (32, 32, 1))
    grey = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    inside = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(grey)
    preprocess = getattr(keras.applications, family).preprocess_input
    expected = preprocess(255 * np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(to_numpy(inside), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("application", "skip_layers", "message"),
    [
        ("MobileNet", None, "unknown encoder 'added'"),
        (None, {"relu": 32}, r"APPLICATIONS\['added'\] = None: no such network"),
        ("DenseNet122", {"relu": 32}, "'DenseNet122': no such network in keras"),
        ("densenet", {"relu": 32}, "'densenet': no such network"),  # a module
        ("MobileNet", {"conv_pw1": 2}, "SKIP_LAYERS.*mobilenet.*{'conv_pw1': None}"),
        ("MobileNet", {"conv_pw_1_relu": 2, "conv_pw_5_relu": 8}, "must double"),
        ("MobileNet", {"conv_pw_3_relu": 4, "conv_pw_1_relu": 2}, "must double"),
        ("MobileNet", {"conv_pw_1_relu": 4, "conv_pw_3_relu": 8}, r"1_relu': 2\.0"),
        slow(  # its convolutions lose the border
            "Xception",
            {"block1_conv2_act": 2, "block3_sepconv1_act": 4},
            r"block1_conv2_act': 2\.2",
        ),
    ],
)
def test_wrong_entries_are_named(monkeypatch, application, skip_layers, message):
    add(monkeypatch, application, skip_layers)
    with pytest.raises(ValueError, match=message) as caught:
        build_encoder("added", (64, 128, 1))
    assert len(str(caught.value)) < 250  # a few names, not all layers


@pytest.mark.parametrize(
    ("name", "stage", "prefix"),
    [
        ("vgg16", 0, "block1_"),
        ("resnet34", 0, "stem_"),
        ("seresnext50", 1, "layer1_"),
        slow("seresnext101", 4, "layer4_2_"),
        slow("inceptionresnetv2", 2, "block35_10_"),
        slow("inceptionresnetv2", 3, "block17_20_"),
    ],
)
def test_stages_end_in_layers_of_their_name(name, stage, prefix):
    """A prefix says which layers are frozen."""
    encoder = built(name)
    feature = encoder.outputs[stage]
    (last,) = (layer.name for layer in encoder.layers if layer.output is feature)
    assert last.startswith(prefix)


@pytest.mark.slow
def test_inception_layers_have_lasting_names_and_paddings():
    """Keras numbers the layers anew each time, and its sizes do not halve."""
    with hardware.precision("mixed_bfloat16"):
        again = build_encoder("inceptionresnetv2", (32, 64, 1), stem_stride=1)
    assert [x.shape[1:3] for x in again.outputs] == [
        (32 >> n, 64 >> n) for n in range(5)
    ]
    assert stride_of("inceptionresnetv2", stem_stride=1) == 16
    assert {"same"} == {getattr(layer, "padding", "same") for layer in again.layers}
    assert again.get_layer("block8_10_conv").compute_dtype == "bfloat16"
    names = [layer.name for layer in again.layers]
    assert names == [layer.name for layer in built("inceptionresnetv2").layers]
    assert len(set(names)) == len(names)
    assert names[3:6] == ["conv2d_1", "batch_normalization_1", "activation_1"]


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("scratch", "mixed_bfloat16"),
        ("scratch", "mixed_float16"),
        ("resnet34", "mixed_bfloat16"),
        slow("resnet34", "mixed_float16"),
        slow("mobilenet", "mixed_bfloat16"),
        slow("mobilenet", "mixed_float16"),
        slow("seresnext50", "mixed_bfloat16"),
        slow("seresnext50", "mixed_float16"),
    ],
)
def test_sixteen_bits_give_nearly_the_same_features(name, policy):
    with hardware.precision(policy):
        encoder = build_encoder(name, (64, 128, 1))
    exact = built(name)
    encoder.set_weights(exact.get_weights())
    grey = np.random.default_rng(0).random((1, 64, 128, 1), np.float32)
    found, expected = encoder(grey)[1], exact(grey)[1]
    assert keras.backend.standardize_dtype(found.dtype) == policy.removeprefix("mixed_")
    error = to_numpy(keras.ops.cast(found, "float32") - expected).std()
    assert error < 0.05 * to_numpy(expected).std()


@pytest.mark.parametrize("name", ["resnet34", slow("inceptionresnetv2")])
def test_encoder_can_be_saved_and_loaded(name, tmp_path):
    encoder = built(name)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    assert [layer.name for layer in loaded.layers] == [x.name for x in encoder.layers]
    assert [x.shape for x in loaded.outputs] == [x.shape for x in encoder.outputs]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet999", {}, "unknown encoder 'resnet999'"),
        ("vgg16", {"depth": 3}, "vgg16 takes no depth"),
        ("vgg16", {"stem_stride": 1}, "vgg16 takes no stem_stride"),
        ("seresnext50", {"stem_stride": 4}, r"stem_stride is one of \[1, 2\], not 4"),
        ("scratch", {"stem_stride": 3}, r"stem_stride is one of \[1, 2, 4\], not 3"),
        ("scratch", {"width": 3}, "scratch takes no width"),
        (
            "scratch",
            {"weights": "imagenet"},
            "no weights to load: weights=None, no --weights",
        ),
    ],
)
def test_wrong_arguments_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, (32, 32, 1), **options)


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32), (48, 64, 1), (64, 101, 1)])
def test_tiles_of_wrong_shape_are_refused(shape):
    message = r"resnet34 takes tiles of \(height, width, 1\), divisible by 32, not \("
    with pytest.raises(ValueError, match=message):
        build_encoder("resnet34", shape)


def test_smaller_strides_take_smaller_tiles():
    encoder = build_encoder("resnet34", (40, 8, 1), stem_stride=1)
    assert encoder.outputs[-1].shape[2] == 1


@pytest.mark.parametrize("name", ["scratch", "mobilenet", slow("inceptionresnetv2")])
def test_moving_averages_follow_a_short_training_run(name):
    """With Keras' 0.99 they are still those of the start after 100 steps."""
    norms = [
        layer
        for layer in built(name).layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert norms and {layer.momentum for layer in norms} == {0.9}


def test_every_application_has_skip_layers():
    assert APPLICATIONS.keys() == SKIP_LAYERS.keys()
