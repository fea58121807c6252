"""Synthetic geology: modelled sections, and the tiles that are cut from them."""

from helpers.synthetic.geology import SALT, SURVEYS, make_section
from helpers.synthetic.tiles import make_tiles, write_dataset

__all__ = ["SALT", "SURVEYS", "make_section", "make_tiles", "write_dataset"]
