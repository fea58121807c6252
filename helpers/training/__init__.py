"""Training: `fit` trains one system on one fold, and returns it as a `Run`."""

from helpers.training.fit import fit
from helpers.training.runs import Run, find_runs
from helpers.training.stages import Stopped, build_model
from helpers.training.timing import estimate

__all__ = ["Run", "Stopped", "build_model", "estimate", "find_runs", "fit"]
