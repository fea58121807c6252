"""Trials of recipes for salt-net on an accelerator, as a table: `search.csv`.

    KERAS_BACKEND=jax python tests/benchmarks/search.py trials.json --data-dir ../tgs

A trial is a dictionary of changes to `TRIAL`; every trial has the same folds and tiles.
Network and losses are those of `helpers`. The loop is written for speed alone: tiles
stay on the accelerator, are augmented there, and 50 steps are one compiled call. A line
of JSON per trial has the score of the fold that was left out (flips averaged, threshold
0.5) and of each of its tiles, for paired intervals. Needs optax.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

from helpers import data, losses, systems
from helpers.batches import ResizeOrPad
from helpers.config import Settings
from helpers.metrics import precision_per_image
from helpers.unet import build_unet

TRIAL = {
    "name": "base",
    "fold": 0,  # left out
    "seed": 0,
    "network": {},  # changes
    "losses": ("bce+dice", "lovasz-elu"),
    "split": 0.6,  # fraction of the steps with the first loss
    "steps": 2400,
    "batch": 32,
    "rate": 1e-3,  # of the first loss; half of it for the second; a cosine each
    "warm_up": 100,
    "optimizer": "adam",  # or "muon"
    "decay": 0.0,  # decoupled, of kernels
    "zoom": 0.1,
    "shift": 6.0,  # pixels
    "crop": 0.0,  # half of the tiles are cropped, to a side of 1 - crop or more
    "brightness": 0.08,
    "contrast": 0.1,
    "gamma": 0.1,
}
CHUNK = 50  # steps
NUMBERS = ("zoom", "shift", "crop", "brightness", "contrast", "gamma", "decay")
FRAME = ResizeOrPad()


def sample(key, images, masks, a):
    """Augment uint8 (n, 101, 101), masks 0 or 255, to float32 (n, 128, 128, 1) each."""
    n, tile = len(images), images.shape[1]
    keys = iter(jax.random.split(key, 12))

    def uniform(low=-1.0):
        return jax.random.uniform(next(keys), (n, 1, 1), minval=low)

    side = 1 - a["crop"] * uniform(0) * (uniform(0) < 0.5)
    scale = side / (1 + a["zoom"] * uniform())
    mirror = jnp.where(uniform(0) < 0.5, -1.0, 1.0)
    center = (tile - 1) / 2
    place = jnp.arange(FRAME.size) - FRAME.inside.start - center
    room, shift = (1 - side) * tile / 2, a["shift"]
    x = scale * mirror * place[None, None, :] + room * uniform() + shift * uniform()
    y = scale * place[None, :, None] + room * uniform() + shift * uniform()
    u, v = jnp.broadcast_arrays(*(abs(z + center) % (2 * tile - 2) for z in (x, y)))
    u, v = (jnp.minimum(z, 2 * tile - 2 - z) for z in (u, v))  # mirrored at the border
    u0, v0 = (jnp.clip(z.astype(int), 0, tile - 2) for z in (u, v))
    fu, fv, row = u - u0, v - v0, jnp.arange(n)[:, None, None]

    def bilinear(z):
        z = z.astype(jnp.float32)
        top = z[row, v0, u0] * (1 - fu) + z[row, v0, u0 + 1] * fu
        low = z[row, v0 + 1, u0] * (1 - fu) + z[row, v0 + 1, u0 + 1] * fu
        return top * (1 - fv) + low * fv

    image, mask = bilinear(images) / 255, bilinear(masks) > 127.5
    image = jnp.clip(image, 1e-4, 1) ** ((1 + a["gamma"]) ** uniform())
    image = (image - 0.5) * (1 + a["contrast"] * uniform()) + 0.5
    image = jnp.clip(image + a["brightness"] * uniform(), 0, 1)
    return image[..., None], mask[..., None].astype(jnp.float32)


def muon(beta=0.95):
    """As `helpers.training.muon`, for optax; the learning rate is applied later."""

    def orthogonal(g):
        x = g.reshape(-1, g.shape[-1])
        rows, columns = x.shape
        x = x.T if rows > columns else x
        x = x / (jnp.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if rows > columns else x
        return x.reshape(g.shape) * max(1, rows / columns) ** 0.5

    def update(gradients, state, params=None):
        state = jax.tree.map(lambda m, g: beta * m + g, state, gradients)
        steps = jax.tree.map(lambda m, g: -orthogonal(g + beta * m), state, gradients)
        return steps, state

    def label(params):
        return ["kernel" if x.ndim == 4 else "other" for x in params]

    start = partial(jax.tree.map, jnp.zeros_like)
    kernels = optax.GradientTransformation(start, update)
    return optax.multi_transform({"kernel": kernels, "other": optax.adam(0.1)}, label)


def rates(t):
    """Number of steps with the first loss, and the learning rate of every step."""
    first = round(t["split"] * t["steps"])
    parts = ((first, t["rate"]), (t["steps"] - first, t["rate"] / 2))
    curves = [r * (1 + np.cos(np.pi * np.arange(n) / max(n, 1))) / 2 for n, r in parts]
    rise = np.minimum((np.arange(t["steps"]) + 1) / t["warm_up"], 1)
    return first, (rise * np.concatenate(curves)).astype(np.float32)


def run(t, tiles, folds):
    """Train one trial, and score it: dict."""
    keras.utils.set_random_seed(t["seed"])
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = replace(systems.get("salt-net").with_weights("none").network)
    model = build_unet(**{**network.options(), **t["network"]})
    known, held = tiles.take(folds != t["fold"]), tiles.take(folds == t["fold"])
    first, rate = rates(t)
    early, late = map(losses.get, t["losses"])
    tx = muon() if t["optimizer"] == "muon" else optax.adam(1.0)
    fixed = {
        "images": jnp.asarray(known.images),
        "masks": jnp.asarray(255 * known.masks.astype(np.uint8)),
        "a": {name: jnp.float32(t[name]) for name in NUMBERS},
    }

    def objective(params, state, x, y, number):
        logits, state = model.stateless_call(params, state, x, training=True)
        logits = logits["mask"] if isinstance(logits, dict) else logits
        return jax.lax.cond(number < first, early, late, y, logits), state

    def step(fixed, carry, inputs):
        params, state, optimizer, number = carry
        chosen, key, rate = inputs
        x, y = sample(key, *(fixed[k][chosen] for k in ("images", "masks")), fixed["a"])
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, state), gradients = gradient(params, state, x, y, number)
        updates, optimizer = tx.update(gradients, optimizer, params)
        decay = rate * fixed["a"]["decay"]
        params = [
            p - decay * p * (p.ndim == 4) + rate * u
            for p, u in zip(params, updates, strict=True)
        ]
        return (params, state, optimizer, number + 1), loss

    @partial(jax.jit, donate_argnums=0)
    def chunk(carry, fixed, order, key, rate):
        inputs = order, jax.random.split(key, CHUNK), rate
        return jax.lax.scan(partial(step, fixed), carry, inputs)

    @jax.jit
    def predict(params, state, x):
        logits, _ = model.stateless_call(params, state, x, training=False)
        logits = logits["mask"] if isinstance(logits, dict) else logits
        return jax.nn.sigmoid(logits[..., 0].astype(jnp.float32))

    params = [v.value for v in model.trainable_variables]
    state = [v.value for v in model.non_trainable_variables]
    carry = jax.tree.map(jnp.array, (params, state, tx.init(params), 0))
    rng, key = np.random.default_rng(t["seed"]), jax.random.key(t["seed"], impl="rbg")
    queue, size, curve, start = np.zeros(0, int), CHUNK * t["batch"], [], time.time()
    for done in range(0, t["steps"], CHUNK):
        while len(queue) < size:
            queue = np.concatenate([queue, rng.permutation(len(known))])
        order, queue = queue[:size].reshape(CHUNK, -1), queue[size:]
        now, part = jax.random.fold_in(key, done), rate[done : done + CHUNK]
        carry, values = chunk(carry, fixed, order, now, part)
        curve.append(round(float(values.mean()), 4))
    guess = []
    for start_at in range(0, len(held), 128):
        x = FRAME.forward(held.images[start_at : start_at + 128])[..., None] / 255
        both = [predict(*carry[:2], x), predict(*carry[:2], x[:, :, ::-1])[:, :, ::-1]]
        guess.append(FRAME.inverse(np.mean(both, axis=0)))
    scores = precision_per_image(held.masks, np.concatenate(guess) > 0.5)
    return {
        "trial": t,
        "score": round(float(scores.mean()), 4),
        "seconds": round(time.time() - start, 1),
        "curve": curve,
        "tiles": scores.round(1).tolist(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", help="a list of dictionaries in JSON")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--out", default="outputs/search.jsonl")
    args = parser.parse_args()
    settings = Settings.from_env({"SALT_DATA_DIR": args.data_dir})
    tiles = data.load_tiles(settings)
    folds = data.make_folds(tiles, seed=settings.seed)
    for changes in json.loads(Path(args.trials).read_text()):
        row = run(TRIAL | changes, tiles, folds)
        print(changes, row["score"], row["seconds"], flush=True)
        with Path(args.out).open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
