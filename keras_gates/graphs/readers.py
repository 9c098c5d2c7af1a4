"""Readers of a tensor of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor


def sole_reader(graph: Graph, tensor: Tensor) -> Call | None:
    """The one call that reads a tensor.

    None where it is read by several or by none, twice by one, or is an output
    of the model as well.
    """
    if len(tensor.consumers) != 1 or tensor in graph.outputs:
        return None
    return tensor.consumers[0]


def sole_successor(graph: Graph, call: Call) -> Call | None:
    """The one call that reads what a call gives, and reads nothing else.

    None as well where either of them has several outputs.
    """
    if len(call.outputs) != 1:
        return None
    (tensor,) = call.outputs
    after = sole_reader(graph, tensor)
    if after is None or len(after.outputs) != 1:
        return None
    return after if list(after.inputs) == [tensor] else None
