"""A network that trains in seconds, and what tests of training share."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from shapes import labelled

from helpers import config, systems
from helpers.training import callbacks

TINY = replace(
    systems.get("salt-net").within(config.Budget(4, size=32)),
    name="tiny",
    network=systems.Network(filters=4, depth=2, dropout=0.2),
    batch_size=8,
)


@pytest.fixture(scope="module")
def eager():
    """No tracing: that takes longer than these networks' few steps."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def tiles():
    return labelled()


@pytest.fixture
def settings(tmp_path):
    return smoke(tmp_path)


def smoke(folder):
    return config.Settings("synthetic", folder, config.PROFILES["smoke"])


def interrupt_at(monkeypatch, epoch):
    """As if the machine were switched off when this epoch begins."""
    begin = callbacks.SeedEpoch.on_epoch_begin

    def off(self, number, logs=None):
        begin(self, number, logs)
        if number == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.SeedEpoch, "on_epoch_begin", off)


def at_epoch_begin(monkeypatch, action):
    """Call `action(model, epoch)` before every epoch."""
    begin = callbacks.SeedEpoch.on_epoch_begin

    def act(self, number, logs=None):
        begin(self, number, logs)
        action(self.model, number)

    monkeypatch.setattr(callbacks.SeedEpoch, "on_epoch_begin", act)


def call_all_salt(model, epoch):
    """Whatever the network learns, it calls every pixel salt: the score is constant."""
    model.get_layer("logits").bias.assign([1000.0])


def assert_same(run, whole):
    """Two training runs that ended alike, bit for bit."""
    ours, theirs = (r.history().drop(columns="seconds") for r in (run, whole))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    pairs = zip(run.model().get_weights(), whole.model().get_weights(), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
