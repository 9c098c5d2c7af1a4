"""Collects the texts with which a plan says why something stays."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

from keras.src import ops

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "keras_gates"

# Whatever a plan prints is written in one of these.
MODULES = (
    *("surgeon/rules/*.py", "surgeon/report/futile*.py"),
    *("surgeon/report/reasons.py", "surgeon/report/opened_layers.py"),
    *("surgeon/report/slow_widths.py", "surgeon/solving/bars.py"),
    *("surgeon/passes/label.py", "surgeon/gates/see_through.py"),
    *("surgeon/build/coming_back.py", "surgeon/build/kept_class.py"),
    "surgeon/build/config_search.py",
    *("graphs/call_trace.py", "graphs/effects.py", "graphs/holders.py"),
    *("graphs/several_sizes.py", "graphs/trace.py", "graphs/weight_values.py"),
    *("graphs/bare_weights.py", "graphs/stand_ins.py"),
    "graphs/step_by_step.py",
    *("surgeon/build/part_weights.py", "surgeon/build/original_class.py"),
)
# They hold names of operations, kinds of rules, and notes on methods.
TABLES = {"operation_table.py", "counts.py", "norm_form.py"}
# What these raise is for the author of a rule. Elsewhere it becomes a reason.
FOR_AUTHORS = {
    *("registry.py", "time_distributed.py", "composite.py", "rule.py"),
    *("costs.py", "recurrent.py", "label.py"),
}
# What these arguments and attributes hold is shown beside a name, or never.
SHOWN_ELSEWHERE = {"kind", "note", "OWN", "_FACTORS", "_ALONE", "_INSERTING"}
# Prose that a plan does not print.
NO_REASONS = {
    " Arguments received by ",
    "Exception encountered when calling ",
    "compute_output_shape()` method. Error encountered: ",
    "in of group",
    "… ('…') must define `…`: ….",
}
# The words of one text without holes: fewer are a name or a joint.
WORDS = 3


@functools.cache
def reasons() -> dict[str, str]:
    """Each text, holes written as …, and the module that has it."""
    found = {}
    for pattern in MODULES:
        for path in sorted(PACKAGE.glob(pattern)):
            if path.name not in TABLES:
                tree = ast.parse(path.read_text("utf-8"))
                silent = (ast.Raise,) if path.name in FOR_AUTHORS else ()
                for text in _texts(tree, silent):
                    found[text] = path.relative_to(PACKAGE).as_posix()
    return found


def parts(reason: str) -> list[str]:
    """What is between the holes of a reason, if it says anything."""
    pieces = (piece.strip(" '(),.;:") for piece in reason.split("…"))
    return [piece for piece in pieces if len(piece.split()) >= WORDS]


def _texts(node: ast.AST, silent: tuple[type, ...]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, silent) or _is_silent(child):
            continue
        text = _text(child)
        if text is None:
            yield from _texts(child, silent)
        elif parts(text) and text not in NO_REASONS and not _are_names(text):
            yield re.sub(r"\s+", " ", text)


def _is_silent(node: ast.AST) -> bool:
    """Whether the texts in a node are no reasons."""
    if isinstance(node, ast.Expr):  # a docstring, or a call for its effect
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.keyword):
        return node.arg in SHOWN_ELSEWHERE
    if isinstance(node, ast.Call):  # a table of names, or a regex
        called = getattr(node.func, "attr", "")
        return called in {"split", "compile", "warn"}
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    names = {getattr(target, "id", "") for target in targets}
    return bool(names & SHOWN_ELSEWHERE)


def _are_names(text: str) -> bool:
    """Whether a text is a table of operations, such as `rules` have."""
    homes = (ops, ops.core, ops.image, ops.linalg, ops.math, ops.nn, ops.numpy)
    words = text.split()
    known = [any(hasattr(home, word) for home in homes) for word in words]
    return 2 * sum(known) > len(words)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            value.value if isinstance(value, ast.Constant) else "…"
            for value in node.values
        )
    return None
