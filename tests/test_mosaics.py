"""Neighbors are found by their edges, and only they."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import data, mosaics
from helpers.config import Settings
from helpers.synthetic import SURVEYS, make_section, make_tiles


def cut_grid(section, rows, columns):
    """Tiles side by side, each with brightness and contrast of its own."""
    rng = np.random.default_rng(0)
    tiles = []
    for row, column in np.ndindex(rows, columns):
        tile = section[101 * row :, 101 * column :][:101, :101]
        tile = (tile - tile.min()) / np.ptp(tile)
        low, high = rng.uniform(0, 60), rng.uniform(150, 255)
        tiles.append(np.round(low + (high - low) * tile).astype(np.uint8))
    return np.array(tiles)


@pytest.fixture(scope="module")
def images():
    """Three sections of 2 x 3 tiles, then 60 tiles that touch no other, 4 black."""
    grids = [
        cut_grid(make_section(SURVEYS[n], seed).seismic, 2, 3)
        for n, seed in ((2, 3), (4, 3), (4, 4))
    ]
    others = make_tiles(60, seed=1)
    _, first = np.unique(others.sections, return_index=True)
    black = np.zeros((4, 101, 101), np.uint8)
    return np.concatenate([*grids, others.images[first], black])


def test_touching_tiles_are_found_and_no_others(images):
    right, below = mosaics.find_neighbors(images)
    wanted = [
        (6 * n + 3 * row + c, 6 * n + 3 * row + c + 1)
        for n, row, c in np.ndindex(3, 2, 2)
    ]
    assert set(map(tuple, right.tolist())) == set(wanted)
    wanted = [(6 * n + c, 6 * n + c + 3) for n, c in np.ndindex(3, 3)]
    assert set(map(tuple, below.tolist())) == set(wanted)


@pytest.mark.parametrize("survey", SURVEYS, ids=lambda survey: survey.name)
def test_most_neighbors_are_found_and_few_others(survey):
    tiles = np.concatenate(
        [cut_grid(make_section(survey, seed).seismic, 3, 5) for seed in (3, 4, 5)]
    )
    steps = ((0, 1), (1, 0))
    for pairs, (down, across) in zip(mosaics.find_neighbors(tiles), steps, strict=True):
        wanted = {
            (15 * n + 5 * row + c, 15 * n + 5 * (row + down) + c + across)
            for n, row, c in np.ndindex(3, 3 - down, 5 - across)
        }
        found = set(map(tuple, pairs.tolist()))
        assert len(found & wanted) > 0.3 * len(wanted)  # beds may look alike
        assert len(found - wanted) < 0.1 * len(found)


def test_sections_join_neighbors(images):
    sections = mosaics.find_sections(images)
    assert sections.shape == (len(images),)
    for n in range(3):
        assert len(set(sections[6 * n : 6 * n + 6])) == 1
    assert len(set(sections)) == 3 + len(images) - 18


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_tiles_have_no_neighbors(count, images):
    sections = mosaics.find_sections(images[-4:][:count])
    assert sections.tolist() == list(range(count))


ORACLE = os.environ.get("SALT_MOSAICS")  # a csv of ids, mosaic_id, x, y


@pytest.mark.skipif(not ORACLE, reason="SALT_MOSAICS names no table of mosaics")
def test_real_neighbors_are_those_of_a_published_table():
    """With SALT_DATA_DIR at the competition's tiles."""
    settings = Settings.from_env({**os.environ, "SALT_PROFILE": "quick"})
    tiles = data.load_tiles(settings)
    table = pd.read_csv(Path(ORACLE), dtype={"id": str})
    place = {name: n for n, name in enumerate(tiles.ids)}
    table = table[table["id"].isin(place)]
    where = {(m, x, y): place[i] for i, m, x, y in table.itertuples(index=False)}
    true = [
        {(n, where[m, x + dx, y + dy]) for (m, x, y), n in where.items()
         if (m, x + dx, y + dy) in where}
        for dx, dy in ((1, 0), (0, 1))
    ]  # fmt: skip
    found = [set(map(tuple, p.tolist())) for p in mosaics.find_neighbors(tiles.images)]
    hits = sum(len(a & b) for a, b in zip(true, found, strict=True))
    recall, precision = (hits / sum(map(len, pairs)) for pairs in (true, found))
    print(f"{hits} pairs: recall {recall:.3f}, precision {precision:.3f}")
    assert recall > 0.7 and precision > 0.95
