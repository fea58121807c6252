"""The residual networks have timm's numbers."""

import json
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as to_numpy
from safetensors.numpy import save_file

from helpers.backbones import weights
from helpers.backbones.resnet import resnet

FIXTURES = Path(__file__).parent / "fixtures"
FORMULA = runpy.run_path(str(FIXTURES / "make_reference.py"))
TIMM_NAMES = json.loads((FIXTURES / "timm_names.json").read_text())
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # red, green, blue


@pytest.mark.parametrize(
    "name",
    ["resnet34", "seresnext50", pytest.param("seresnext101", marks=pytest.mark.slow)],
)
def test_every_stage_gives_timms_numbers(name, tmp_path):
    """Also at odd sizes, where each kind of padding gives other sizes."""
    path = tmp_path / f"{name}.safetensors"  # as timm publishes it, with its formula
    names = TIMM_NAMES[name]
    save_file({key: FORMULA["value"](key, names[key]) for key in names}, path)
    reference = np.load(FIXTURES / "reference.npz")
    cases = [case[1:] for case in FORMULA["CASES"] if case[0] == name]
    for stem in sorted({case[0] for case in cases}):
        inputs = keras.Input((None, None, 3))  # tiles of any size
        model = keras.Model(inputs, resnet(inputs, name, stem), name=name)
        weights.load_weights(model, path)
        for _, height, width in (case for case in cases if case[0] == stem):
            rgb = (FORMULA["tile"](height, width) - MEAN) / STD
            for stage, feature in enumerate(model(rgb.astype("float32"))):
                expected = reference[f"{name} {stem} {height}x{width} {stage}"]
                found = FORMULA["sample"](to_numpy(feature))
                error = np.abs(found - expected).max() / np.abs(expected).max()
                assert error < 1e-4, (name, stem, height, width, stage)
    path.unlink()  # up to 200 MB
