"""Weights that are joined with a layer's channels: positions, tokens.

A table of positions is added to a stream whatever a gate on the stream does:
closed before that, a channel still is what the table has there. So the gate
goes after the join, where it is on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import rule_of
from keras_gates.transforms.finding.regions import has_kernel
from keras_gates.transforms.finding.regions import is_join

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling


def tables(labelling: Labelling) -> set[Tensor]:
    """Tensors made only of weights, which no layer reads first."""
    found: set[Tensor] = set()
    seen = {lb.FIXED}
    for step in labelling.steps:
        units = {u for x in step.flow.labels for u in x.ravel().tolist()}
        made, call = units - seen, step.call
        seen |= units
        if step.position is not None or has_kernel(call):
            continue
        of_them = bool(call.inputs) and found.issuperset(call.inputs)
        if of_them or (made and step.flow.mixes):
            found.update(call.outputs)
    return found


def joined(graph: Graph, call: Call, fixed: set[Tensor]) -> list[Call] | None:
    """The calls up to where a call's output is joined with tables.

    Args:
        graph: the `Graph`.
        call: the call.
        fixed: the `tables` of its labelling.

    Returns:
        The last of them is the join; None if there is none.
    """
    found: list[Call] = []
    while len(call.outputs) == 1:
        (tensor,) = call.outputs
        readers = [c for c in tensor.consumers if not _is_empty(c)]
        if len(readers) != 1 or tensor in graph.outputs:
            return None
        (after,) = readers
        found.append(after)
        if fixed.intersection(after.inputs) and is_join(after):
            return found
        alone = list(after.inputs) == [tensor]
        if not alone or not rule_of(after).moves:
            return None
        call = after
    return None


def _is_empty(call: Call) -> bool:
    """Whether it reads no channel at all, such as a count of samples."""
    return all(0 in output.shape for output in call.outputs)
