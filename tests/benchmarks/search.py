"""Trials of networks and recipes on an accelerator: tiles, augmentation and steps on it.

    KERAS_BACKEND=jax python tests/benchmarks/search.py trials.json --data tiles.npz

A trial is a dictionary of changes to `TRIAL`. Networks and losses are those of
`helpers`; the loop is written for speed alone: a whole chunk of steps is one compiled
call. Each trial appends one line of JSON to `--out`: score of the fold that was left
out (flips averaged, threshold 0.5), and the score of every tile, for paired intervals.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

TRIAL = {
    "name": "base",
    "fold": 0,  # left out; -1 trains on all tiles and scores nothing
    "seed": 0,
    "net": {"filters": 16, "depth": 4, "blocks": 2, "stem_stride": 2, "residual": True},
    "loss": ("bce+dice", "lovasz-elu"),
    "split": 0.6,  # fraction of the steps with the first loss
    "steps": 2400,
    "batch": 32,
    "rate": 1e-3,
    "rate2": None,  # of the second loss; by default half of `rate`
    "cycles": 1,  # cosine cycles of the second loss
    "warm_up": 100,
    "optimizer": "adam",  # or "adamw", "muon", "nadam", "sgd"
    "decay": 1e-4,  # of weights: adamw, muon
    "clip": 0.0,
    "ema": 0.0,
    "flip": 0.5,
    "zoom": 0.1,
    "shift": 6.0,  # pixels
    "crop": 0.0,  # additional zoom into the tile: side >= 1 - crop, for half the tiles
    "brightness": 0.08,
    "contrast": 0.1,
    "gamma": 0.1,
    "noise": 0.0,
    "stretch": 0.0,  # zoom of height against width
    "rotate": 0.0,  # degrees
    "pad": 0,  # random position of the tile in the padded one, +- pixels
    "aux": 0.0,  # weight of the coarser masks, with deep supervision
    "gate": 0.0,  # weight of the gate's cross-entropy
    "size": 128,
    "data": "real",  # or "synthetic"
    "init": None,  # npz of weights to start from
    "init_rate": 1.0,
    "labels": None,  # number of training tiles
    "pseudo": None,  # npz with test tiles' probabilities
    "pseudo_from": 0.5,  # fraction of the steps after which they join
    "save": None,
    "policy": "mixed_bfloat16",
    "tta": True,
    "wait": None,  # file that must be there before the training begins
    "deadline": None,  # seconds after $BEGUN at which it ends; in place of `steps`
    "leader": None,  # flag file: the first process compiles, others read its cache
    "count": None,  # repeat tiles up to this number: equal shapes are compiled once
}


def load_tiles(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def sample(key, images, masks, t, a):
    """Augment (n, 101, 101) uint8 tiles to (n, size, size, 1) float32 on the device."""
    import jax
    import jax.numpy as jnp

    n, tile = len(images), images.shape[1]
    keys = iter(jax.random.split(key, 40))
    size, resize = t
    t = a

    def uniform(low=-1.0, high=1.0, shape=(n,)):
        return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

    scale = 1.0 / (1.0 + t["zoom"] * uniform())
    side = 1.0 - t["crop"] * uniform(0, 1) * (uniform(0, 1) < 0.5)
    room = (1.0 - side) * tile / 2
    cx, cy = room * uniform(), room * uniform()
    stretch = jnp.exp(t["stretch"] * uniform())
    angle = jnp.deg2rad(t["rotate"]) * uniform()
    sx, sy = t["shift"] * uniform(), t["shift"] * uniform()
    px, py = (jnp.round(t["pad"] * uniform()) for _ in "xy")
    mirror = jnp.where(uniform(0, 1) < t["flip"], -1.0, 1.0)
    place = jnp.arange(size) - (size - 1) / 2 if resize else (
        jnp.arange(size) - (size - tile) // 2 - (tile - 1) / 2
    )
    unit = tile / size if resize else 1.0
    x = (place[None, None, :] * unit - px[:, None, None]) * mirror[:, None, None]
    y = place[None, :, None] * unit - py[:, None, None]
    s = (scale * side)[:, None, None]
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    u = s * stretch[:, None, None] * (cos * x - sin * y)
    v = s / stretch[:, None, None] * (sin * x + cos * y)
    u = u + (cx + sx)[:, None, None] + (tile - 1) / 2
    v = v + (cy + sy)[:, None, None] + (tile - 1) / 2

    def mirrored(z):
        z = jnp.abs(z) % (2 * (tile - 1))
        return jnp.minimum(z, 2 * (tile - 1) - z)

    u, v = jnp.broadcast_arrays(mirrored(u), mirrored(v))
    u0 = jnp.clip(jnp.floor(u), 0, tile - 2).astype(int)
    v0 = jnp.clip(jnp.floor(v), 0, tile - 2).astype(int)
    fu, fv = u - u0, v - v0
    row = jnp.arange(n)[:, None, None]

    def bilinear(z):
        z = z.astype(jnp.float32)
        top = z[row, v0, u0] * (1 - fu) + z[row, v0, u0 + 1] * fu
        low = z[row, v0 + 1, u0] * (1 - fu) + z[row, v0 + 1, u0 + 1] * fu
        return top * (1 - fv) + low * fv

    image, mask = bilinear(images) / 255.0, bilinear(masks)
    mask = (mask > 127.5).astype(jnp.float32)
    wide = (slice(None), None, None)
    image = jnp.clip(image, 1e-4, 1) ** ((1 + t["gamma"]) ** uniform())[wide]
    image = (image - 0.5) * (1 + t["contrast"] * uniform())[wide] + 0.5
    image = image + t["brightness"] * uniform()[wide]
    level = t["noise"] * uniform(0, 1)[wide]
    image = image + level * jax.random.normal(next(keys), image.shape)
    return jnp.clip(image, 0, 1)[..., None], mask[..., None]


def optimizer(t):
    import optax

    schedule = 1.0
    name = t["optimizer"]
    if name == "muon":
        tx = muon()
    elif name == "sgd":
        tx = optax.sgd(schedule, momentum=0.9, nesterov=True)
    elif name == "adamw":
        tx = optax.adam(schedule)
    else:
        tx = {"adam": optax.adam, "nadam": optax.nadam}[name](schedule)
    return optax.chain(optax.clip_by_global_norm(t["clip"]), tx) if t["clip"] else tx


def muon(beta=0.95):
    """Muon on kernels flattened to (h w in, out), Adam at a tenth on the rest."""
    import jax
    import jax.numpy as jnp
    import optax

    def orthogonal(g):
        flat = g.reshape(-1, g.shape[-1])
        turn = flat.shape[0] > flat.shape[1]
        x = (flat.T if turn else flat).astype(jnp.float32)
        x = x / (jnp.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if turn else x
        return (x * max(1, flat.shape[0] / flat.shape[1]) ** 0.5).reshape(g.shape)

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        state = jax.tree.map(lambda m, g: beta * m + g, state, grads)
        steps = jax.tree.map(lambda m, g: orthogonal(g + beta * m), state, grads)
        return steps, state

    kernels = optax.chain(optax.GradientTransformation(init, update), optax.scale(-1.0))
    rest = optax.adam(0.1)
    label = lambda params: ["k" if p.ndim == 4 else "r" for p in params]  # noqa: E731
    return optax.multi_transform({"k": kernels, "r": rest}, label)


def rates(t):
    """The learning rate of every step."""
    first = round(t["split"] * t["steps"])
    second = t["steps"] - first
    rate2 = t["rate2"] if t["rate2"] is not None else t["rate"] / 2

    def cosine(count, rate):
        return rate * (1 + np.cos(np.pi * np.arange(count) / max(count, 1))) / 2

    parts = [cosine(first, t["rate"])]
    parts += [cosine(len(p), rate2) for p in np.array_split(range(second), t["cycles"])]
    values = np.concatenate(parts)
    rise = np.minimum((np.arange(len(values)) + 1) / max(t["warm_up"], 1), 1)
    return first, (values * rise).astype(np.float32)


def build(t):
    import keras

    keras.utils.set_random_seed(t["seed"])
    keras.config.set_dtype_policy(t["policy"])
    from helpers.unet import build_unet

    net = dict(t["net"])
    if "custom" in net:
        import networks

        return getattr(networks, net.pop("custom"))(size=t["size"], **net)
    return build_unet(input_shape=(t["size"], t["size"], 1), **net)


def load_weights(model, path):
    with np.load(path) as file:
        values = [file[str(n)].astype(np.float32) for n in range(len(file.files))]
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(value)


def save_weights(model, path):
    values = {str(n): np.asarray(v, np.float16) for n, v in enumerate(model.weights)}
    np.savez(f"{path}.part.npz", **values)
    Path(f"{path}.part.npz").rename(path)


def run_trial(t, tiles, out):
    import jax
    import jax.numpy as jnp
    import keras
    import optax

    from helpers import losses
    from helpers.metrics import precision_per_image

    t = TRIAL | t
    t["resize"] = t["size"] < 101 or t.get("resize", False)
    begun = time.time()
    model = build(t)
    images, masks = tiles["images"], tiles["masks"].astype(np.uint8)
    if t["data"] == "synthetic":
        train = labels = np.zeros((t["count"], 101, 101), np.uint8)  # see below
        held = np.arange(len(images))
    else:
        held = np.flatnonzero(tiles["folds"] == t["fold"])
        known = np.flatnonzero(tiles["folds"] != t["fold"])
        if t["labels"]:
            known = np.random.default_rng(t["seed"]).permutation(known)[: t["labels"]]
        if t["count"]:
            known = np.resize(known, t["count"])
        train, labels = images[known], 255 * masks[known]
    count, total = len(train), len(train)
    if t["pseudo"]:
        guess = load_tiles(t["pseudo"])["probabilities"]
        sure = np.abs(guess.astype(float) - 127.5).mean((1, 2))
        keep = sure > np.quantile(sure, t.get("pseudo_drop", 0.1))
        train = np.concatenate([train, tiles["test"][keep]])
        labels = np.concatenate([labels, guess[keep]])
        total = len(train)
    train, labels = jnp.asarray(train), jnp.asarray(labels)
    first, rate = rates(t)
    names = ("flip", "zoom", "shift", "crop", "brightness", "contrast", "gamma", "noise")
    names += ("stretch", "rotate", "pad", "decay")
    numbers = {name: jnp.float32(t[name]) for name in names}
    fixed = {"train": train, "labels": labels, "a": numbers, "first": jnp.asarray(first)}
    tx = optimizer(t)
    loss1, loss2 = (losses.get(name) for name in t["loss"])
    bce = losses.get("bce")

    def objective(params, state, x, y, n, first):
        outputs, state = model.stateless_call(params, state, x, training=True)
        if not isinstance(outputs, dict):
            outputs = {"mask": outputs}

        def cost(loss):
            value = loss(y, outputs["mask"])
            for name, output in outputs.items():
                if name.startswith("deep"):
                    value += t["aux"] * loss(y, output)
            return value

        value = jax.lax.cond(n < first, lambda: cost(loss1), lambda: cost(loss2))
        if "gate" in outputs:
            value += t["gate"] * bce(y.max((1, 2)), outputs["gate"])
        return value, state

    def step(fixed, carry, inputs):
        params, state, opt, ema, n = carry
        chosen, key, rate = inputs
        pictures, truths = fixed["train"][chosen], fixed["labels"][chosen]
        x, y = sample(key, pictures, truths, (t["size"], t["resize"]), fixed["a"])
        grad = jax.value_and_grad(objective, has_aux=True)
        (value, state), grads = grad(params, state, x, y, n, fixed["first"])
        updates, opt = tx.update(grads, opt, params)
        decay = rate * fixed["a"]["decay"] * (t["optimizer"] in ("adamw", "muon"))
        params = [
            p - (decay * p if p.ndim == 4 else 0.0) + rate * u
            for p, u in zip(params, updates, strict=True)
        ]
        if t["ema"]:
            decay = jnp.minimum(t["ema"], (1 + n) / (10 + n))
            ema = jax.tree.map(
                lambda a, b: decay * a + (1 - decay) * b, ema, (params, state)
            )
        return (params, state, opt, ema, n + 1), value

    @partial(jax.jit, donate_argnums=0)
    def chunk(carry, fixed, order, key, rates):
        inputs = (order, jax.random.split(key, len(order)), rates)
        return jax.lax.scan(partial(step, fixed), carry, inputs)

    @jax.jit
    def predict(params, state, x):
        outputs, _ = model.stateless_call(params, state, x, training=False)
        outputs = outputs["mask"] if isinstance(outputs, dict) else outputs
        return jax.nn.sigmoid(outputs[..., 0].astype(jnp.float32))

    pad = (t["size"] - 101) // 2
    place = partial(np.pad, mode="reflect")
    width = (pad, t["size"] - 101 - pad)

    def forward(images):
        if t["resize"]:
            x = jnp.asarray(images, jnp.float32) / 255
            shape = (len(x), t["size"], t["size"])
            return jax.image.resize(x, shape, "bilinear")[..., None]
        return place(images, ((0, 0), width, width))[..., None] / np.float32(255)

    def probabilities(params, state, images):
        out = []
        for start in range(0, len(images), 250):
            part = images[start : start + 250]
            batch = np.zeros((250, 101, 101), np.uint8)
            batch[: len(part)] = part
            x = forward(batch)
            p = predict(params, state, x)
            if t["tta"]:
                p = (p + predict(params, state, x[:, :, ::-1])[:, :, ::-1]) / 2
            if t["resize"]:
                p = jax.image.resize(p, (250, 101, 101), "bilinear")
            else:
                p = p[:, pad : pad + 101, pad : pad + 101]
            out.append(np.asarray(p)[: len(part)])
        return np.concatenate(out) if out else np.zeros((0, 101, 101), np.float32)

    def variables():
        params = [v.value for v in model.trainable_variables]
        state = [v.value for v in model.non_trainable_variables]
        ema = (params, state) if t["ema"] else ()
        return jax.tree.map(jnp.array, (params, state, tx.init(params), ema, 0))

    def wait_for(path):
        while path and not Path(path).exists():
            time.sleep(0.1)

    rng = np.random.default_rng(t["seed"])
    key = jax.random.key(t["seed"], impl="rbg")
    size, done, curve, queue = t.get("chunk", 50), 0, [], np.zeros(0, int)
    started = time.time()
    if t["leader"] and t["name"] != t["lead"]:
        wait_for(t["leader"])
    order = jnp.zeros((size, t["batch"]), int)
    inputs = (variables(), fixed, order, key, jnp.zeros(size, jnp.float32))
    compiled_chunk = chunk.lower(*inputs).compile()
    carry = variables()
    probabilities(carry[0], carry[1], images[:1])
    if t["leader"]:
        Path(t["leader"]).touch()
    print(t["name"], "compiled after", round(time.time() - begun, 1), "s", flush=True)
    wait_for(t["wait"])
    if t["data"] == "synthetic":
        made = load_tiles(t["synthetic"])
        fixed["train"] = jnp.asarray(made["images"])
        fixed["labels"] = jnp.asarray(255 * made["masks"].astype(np.uint8))
    if t["init"]:
        load_weights(model, t["init"])
    carry = variables()
    compiled = time.time() - started
    start = time.time()
    end = float(os.environ.get("BEGUN", start)) + (t["deadline"] or 0)
    end = max(end, start + 10)
    while done < t["steps"]:
        if t["deadline"]:
            along = (time.time() - start) / (end - start)
            if along >= 1:
                break
            turn = t["split"]
            part = along / turn if along < turn else (along - turn) / (1 - turn)
            top = t["rate"] if along < turn else t["rate"] / 2
            values = top * (1 + np.cos(np.pi * part)) / 2
            rise = (done + np.arange(size) + 1) / t["warm_up"]
            part = (values * np.minimum(rise, 1)).astype(np.float32)
            fixed["first"] = jnp.asarray(10**9 if along < turn else 0)
        else:
            part = np.resize(rate[done : done + size], size)
        pool = total if done >= t["pseudo_from"] * t["steps"] else count
        while len(queue) < size * t["batch"]:
            queue = np.concatenate([queue, rng.permutation(pool)])
        order = jnp.asarray(queue[: size * t["batch"]].reshape(size, t["batch"]))
        queue = queue[size * t["batch"] :]
        now = jax.random.fold_in(key, done)
        carry, values = compiled_chunk(carry, fixed, order, now, jnp.asarray(part))
        curve.append(float(np.mean(np.asarray(values))))
        done += size
        if not np.isfinite(curve[-1]):
            break
    seconds = time.time() - started - compiled
    params, state, _, ema, _ = carry
    row = {"trial": t, "compiled": round(compiled, 1)}
    row |= {"steps": done, "seconds": round(seconds, 1), "curve": np.round(curve, 3).tolist()[::4]}
    row["parameters"] = model.count_params()
    for name, (p, s) in {"last": (params, state), "ema": ema or (None, None)}.items():
        if p is None or not len(held):
            continue
        guess = probabilities(p, s, images[held])
        truth = tiles["masks"][held]
        scores = precision_per_image(truth, guess > 0.5)
        row[name] = round(float(scores.mean()), 4)
        row[f"{name}_tiles"] = "".join(str(min(int(round(10 * x)), 9)) if x < 1 else "A" for x in scores)
        row[f"{name}_empty"] = round(float(np.mean(guess.max((1, 2))[~truth.any((1, 2))] < 0.5)), 3)
    final = ema if t["ema"] else (params, state)
    for variable, value in zip(model.trainable_variables, final[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.non_trainable_variables, final[1], strict=True):
        variable.assign(value)
    folder = Path(out).parent
    if t["save"]:
        if t["data"] != "synthetic":
            test = probabilities(*final, tiles["test"])
            np.save(folder / f"{t['save']}-test.npy", np.rint(255 * test).astype(np.uint8))
        save_weights(model, folder / f"{t['save']}.npz")
        valid = probabilities(*final, images[held])
        np.savez_compressed(
            folder / f"{t['save']}-valid.npz",
            probabilities=np.rint(255 * valid).astype(np.uint8), held=held,
        )
    row["total"] = round(time.time() - begun, 1)
    with Path(out).open("a") as file:
        file.write(json.dumps(row) + "\n")
    tail = {k: row[k] for k in ("last", "ema", "last_empty", "steps", "seconds", "compiled", "total") if k in row}
    print(t["name"], "fold", t["fold"], "seed", t["seed"], tail, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("trials")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1e9)
    parser.add_argument("--index", type=int)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    trials = json.loads(Path(args.trials).read_text())
    if args.index is not None:
        import jax

        jax.config.update("jax_compilation_cache_dir", "/tmp/jax-cache")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
        run_trial(trials[args.index], load_tiles(args.data), args.out)
        return
    start, waiting, running = time.time(), list(range(len(trials))), {}
    while waiting or running:
        for number, process in list(running.items()):
            if process.poll() is not None:
                if process.returncode:
                    print(trials[number]["name"], "failed", process.returncode, flush=True)
                del running[number]
        after = {trials[n].get("after") for n in waiting} - {None}
        ready = [
            n for n in waiting
            if not trials[n].get("after")
            or all(Path(p).exists() for p in trials[n]["after"].split(","))
        ]
        while ready and len(running) < args.workers and time.time() - start < args.limit:
            number = ready.pop(0)
            waiting.remove(number)
            command = [sys.executable, __file__, args.trials, "--data", args.data]
            command += ["--out", args.out, "--index", str(number)]
            running[number] = subprocess.Popen(command)
        if time.time() - start > args.limit:
            for process in running.values():
                process.kill()
            print("limit reached:", [trials[n]["name"] for n in [*running, *waiting]])
            break
        time.sleep(0.2)


if __name__ == "__main__":
    main()
