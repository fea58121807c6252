"""The code explains itself: hints that mypy agrees with, docstrings that say enough."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "helpers").rglob("*.py"))
KERAS = (  # methods that Keras calls, and describes
    *("build", "call", "compute_output_shape", "convolution_op", "from_config"),
    *("get_config", "reset_state", "result", "update_state", "on_epoch_begin"),
    *("on_epoch_end", "on_train_batch_begin", "on_train_batch_end", "on_train_begin"),
    *("on_train_end", "on_test_begin", "on_test_end"),
)
SECTIONS = "Args|Attributes|Returns|Yields|Raises|Example"


def test_mypy_finds_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "helpers"))
)
def test_what_is_public_has_hints(path):
    for name, node in public(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            bare = [x.arg for x in parameters(node) if not x.annotation]
            bare += [] if node.returns else ["what it returns"]
            assert not bare, f"{path.name}, {name}: no hint of {', '.join(bare)}"


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "helpers"))
)
def test_what_is_public_has_a_docstring_that_says_enough(path):
    tree = ast.parse(path.read_text())
    for name, node in [("the module", tree), *public(tree)]:
        where = f"{path.name}, {name}"
        text = ast.get_docstring(node)
        assert text, f"{where}: no docstring"
        first = text.splitlines()[0]
        assert first.endswith("."), f"{where}: no full stop after {first!r}"
        assert not re.search(r"[.?!] [A-Z]", first), f"{where}: two sentences, {first}"
        if node is not tree:
            assert not (lost := undocumented(node, text)), f"{where}: nothing on {lost}"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("Give the sum of a and b.", ["ValueError"]),
        (
            "Add.\n\nSlowly.\nVery.\n\nRaises:\n    ValueError: always.",
            ["a", "b", "Returns"],
        ),
        ("Add.\n\nArgs:\n    b: one.", ["a", "Returns", "ValueError"]),
        ("Add.\n\nArgs:\n    a, b: two.\n\nReturns:\n    int.", ["ValueError"]),
        ("Add.\n\nRaises:\n    ValueError: always.", []),
    ],
)
def test_it_is_seen_what_a_docstring_does_not_say(text, lost):
    code = """
def f(a: int, b: int) -> int:
    try:
        raise KeyError("caught")
    except KeyError as error:
        raise ValueError("not caught") from error
"""
    assert undocumented(ast.parse(code).body[0], text) == lost


def public(tree, prefix=""):
    """`(name, node)` of all functions, classes, methods and properties for others."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        if not node.name.startswith("_") and node.name not in KERAS:
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def parameters(function):
    """All that a caller hands over: what is called `_` as well, `self` not."""
    args = function.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg for arg in every if arg and arg.arg not in ("self", "cls")]


def undocumented(node, text):
    """What a docstring should speak of and does not: names.

    One or two lines are trusted to say what goes in and out.
    """
    before, *rest = re.split(rf"^({SECTIONS}):$", text, flags=re.MULTILINE)
    said = dict(zip(rest[::2], rest[1::2], strict=True))
    makers = [node]
    if isinstance(node, ast.ClassDef):
        made_by = ("__init__", "__post_init__")
        makers = [x for x in node.body if getattr(x, "name", "") in made_by]
    wanted = [x.arg for maker in makers for x in parameters(maker) if x.arg != "_"]
    if isinstance(node, ast.ClassDef):
        wanted = [name for name in wanted if name not in ("name", "kwargs")]  # Keras'
        if any("dataclass" in ast.unparse(part) for part in node.decorator_list):
            fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
            wanted = [field.target.id for field in fields]
    lost = []
    if said.keys() - {"Raises", "Example"} or len(before.split("\n")) > 3:
        heads = re.findall(r"^    ([\w, ]+):", said.get("Args", ""), re.MULTILINE)
        heads += re.findall(
            r"^    ([\w, ]+):", said.get("Attributes", ""), re.MULTILINE
        )
        known = {name for head in heads for name in head.split(", ")}
        lost = [name for name in wanted if name not in known]
        gives = isinstance(node, ast.FunctionDef) and node.returns
        if wanted and gives and ast.unparse(gives) != "None":
            lost += [] if said.keys() & {"Returns", "Yields"} else ["Returns"]
    errors = dict.fromkeys(error for maker in makers for error in raised(maker))
    return lost + [error for error in errors if error not in said.get("Raises", "")]


def raised(node):
    """Names of the errors that leave it: not those of functions in it, nor caught."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield ast.unparse(node.exc.func)
    parts = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Try) and node.handlers:
        parts = [*node.handlers, *node.orelse, *node.finalbody]
    for part in parts:
        if not isinstance(part, ast.FunctionDef | ast.Lambda):
            yield from raised(part)
