"""Train a small run on one backend of Keras, or predict with the runs of several.

TensorFlow is hidden unless it is the backend, as if it were not installed.

Usage: KERAS_BACKEND=... python tests/exchange.py train FOLDER
       KERAS_BACKEND=... python tests/exchange.py predict FOLDER ...

The first writes a run below the folder, the second what the run of each folder
predicts, into <folder>/<backend>.npy.
"""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))


def system():
    """A row with every part of the decoder."""
    from helpers.batches import ResizeOrPad
    from helpers.systems import Network, Stage, System

    network = Network(
        filters=4,
        depth=2,
        dropout=0.2,
        dilations=(1, 2),
        scse=True,
        hypercolumn=(2,),
        gate=True,
    )
    return System(
        name="exchanged",
        title="Exchanged between backends",
        source="tests",
        network=network,
        stages=(Stage("bce+dice", 1, 1e-2, gate=0.1),),
        transform=ResizeOrPad(32, "resize"),
        batch_size=8,
    )


def main(task, *folders):
    backend = os.environ["KERAS_BACKEND"]
    if backend != "tensorflow":
        sys.modules["tensorflow"] = None
    from shapes import labelled

    from helpers import config, training
    from helpers.training import runs

    for folder in map(Path, folders):
        settings = config.Settings("synthetic", folder, config.PROFILES["smoke"])
        if task == "train":
            training.fit(system(), labelled(20), 0, settings, verbose=0)
        else:
            (run,) = runs.find_runs(settings.runs_dir)
            np.save(folder / f"{backend}.npy", run.predict(labelled(20).images))


if __name__ == "__main__":
    main(*sys.argv[1:])
