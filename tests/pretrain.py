"""Train the geology weights: salt-net on fresh synthetic tiles, and on nothing else.

    python tests/pretrain.py [--tiles 64000]
    python tests/pretrain.py --score data/tgs

Tiles are made by a process beside the training, a few thousand at a time, and seen
once. The same command resumes an interrupted training. Two cores, about 20 minutes;
the weights that the course comes with took seven times as many steps, on a GPU, by
`tests/benchmarks/search.py --geology`.
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

from helpers.synthetic import make_tiles  # loads no Keras: the maker stays small

CHUNK = 3200  # tiles, one epoch of the log
SEED = 14  # the course's own synthetic tiles have others


def chunk(number):
    os.environ["OMP_NUM_THREADS"] = "1"
    tiles = make_tiles(CHUNK, [SEED, number])
    return tiles.images, tiles.masks


def stream(pool, **options):
    """Batches of a new chunk of tiles in every epoch: a `TileBatches`."""
    from helpers.batches import TileBatches

    class Stream(TileBatches):
        def __init__(self, **options):
            self.waiting = {}
            super().__init__(*self.fetch(0), **options)

        def fetch(self, number):
            for ahead in (number, number + 1):
                if ahead not in self.waiting:
                    self.waiting[ahead] = pool.submit(chunk, ahead)
            self.waiting = {k: v for k, v in self.waiting.items() if k >= number}
            return self.waiting[number].result()

        def start_epoch(self, epoch):
            if epoch:
                images, masks = self.fetch(epoch)
                self.images, self.masks = map(self.transform.forward, (images, masks))
            super().start_epoch(epoch)

    return Stream(**options)


def score(folder):
    """Print the score on labelled tiles that nothing was trained on.

    Threshold and minimum mask size are chosen on one half of the tiles, and reported
    on the other; no section has tiles in both.
    """
    from helpers import data, inference, systems
    from helpers.config import Settings
    from helpers.metrics import precision_per_image

    settings = Settings.from_env({"SALT_DATA_DIR": folder})
    tiles = data.load_tiles(settings)
    late = data.make_folds(tiles, 2, settings.seed) == 1
    guess = inference.predict(systems.load_pretrained(), tiles.images)
    grid, scores = inference.score_grid(tiles.masks[~late], guess[~late])
    best = grid[int(scores.mean(axis=1).argmax())]
    print(f"chosen on {len(scores[0])} tiles: {best}, {scores.mean(axis=1).max():.4f}")
    plain = precision_per_image(tiles.masks, guess > 0.5)
    chosen = precision_per_image(tiles.masks[late], best(guess[late]))
    for name, values in (
        (f"at 0.5, all {len(plain)} tiles", plain),
        (f"at 0.5, the {late.sum()} reported tiles", plain[late]),
        (f"as chosen, the {late.sum()} reported tiles", chosen),
    ):
        low, high = inference.bootstrap_ci(values)
        print(f"{name}: {values.mean():.4f} ({low:.3f} to {high:.3f})")


def main():
    from helpers import systems
    from helpers.augmentation import Augmentation
    from helpers.batches import TileBatches
    from helpers.systems import Stage
    from helpers.training import stages
    from helpers.training.checkpoints import Checkpoints

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=64_000)
    parser.add_argument("--out", default="helpers/weights/salt-net.safetensors")
    parser.add_argument("--work", default="outputs/pretrain")
    parser.add_argument("--score", help="folder of labelled tiles: only score on them")
    args = parser.parse_args()
    if args.score:
        return score(args.score)
    epochs = args.tiles // CHUNK
    first = round(0.6 * epochs)
    muon = {"optimizer": "muon", "weight_decay": 0.05}
    system = systems.get("salt-net").with_weights("none")
    system = replace(
        system,
        network=replace(system.network, dropout=0.1),
        stages=(
            Stage("bce+dice", first, 0.02, **muon),
            Stage("lovasz-elu", epochs - first, 0.01, warm_up=0, **muon),
        ),
        augmentation=Augmentation(
            zoom=0.6, shift=0.1, brightness=0.15, contrast=0.4, gamma=0.4
        ),
    )
    folder = Path(args.work)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        how = {"transform": system.transform, "seed": SEED}
        train = stream(pool, augmentation=system.augmentation, **how)
        tiles = make_tiles(320, [SEED, 10**6])
        known = TileBatches(tiles.images, tiles.masks, batch_size=64, **how)
        model = stages.build_model(system, "mixed_bfloat16", SEED)
        stages.train(model, system, [train, known], Checkpoints(folder), [], 2)
    path = Path(args.out)
    path.parent.mkdir(exist_ok=True)
    arrays = {  # float16 ends at 65,504; variances of some feature maps are beyond
        x.path: np.asarray(x, np.float32 if "moving" in x.path else np.float16)
        for x in model.weights
    }
    save_file(arrays, path, metadata={"tiles": str(args.tiles), "seed": str(SEED)})
    print(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
