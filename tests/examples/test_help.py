"""The options of the examples say what they are for."""

import ast
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def undocumented(tree):
    """The options without a help."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.args[0], "value", None)
        if ast.unparse(node.func).split(".")[-1] not in ("add", "add_argument"):
            continue
        option = isinstance(name, str) and name.startswith("--")
        if option and not any(word.arg == "help" for word in node.keywords):
            yield name


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem
)
def test_every_option_has_a_help(path):
    assert list(undocumented(ast.parse(path.read_text("utf-8")))) == []
