"""What the README promises: its blocks run, its files and names are there."""

import re
from collections import ChainMap
from pathlib import Path

import numpy as np
import pytest

from helpers import encoders, losses, systems
from helpers.training import plans
from helpers.unet import build_unet
from helpers.utils import model_stats

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def tables(monkeypatch):
    """The tables that the README adds to, put back afterwards."""
    for module, names in {
        encoders: ("APPLICATIONS", "SKIP_LAYERS", "STRIDES"),
        losses: ("LOSSES",),
        systems: ("SYSTEMS",),
    }.items():
        for name in names:
            copy = dict(getattr(module, name))
            monkeypatch.setattr(module, name, copy)
    names = ChainMap(encoders.SKIP_LAYERS, encoders.STRIDES)
    monkeypatch.setattr(encoders, "ENCODERS", names)


def test_encoder_loss_and_row_are_added_as_it_says(tables, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(block.strip().splitlines()) <= 22
    exec(block, {})
    encoder = encoders.build_encoder("densenet121", (64, 64, 1))
    assert [64 // x.shape[1] for x in encoder.outputs] == [2, 4, 8, 16, 32]
    assert model_stats.multiply_adds(encoder) > 0
    row = systems.get("mine").with_weights("none")
    assert row.network.encoder == encoder.name and row.name in systems.table().index
    plans.write_system(row, tmp_path / "row.json")
    assert plans.read_system(tmp_path / "row.json") == row
    model = build_unet(input_shape=(64, 64, 1), **row.network.options())
    model.compile("sgd", losses.get(row.stages[0].loss))
    rng = np.random.default_rng(0)
    tiles = rng.random((2, 64, 64, 1), np.float32)
    before = model.get_layer("logits").get_weights()[0]
    value = model.train_on_batch(tiles, (tiles > 0.5).astype("float32"))
    assert np.isfinite(value)
    predicted = model.predict(tiles, verbose=0)
    assert predicted.shape == tiles.shape and np.isfinite(predicted).all()
    assert np.abs(model.get_layer("logits").get_weights()[0] - before).max() > 0


def test_files_and_modules_that_it_names_are_there():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    named = re.findall(r"`((?:helpers|tests|notebooks)/[\w./]+)`", TEXT)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_map_of_the_house_is_complete():
    section = TEXT.split("## Map of `helpers/`")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)/?`", section))
    house = {path.stem for path in (ROOT / "helpers").glob("[a-z]*")}
    assert house <= named, house - named


def test_every_command_of_it_is_understood(capsys):
    from helpers import __main__ as main

    commands = re.findall(r"-m helpers ?([^`\n#|&]*)", TEXT)
    assert len(commands) > 4
    for command in commands:
        words = command.replace("OWNER/NAME", "a/b").split()
        main._parser().parse_args(words)
