"""Inserts gates on layers, branches and blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.rewrite import rewrite
from keras_gates.transforms.finding import regions
from keras_gates.transforms.gating import shortcuts

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Site
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.names import Names
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.layers import Gate
    from keras_gates.transforms.finding.pieces import Piece


def insert_pieces(
    graph: Graph, jobs: list[tuple[Piece, Gate]], start: str
) -> keras.Model:
    """A new model with gates on some of its pieces.

    Args:
        graph: the `Graph` of a model.
        jobs: pairs of a `Piece` and its gate, from the inside out.
        start: as in `insert_gates`.
    """
    before: dict[Site, list[tuple[keras.KerasTensor, Gate]]] = {}
    behind: dict[Site, list[tuple[Piece, Gate]]] = {}
    for piece, gate in jobs:
        for call, index in piece.operands:
            kt = call.site.node.input_tensors[index]
            before.setdefault(call.site, []).append((kt, gate))
        if piece.whole is not None:
            behind.setdefault(piece.whole.site, []).append((piece, gate))
        elif piece.last is not None:
            behind.setdefault(piece.last.site, []).append((piece, gate))

    def edit(recall: Recall) -> Any:
        if recall.site not in before and recall.site not in behind:
            return None
        gates = before.get(recall.site, ())
        args, kwargs = _gated(recall, gates)
        outputs = recall(*args, **kwargs)
        for piece, gate in behind.get(recall.site, ()):
            if piece.entry is None or piece.shortcut is None:
                continue  # A piece with a `last` has both.
            call, index = piece.entry
            site = call.site if piece.whole is None else recall.site
            entry = recall.tensor(site.node.input_tensors[index])
            way = piece.shortcut(entry, gate.name, gate.dtype_policy)
            outputs = shortcuts.bypass(gate, outputs, way, start)
        return outputs

    return rewrite(graph, edit)


def make_gate(
    piece: Piece,
    layer_class: type[Gate],
    names: Names,
    arguments: dict[str, Any],
) -> Gate:
    """The gate layer for a piece.

    Args:
        piece: the `Piece`.
        layer_class: the class of the gate.
        names: the `Names` of the model.
        arguments: further keyword arguments of the gate.
    """
    name = names.free(piece.gate_name)
    return layer_class(name=name, dtype=dtype_of(piece.calls), **arguments)


def dtype_of(calls: Sequence[Call]) -> Any:
    """The dtype policy of the first layer with a kernel, or None."""
    found = [c.op for c in calls if regions.has_kernel(c)] or [calls[0].op]
    return getattr(found[0], "dtype_policy", None)


def swapped(
    recall: Recall, swaps: dict[int, keras.KerasTensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with tensors replaced by their ids."""
    args, kwargs = keras.tree.map_structure(
        lambda a: swaps.get(id(a), a), (recall.args, recall.kwargs)
    )
    return args, kwargs


def _gated(
    recall: Recall, gates: Sequence[tuple[keras.KerasTensor, Gate]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with some of its tensors gated."""
    swaps: dict[int, keras.KerasTensor] = {}
    for kt, gate in gates:
        x = recall.tensor(kt)
        swaps[id(x)] = gate(swaps.get(id(x), x))
    return swapped(recall, swaps)
