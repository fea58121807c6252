"""The weights that were learned from synthetic geology, and the model that has them."""

import shutil

import numpy as np
import pytest
import safetensors.numpy

from helpers import inference, systems, unet
from helpers.backbones import weights
from helpers.metrics import precision_per_image
from helpers.synthetic import make_tiles


@pytest.fixture(scope="module")
def model():
    return systems.load_pretrained("salt-net")


def test_file_is_small_and_says_where_it_comes_from():
    assert weights.GEOLOGY.stat().st_size <= 8_000_000
    arrays = safetensors.numpy.load_file(weights.GEOLOGY)
    for path, array in arrays.items():  # in float16 some variances were infinite
        assert array.dtype == ("float32" if "moving" in path else "float16")
        assert np.isfinite(array).all()
    card = (weights.GEOLOGY.parent / "README.md").read_text()
    assert weights.GEOLOGY_SHA256[:8] in card and "tests/pretrain.py" in card


def test_marks_the_salt_of_new_synthetic_tiles(model):
    """From 101 x 101 uint8 to probabilities; far better than saying nothing."""
    tiles = make_tiles(60, 4711)
    guess = inference.predict(model, tiles.images)
    assert guess.shape == (60, 101, 101) and guess.dtype == np.float32
    score = precision_per_image(tiles.masks, guess > 0.5).mean()
    empty = precision_per_image(tiles.masks, np.zeros_like(tiles.masks)).mean()
    assert score > empty + 0.2


def test_only_salt_net_has_them():
    with pytest.raises(ValueError, match=r"jain-vgg19 has no weights of its own"):
        systems.load_pretrained("jain-vgg19")
    with pytest.raises(ValueError, match=r"fit salt-net only"):
        unet.build_unet(weights="geology", filters=8)


def test_changed_or_missing_file_is_refused(model, monkeypatch, tmp_path):
    path = tmp_path / "salt-net.safetensors"
    monkeypatch.setattr(weights, "GEOLOGY", path)
    with pytest.raises(ValueError, match=r"salt-net.safetensors: missing"):
        weights.load_geology(model)
    shutil.copy(weights.__file__, path)
    with pytest.raises(ValueError, match=r"changed"):
        weights.load_geology(model)
