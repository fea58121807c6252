"""Neighbors: tiles that were cut side by side from one seismic section.

With one neighbor in training and the other in validation, the score is too high: many
published validations have this leak. Touching tiles continue each other, so we compare
the last columns of each tile with the first columns of all others, and rows likewise.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MIN_CORRELATION = 0.7  # of touching edges
MIN_MARGIN = 0.2  # between the best and the second best match, so that few are wrong


def find_neighbors(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the touching tiles in images, uint8 (n, 101, 101): `(right, below)`.

    Each is int (pairs, 2), positions of a tile and of the one to its right, or below.
    """
    return _find_right(images), _find_right(images.transpose(0, 2, 1))


def find_sections(images: np.ndarray) -> np.ndarray:
    """Number the sections: int (n,), equal for tiles connected through neighbors."""
    first, second = np.concatenate(find_neighbors(images)).T
    graph = coo_array((np.ones(len(first)), (first, second)), (len(images),) * 2)
    return connected_components(graph, directed=False)[1]


def _describe(last: np.ndarray, before: np.ndarray) -> np.ndarray:
    """An edge, extrapolated by half a pixel, and its slope: unit vectors (n, 201)."""
    edge = 1.5 * last.astype(np.float32) - 0.5 * before
    parts = []  # without the tile's own brightness and contrast; flat edges become 0
    for part in (edge, np.diff(edge, axis=1)):
        part = part - part.mean(axis=1, keepdims=True)
        length = np.linalg.norm(part, axis=1, keepdims=True)
        parts.append(part * (length > 20) / np.maximum(length, 20) / 2**0.5)
    return np.concatenate(parts, axis=1)


def _find_right(images: np.ndarray) -> np.ndarray:
    """Pairs that are each other's best match, with a margin: int (pairs, 2)."""
    if len(images) < 2:
        return np.zeros((0, 2), int)
    ends = _describe(images[:, :, -1], images[:, :, -2])
    similar = ends @ _describe(images[:, :, 0], images[:, :, 1]).T
    np.fill_diagonal(similar, -1)  # a tile is not its own neighbor
    second, best = np.partition(similar, -2, axis=1)[:, -2:].T
    rival = np.partition(similar, -2, axis=0)[-2]  # for the other tile
    start, end, tiles = similar.argmax(1), similar.argmax(0), np.arange(len(images))
    margin = best - np.maximum(second, rival[start]).clip(0)
    kept = (best > MIN_CORRELATION) & (margin > MIN_MARGIN) & (end[start] == tiles)
    return np.stack([tiles[kept], start[kept]], axis=1)
