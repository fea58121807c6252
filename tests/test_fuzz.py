"""A short run of `fuzz.py`; a long one is `python tests/fuzz.py --seconds 600`."""

import fuzz
import pytest
from hypothesis import strategies as st


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_only_documented_errors_leave(name):
    fed, taken = fuzz.fuzz(name, examples=100)
    assert 0 < taken < fed


def test_it_is_seen_what_else_leaves(monkeypatch):
    for wrong in (KeyError("id"), ValueError("two\nlines"), ValueError(501 * "x")):

        def target(_, wrong=wrong):
            raise wrong

        monkeypatch.setitem(fuzz.TARGETS, "new", (st.none(), target, ValueError))
        with pytest.raises((KeyError, AssertionError)):
            fuzz.fuzz("new", examples=5)
