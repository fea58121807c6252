"""Training: `fit` trains one system on one fold, and keeps it as a `Run`."""

from helpers.training.fit import build_model, estimate, fit
from helpers.training.runs import Run, find_runs
from helpers.training.stages import Stopped

__all__ = ["Run", "Stopped", "build_model", "estimate", "find_runs", "fit"]
