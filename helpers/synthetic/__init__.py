"""Synthetic geology: modelled sections, and the tiles that are cut from them."""

from helpers.synthetic.geology import SALT, SURVEYS, Section, Survey, make_section
from helpers.synthetic.tiles import SyntheticTiles, make_tiles, write_dataset

__all__ = [
    "SALT",
    "SURVEYS",
    "Section",
    "Survey",
    "SyntheticTiles",
    "make_section",
    "make_tiles",
    "write_dataset",
]
