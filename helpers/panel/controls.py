"""What all controls of the panel share: each ends in a result, or in a sentence."""

import functools
import html
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

TURN = threading.RLock()  # one control at a time: a finished training run is one, too


def answering(handler: Callable) -> Callable:
    """Make a method a control's handler, which writes what goes wrong into `note`.

    An error would otherwise end in a log that readers of a notebook never see.
    """

    @functools.wraps(handler)
    def answer(self: Any, _: Any = None) -> None:
        with TURN:
            self.note.value = ""
            try:
                handler(self)
            except Exception as error:
                self.note.value = f"<b>{html.escape(str(error) or repr(error))}</b>"

    return answer


def slider(name: str, value: float, high: float, step: float) -> Any:
    """A slider from 0 (a threshold from `step`) that reports when it is released."""
    kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
    made = kind(value, min=0, max=high, step=step, description=html.escape(name))
    made.continuous_update = False
    made.style.description_width, made.layout.width = "initial", "360px"
    return made
