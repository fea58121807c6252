"""Random input for what reads the files of others: only documented errors may leave.

Messages must be one short line that can be printed. The same examples come first in
every call, other ones after them.

Usage: python tests/fuzz.py [--seconds N] [NAME ...]
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.data import read_table
from helpers.rle import rle_decode, rle_encode
from helpers.submission import check_submission
from helpers.utils.files import DataError, File

IDS = ["8e13060816", "0004230816", "1e5", 39 * "x"]
SUBMISSION = "\n".join(["id,rle_mask", *(f"{name},1 3 9 1" for name in IDS), ""])
# What is likely to be taken for something else:
ODD = ["", "id", "rle_mask", ",", '"', "\n", "\r", "\0", "\ufeff", "\u2028", "²", "٣"]
ODD += [" ", "-1", "0", "1e5", "nan", "inf", "1.0", "10201", 5000 * "9", "\udcff"]


def mixed(*parts):
    """Texts of these parts, of what is odd, and of anything, in any order."""
    piece = st.sampled_from([*parts, *ODD]) | st.text(max_size=9)
    return st.lists(piece, max_size=30).map("".join)


@st.composite
def damaged(draw, text):
    """Bytes of a file, here and there replaced, lost or doubled."""
    content = text if isinstance(text, bytes) else text.encode()
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted(draw(st.integers(0, len(content))) for _ in range(2))
        end = min(end, start + draw(st.integers(0, 30)))
        new = draw(st.sampled_from(ODD).map(encode) | st.binary(max_size=9))
        content = content[:start] + new + content[end - draw(st.integers(0, 5)) :]
    return content


def encode(text):
    return text.encode("utf-8", "surrogatepass")


@st.composite
def written(draw):
    """A csv file whose ids are right, in any order, and whose RLE may be."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    quote = draw(st.sampled_from(["", "", '"', "'"]))
    rle = draw(st.sampled_from([MASKS, MASKS, RLE]))
    rows = [f"{name},{quote}{draw(rle)}{quote}" for name in draw(st.permutations(IDS))]
    start = draw(st.sampled_from(["", "\ufeff"]))
    return encode(end.join([f"{start}id,rle_mask", *rows]))


RUNS = mixed("1 1 ", "3 2 ", "102 101", " 9 9") | st.lists(
    st.integers(-2, 11_000) | st.integers()
).map(lambda numbers: " ".join(map(str, numbers)))
MASKS = st.sets(st.integers(1, 300), max_size=20).map(
    lambda starts: " ".join(
        f"{31 * start} {start % 31 or 1}" for start in sorted(starts)
    )
)
RLE = MASKS | MASKS | RUNS
PARTS = mixed("id,rle_mask\n", "1e5,1 1\n", "id,z\n", *IDS)
TABLES = written() | damaged(SUBMISSION) | PARTS.map(encode) | st.binary()
TABLES |= PARTS.map(lambda text: text.encode("utf-16", "surrogatepass"))


def decode_rle(text):
    mask = rle_decode(text)
    assert mask.shape == (101, 101) and mask.dtype == bool
    again = rle_decode(rle_encode(mask))
    assert np.array_equal(again, mask) and mask.any() == bool(text.split())


def read(content):
    file = File("train.csv", lambda: content)
    table = read_table({"train.csv": file}, "train.csv", "rle_mask")
    assert table["id"].is_unique and table["id"].str.isalnum().all() and len(table)
    assert all(isinstance(value, str) for value in table["rle_mask"])


def check(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.csv")
        path.write_bytes(content)
        summary = check_submission(path, IDS)
    assert summary.rows == len(IDS) and 0 <= summary.empty <= summary.rows


@functools.cache
def run_files():
    """The files of a run, as they should be: {name: bytes}."""
    from pretend import labelled, pretend

    with tempfile.TemporaryDirectory() as folder:
        (run,) = pretend(Path(folder), labelled(4), ["sharp"])
        return {path.name: path.read_bytes() for path in run.folder.iterdir()}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@st.composite
def spoiled(draw):
    """A run's files, one of them damaged, or another value somewhere in its config."""
    files = run_files()
    name = draw(st.sampled_from([*files, *files, ""]))
    if name:
        return files | {name: draw(damaged(files[name]) | st.binary())}
    config = json.loads(files["config.json"])
    place = draw(
        st.sampled_from([config, config["system"], config["system"]["network"]])
    )
    place[draw(st.sampled_from([*place, "other"]))] = draw(JSON)
    return files | {"config.json": json.dumps(config).encode()}


def read_run(files):
    from helpers.training.runs import Run

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "sharp", "fold-0"))
        run.folder.mkdir(parents=True)
        for name, content in files.items():
            (run.folder / name).write_bytes(content)
        run.check()
        ids, probabilities = run.validation()
        assert 0 <= run.score < np.inf and run.name == "sharp/fold-0"
        assert probabilities.shape == (len(ids), 101, 101)
        assert 0 <= probabilities.min(initial=0) <= probabilities.max(initial=0) <= 1


TARGETS = {  # {name: (input, what takes it, what may leave)}
    "rle_decode": (RLE | st.none() | st.binary(), decode_rle, ValueError),
    "read_table": (TABLES, read, DataError),
    "check_submission": (TABLES, check, DataError),
    "read_run": (spoiled(), read_run, DataError),
}


def fuzz(name, seconds=0.0, examples=500):
    """Feed a target for so long, at least once; returns the number of examples."""
    inputs, target, documented = TARGETS[name]
    count, began = [0, 0], time.monotonic()

    def feed(given):
        count[0] += 1
        try:
            target(given)
            count[1] += 1
        except documented as error:
            text = str(error)
            assert "\n" not in text and len(text) < 500, text
            text.encode()  # it can be printed

    checks = list(hypothesis.HealthCheck)
    options = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=checks,
    )
    seed = 0
    while not seed or time.monotonic() - began < seconds:
        hypothesis.seed(seed)(options(hypothesis.given(inputs)(feed)))()
        seed += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=600, help="for each of them")
    options = parser.parse_args()
    for name in options.names or TARGETS:
        fed, taken = fuzz(name, options.seconds, 5000)
        print(f"{name}: {fed:,} examples, {taken:,} of them valid", flush=True)


if __name__ == "__main__":
    main()
