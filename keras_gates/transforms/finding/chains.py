"""Chains: a layer with its normalization and activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from keras_gates.graphs.readers import sole_successor
from keras_gates.surgeon.rules import rule_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph

POSITIONS = ("activation", "norm")
NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def chain(graph: Graph, call: Call, position: str = "activation") -> list[Call]:
    """The calls from a layer to the place of its gate.

    A gate before a normalization would be divided out again, so it comes after
    it: at the end of the chain, or, for `position="norm"`, before a final
    activation.

    Args:
        graph: the `Graph`.
        call: the call of the layer, the first of the chain.
        position: one of `POSITIONS`.
    """
    found = [call]
    while (after := _sole_reader(graph, found[-1])) is not None:
        if not isinstance(after.op, NORMS) and not is_activation(after):
            break
        found.append(after)
    if position == "norm":
        while len(found) > 1 and not isinstance(found[-1].op, NORMS):
            found.pop()
    return found


def entry_of(graph: Graph, call: Call) -> Call:
    """The first call of a layer: the zero padding before it, or the layer."""
    before = call.inputs[0].producer
    if before is None or _sole_reader(graph, before) is not call:
        return call
    return before if rule_of(before).puts_rim(before) else call


def _sole_reader(graph: Graph, call: Call) -> Call | None:
    """The only call that reads the output of `call`, in the same model."""
    after = sole_successor(graph, call)
    return after if after and after.scopes == call.scopes else None


def is_activation(call: Call) -> bool:
    """Whether a call treats each value alone, as activations do."""
    return rule_of(call).pointwise
