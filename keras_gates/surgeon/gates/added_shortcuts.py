"""The shortcuts that were added for gates: found again, and taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import layers

from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers import Gate

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph

# A layer that is added for the gate "g" is called "g" and one of these.
ADD = "_shortcut_add"
SUBTRACT = "_shortcut_subtract"


def added(graph: Graph) -> Any:
    """The calls of each added shortcut.

    They are told by the name of the `Add` in which they end.

    Args:
        graph: the `Graph` of a model.

    Returns:
        A list of `(Add, gate, Subtract or None)`, in the order of the model.
    """
    found = {}
    for call in graph.calls:
        if not isinstance(call.op, layers.Add) or call.site in found:
            continue
        gate = call.inputs[-1].producer
        if gate is None or not isinstance(gate.op, Gate):
            continue
        if call.op.name == gate.op.name + ADD:
            minus = gate.inputs[0].producer
            named = minus is not None and minus.op.name
            same = named == gate.op.name + SUBTRACT
            found[call.site] = (call, gate, minus if same else None)
    return list(found.values())


def open_gates(model: keras.Model, closed: Any) -> Any:
    """The paths of the gates that stay open and have an added shortcut."""
    return [
        gate.path
        for _, gate, _ in added(gr.read(model))
        if gate.path not in closed
    ]


def without_open(model: keras.Model, closed: Any) -> Any:
    """A new model without the added shortcuts of all but `closed` gates.

    Args:
        model: a functional model with gates.
        closed: the paths of the closed gates.
    """
    graph = gr.read(model)
    outcome = {}
    for add, gate, subtract in added(graph):
        if gate.path not in closed:
            outcome[add.site] = add.site.node.input_tensors[1]
            if subtract is not None:
                outcome[subtract.site] = subtract.site.node.input_tensors[0]

    def edit(recall: Any) -> Any:
        kept = outcome.get(recall.site)
        return None if kept is None else recall.tensor(kept)

    return rewrite(graph, edit)
