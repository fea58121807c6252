"""For pytest: the notebooks run small, on the caller's tiles or on synthetic ones."""

import os
import shutil
import tempfile
from pathlib import Path


def pytest_configure(config):
    """Set what the notebooks' kernels inherit, before any test is collected."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["SALT_PROFILE"] = "smoke"
    data = os.environ.get("SALT_DATA_DIR", "").strip() or "synthetic"
    if data.lower() != "synthetic":
        data = str(Path(data).expanduser().absolute())
    os.environ["SALT_DATA_DIR"] = data
    config.salt_output = os.environ["SALT_OUTPUT_DIR"] = tempfile.mkdtemp("-salt")


def pytest_unconfigure(config):
    """Leave nothing behind."""
    shutil.rmtree(config.salt_output, ignore_errors=True)
