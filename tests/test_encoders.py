"""The encoders: pyramids, preprocessing inside, and weight files that fit or not."""

import h5py
import keras
import numpy as np
import pytest

from helpers.encoders import TAPS, build_encoder, load_weights

APPLICATIONS = {
    "vgg16": keras.applications.vgg16.preprocess_input,
    "vgg19": keras.applications.vgg19.preprocess_input,
    "mobilenet": keras.applications.mobilenet.preprocess_input,
}


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
    """The whole application: the file has stages past the encoder's last tap."""
    return keras.applications.MobileNet(include_top=False, weights=None)


@pytest.mark.parametrize("name", TAPS)
def test_pyramid_is_finest_first_and_halves(name):
    features = build_encoder(name, (64, 64, 1)).outputs
    sizes = [feature.shape[1] for feature in features]
    assert sizes == ([32, 16, 8, 4, 2] if name == "mobilenet" else [64, 32, 16, 8, 4])


@pytest.mark.parametrize("name", TAPS)
def test_preprocessing_is_that_of_the_family(name):
    encoder = build_encoder(name, (32, 32, 1))
    grey = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    inside = keras.Model(encoder.input, encoder.get_layer("preprocess").output)(grey)
    expected = APPLICATIONS[name](255 * np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(inside), expected, atol=1e-3)


def test_weights_of_a_file_are_loaded(tmp_path, mobilenet):
    path = write_h5(tmp_path / "mobilenet.h5", mobilenet)
    encoder = build_encoder("mobilenet", (64, 64, 1), weights=path)
    with h5py.File(path) as file:
        stored = file["conv_pw_12"]
        kernel = next(iter(stored["conv_pw_12"].values()))[()]
    loaded = encoder.get_layer("conv_pw_12").get_weights()[0]
    np.testing.assert_array_equal(loaded, kernel)


def test_same_features_as_the_application_with_the_same_weights(tmp_path, mobilenet):
    path = write_h5(tmp_path / "mobilenet.h5", mobilenet)
    grey = np.random.default_rng(1).random((1, 64, 64, 1), np.float32)
    ours = build_encoder("mobilenet", (64, 64, 1), weights=path)(grey)[-1]
    whole = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    load_weights(whole, path)
    tap = keras.Model(whole.input, whole.get_layer(TAPS["mobilenet"][-1]).output)
    theirs = tap(2 * np.repeat(grey, 3, axis=-1) - 1)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


def test_missing_layer_is_named(tmp_path, mobilenet):
    path = write_h5(tmp_path / "part.h5", mobilenet, skip=["conv_pw_3"])
    with pytest.raises(ValueError, match=r"part\.h5: has no layer conv_pw_3"):
        build_encoder("mobilenet", (32, 32, 1), weights=path)


def test_wrong_shape_is_named_and_nothing_is_loaded(tmp_path, mobilenet):
    path = write_h5(tmp_path / "shape.h5", mobilenet, reshape=["conv_pw_3"])
    encoder = build_encoder("mobilenet", (32, 32, 1))
    before = encoder.get_layer("conv_pw_1").get_weights()[0]
    with pytest.raises(ValueError, match=r"shape\.h5: layer conv_pw_3 has shapes"):
        load_weights(encoder, path)
    np.testing.assert_array_equal(
        encoder.get_layer("conv_pw_1").get_weights()[0], before
    )


def test_truncated_file_is_named(tmp_path, mobilenet):
    path = write_h5(tmp_path / "cut.h5", mobilenet)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.h5: truncated"):
        build_encoder("mobilenet", (32, 32, 1), weights=path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.h5: no such weight file"):
        build_encoder("vgg16", (32, 32, 1), weights=tmp_path / "none.h5")


def test_imagenet_without_internet_offers_what_else_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure")  # what Keras raises

    monkeypatch.setattr(keras.applications, "VGG19", offline)
    with pytest.raises(OSError, match=r"vgg19 could not be downloaded.*weights=None"):
        build_encoder("vgg19", (32, 32, 1), weights="imagenet")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet999", {}, "unknown encoder 'resnet999'"),
        ("vgg16", {"depth": 3}, "vgg16 takes no depth"),
        ("scratch", {"weights": "imagenet"}, "no weights to load"),
    ],
)
def test_wrong_arguments_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(name, (32, 32, 1), **options)
