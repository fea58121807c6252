"""For pytest: the notebooks run small, on the caller's tiles or on synthetic ones."""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent


def pytest_configure():
    """Set what the notebooks' kernels inherit, before any test is collected."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["SALT_PROFILE"] = "smoke"
    data = os.environ.setdefault("SALT_DATA_DIR", "synthetic")
    if data != "synthetic":
        os.environ["SALT_DATA_DIR"] = str(Path(data).absolute())
    os.environ["SALT_OUTPUT_DIR"] = tempfile.mkdtemp(prefix="salt-")
