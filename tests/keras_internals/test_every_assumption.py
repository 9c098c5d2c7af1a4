"""Each name in `graphs/private` says what it assumes, and has a test."""

import ast
import pathlib

import pytest

from keras_gates.graphs import private

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / "keras_gates" / "graphs" / "private"
DEFINED = (ast.FunctionDef, ast.ClassDef)


def names():
    """`{public name: its documentation}`."""
    found = {}
    for path in FOLDER.glob("[!_]*.py"):
        found.update(names_in(path.read_text("utf-8")))
    return found


def names_in(source):
    """The same of one file."""
    found, lines = {}, source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, DEFINED):
            found[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            first = node.lineno - 1
            while lines[first - 1].startswith("#"):
                first -= 1
            target = getattr(node, "target", None) or node.targets[0]
            found[target.id] = "\n".join(lines[first : node.lineno])
    return {name: text for name, text in found.items() if name[0] != "_"}


def covered():
    return {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", names())
def test_it_has_a_test(name):
    assert f"test_{name}" in covered()


@pytest.mark.parametrize("name", names())
def test_it_says_what_it_assumes(name):
    assert "Assumes: " in names()[name] or name == "Unwrapped"


def test_each_is_a_name_of_the_package():
    assert sorted(names()) == sorted(private.__all__)
