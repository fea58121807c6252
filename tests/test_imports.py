"""The structure of the package: light modules, no circles, small files."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "helpers").rglob("*.py"))
FOLDERS = ("training", "panel", "data", "synthetic")


@pytest.mark.parametrize("module", ["rle", "metrics", "losses", "unet"])
def test_subject_loads_no_machinery(module):
    program = f"import sys, helpers.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert f"helpers.{module}" in loaded
    assert not loaded & {f"helpers.{name}" for name in FOLDERS}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, modules):
    """Modules of ours that a file loads, wherever the import statement is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (x.name for x in node.names if x.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def test_imports_make_no_circle():
    modules = {name_of(path): path for path in FILES}
    graph = {name: set(imports(path, modules)) for name, path in modules.items()}
    assert all("helpers" not in reads for name, reads in graph.items())
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_house_stays_small():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    course = [p for p in FILES if p.parent.name == "helpers" and p.name[:6] != "__main"]
    assert sum(lines.values()) <= 5800
    assert len(course) <= 15 and sum(lines[path] for path in course) <= 2800
    assert max(lines.values()) <= 330
