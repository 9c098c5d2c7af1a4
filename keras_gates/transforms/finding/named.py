"""Branches and blocks that the user names by their first and last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gates.transforms.finding import regions
from keras_gates.transforms.finding.pieces import Piece

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.transforms.finding.pieces import Finder


def named_piece(finder: Finder, kind: str, pair: Sequence[str]) -> Piece:
    """The `Piece` between two layers.

    Args:
        finder: the `Finder` of the model.
        kind: "branch" or "block".
        pair: the names of the first layer, and of the last one or the join.

    Raises:
        ValueError: no layer has such a name, the piece has more than one entry
            or exit, or no shortcut fits it.
    """
    what = f"The {kind} {tuple(pair)!r}"
    for piece in finder.whole(kind) if pair[0] == pair[1] else ():
        if pair[0] in (piece.path, piece.path.rpartition("/")[2]):
            return _unless_barred(piece, what)
    first, last = (_call(finder.graph, name, kind) for name in pair)
    if len(set(first.inputs)) != 1:
        raise ValueError(
            f"{what} can't begin at '{first.path}', which reads "
            f"{len(set(first.inputs))} tensors. Expected: a layer with one "
            "input, where the piece starts. Name another."
        )
    piece = Piece(kind, [])
    if regions.is_join(last):
        _end_at_join(piece, first, last, what)
        tensor = last.inputs[piece.operands[0][1]]
    else:
        piece.last, piece.entry = last, (first, 0)
        tensor = last.outputs[0]
    piece.calls = _calls(finder, first, tensor, what)
    outside = regions.leak(
        finder.graph, piece.calls, tensor, None if piece.last else last
    )
    if outside is not None and outside.producer is not None:
        raise ValueError(
            f"{what} has more than one exit: the output of "
            f"'{outside.producer.path}', inside it, is also read elsewhere. "
            "Expected: a piece with a single entry and a single exit. Name "
            "layers that enclose one."
        )
    if piece.last is None:
        finder.checked(piece)
    else:
        finder.add_shortcut(piece)
    return _unless_barred(piece, what)


def _unless_barred(piece: Piece, what: str) -> Piece:
    if piece.reason:
        raise ValueError(
            f"{what} can't get a gate: {piece.reason}. Name another, or "
            "leave it out."
        )
    return piece


def _call(graph: Graph, name: str, kind: str) -> Call:
    """The one call of the layer with this name."""
    found = {c.site: c for c in graph.calls if name in (c.path, c.op.name)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(
            f"A {kind} can't begin or end at '{name}', which is called "
            f"{len(found)} times. Name a layer that is called once."
        )
    names = ", ".join(dict.fromkeys(c.path for c in graph.calls))
    raise ValueError(
        f"A {kind} can't begin or end at '{name}': there is no such layer. "
        f"Layers of this model: {names}."
    )


def _end_at_join(piece: Piece, first: Call, join: Call, what: str) -> None:
    """Gate the only operand of the join that comes from the first layer."""
    places = [
        index
        for index, tensor in enumerate(join.inputs)
        if first in regions.calls_between(first.inputs[0], tensor)[0]
    ]
    if len(places) != 1:
        how = "no" if not places else "more than one"
        raise ValueError(
            f"{what} is not a branch: {how} path leads from '{first.path}' to "
            f"exactly one input of '{join.path}'. Expected: the first layer "
            "of a branch, and the layer that joins it. Name another pair."
        )
    piece.operands = [(join, places[0])]


def _calls(
    finder: Finder, first: Call, tensor: Tensor, what: str
) -> list[Call]:
    entry = first.inputs[0]
    calls, strays = regions.calls_between(entry, tensor)
    if first not in calls:
        raise ValueError(
            f"{what} has a wrong start: no path leads from '{first.path}' to "
            "its end. Name the first layer, then the last."
        )
    if strays:
        ways = [c for c in calls if set(c.inputs) & set(strays)]
        names = ", ".join(repr(c.path) for c in ways)
        raise ValueError(
            f"{what} has more than one entry: it is also reached without "
            f"'{first.path}', through {names}. Expected: a piece with a "
            "single entry and a single exit. Name layers that enclose one."
        )
    return sorted(calls, key=finder.order.__getitem__)
