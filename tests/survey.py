"""Write a small 3-D survey of sections that change slowly, and its truth, as SEG-Y.

Usage: python tests/survey.py SURVEY.sgy TRUTH.sgy

`python -m helpers section SURVEY.sgy OUT.sgy --truth TRUTH.sgy` then prints the IoU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.synthetic.geology import SALT, SURVEYS, make_section
from helpers.utils.files import atomic_write

PART = slice(100, 300), slice(150, 450)  # 200 samples and 300 traces of a section


class _Drift(np.random.Generator):
    """Normal numbers cos(angle) a + sin(angle) b, which change smoothly with an angle.

    So random fields turn slowly into other ones. Other draws do not depend on it.
    """

    def __init__(self, seed: int, angle: float) -> None:
        super().__init__(np.random.PCG64(seed))
        self.seed, self.calls = seed, 0
        self.turn = float(np.cos(angle)), float(np.sin(angle))

    def _streams(self) -> list[np.random.Generator]:
        """Two for every call, so that an array's length does not shift later draws."""
        self.calls += 1
        return np.random.default_rng([self.seed, self.calls]).spawn(2)

    def standard_normal(self, *args: Any) -> Any:  # type: ignore[override]
        parts = zip(self.turn, self._streams(), strict=True)
        return sum(share * rng.standard_normal(*args) for share, rng in parts)

    def normal(self, loc: float, scale: float) -> Any:  # type: ignore[override]
        return loc + scale * self.standard_normal()

    def exponential(self, scale: Any, size: int) -> Any:  # type: ignore[override]
        return self._streams()[0].exponential(scale, size)


def write_survey(survey: Path, truth: Path, inlines: int = 24, seed: int = 11) -> None:
    """Write amplitudes, and 1 where salt is: inlines of 300 traces, 200 samples."""
    from segyio import tools

    with threadpool_limits(1):  # threads cost more than these small products
        drifts = [_Drift(seed, 0.03 * number) for number in range(inlines)]
        sections = [make_section(SURVEYS[1], drift) for drift in drifts]
    seismic = [section.seismic[PART].T for section in sections]
    salt = [section.labels[PART].T == SALT for section in sections]
    for file, volume in ((survey, seismic), (truth, salt)):
        array = np.array(volume, np.float32, order="C")
        with atomic_write(file) as draft:
            tools.from_array3D(str(draft), array, format=5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("survey", type=Path)
    parser.add_argument("truth", type=Path)
    write_survey(**vars(parser.parse_args()))
