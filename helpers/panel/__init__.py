"""The interactive comparison: `panel.compare(runs, tiles, settings)`."""

from helpers.panel.comparison import Choice
from helpers.panel.tabs import compare

__all__ = ["Choice", "compare"]
