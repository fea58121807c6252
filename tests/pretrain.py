"""Train the geology weights: salt-net on fresh synthetic tiles, and on nothing else.

    python tests/pretrain.py [--tiles 64000] [--out helpers/weights/salt-net.safetensors]

Tiles are made by a process beside the training, a few thousand at a time, and seen
once. The same command resumes an interrupted training. Two cores, about 12 minutes.
"""

import argparse
import hashlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.augmentation import Augmentation
from helpers.batches import TileBatches
from helpers.synthetic import make_tiles

CHUNK = 3200  # tiles, one epoch of the log
SEED = 14  # the course's own synthetic tiles have others


def chunk(number):
    os.environ["OMP_NUM_THREADS"] = "1"
    tiles = make_tiles(CHUNK, [SEED, number])
    return tiles.images, tiles.masks


class Stream(TileBatches):
    """Batches of a new chunk of tiles in every epoch."""

    def __init__(self, pool, *args, **options):
        self.pool, self.waiting = pool, {}
        super().__init__(*self.fetch(0), *args, **options)

    def fetch(self, number):
        for ahead in (number, number + 1):
            if ahead not in self.waiting:
                self.waiting[ahead] = self.pool.submit(chunk, ahead)
        self.waiting = {k: v for k, v in self.waiting.items() if k >= number}
        return self.waiting[number].result()

    def start_epoch(self, epoch):
        if epoch:
            images, masks = self.fetch(epoch)
            self.images, self.masks = map(self.transform.forward, (images, masks))
        super().start_epoch(epoch)


def main():
    from helpers import systems
    from helpers.systems import Stage
    from helpers.training import stages
    from helpers.training.checkpoints import Checkpoints

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=64_000)
    parser.add_argument("--out", default="helpers/weights/salt-net.safetensors")
    parser.add_argument("--work", default="outputs/pretrain")
    args = parser.parse_args()
    epochs = args.tiles // CHUNK
    first = round(0.6 * epochs)
    muon = {"optimizer": "muon", "weight_decay": 0.01}
    system = systems.get("salt-net").with_weights("none")
    system = replace(
        system,
        stages=(
            Stage("bce+dice", first, 0.02, **muon),
            Stage("lovasz-elu", epochs - first, 0.01, warm_up=0, **muon),
        ),
        augmentation=Augmentation(
            zoom=0.25, shift=0.1, brightness=0.15, contrast=0.4, gamma=0.4
        ),
    )
    folder = Path(args.work)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        how = {"transform": system.transform, "seed": SEED}
        train = Stream(pool, augmentation=system.augmentation, **how)
        tiles = make_tiles(320, [SEED, 10**6])
        known = TileBatches(tiles.images, tiles.masks, batch_size=64, **how)
        model = stages.build_model(system, "mixed_bfloat16", SEED)
        stages.train(model, system, [train, known], Checkpoints(folder), [], 2)
    path = Path(args.out)
    path.parent.mkdir(exist_ok=True)
    arrays = {x.path: np.asarray(x, np.float16) for x in model.weights}
    save_file(arrays, path, metadata={"tiles": str(args.tiles), "seed": str(SEED)})
    print(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
