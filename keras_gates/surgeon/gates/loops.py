"""Recurrent layers with a gate that closes their units inside the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_gates.graphs.identity import IdentityDict
from keras_gates.layers import recurrence
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.virtual import VirtualGate

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor


def gated(graph: Graph) -> IdentityDict[keras.Operation, keras.Operation]:
    """By each such layer, its gate.

    Args:
        graph: a `Graph` with its composite layers written out.
    """
    found: IdentityDict[keras.Operation, keras.Operation] = IdentityDict()
    for call in graph.calls:
        if rule_of(call).closes_loop:
            maker = _maker(call)
            if not rule_of(maker).feeds_back:
                raise ValueError(
                    f"Gate '{call.path}' is in the loop of '{maker.path}' (of "
                    f"type {type(maker.op).__name__}), whose loop is not that "
                    "of its class: its activation has weights, say, or its "
                    "`call` is another one. Gate a layer as Keras has it."
                )
            found[maker.op] = call.op
    return found


def takes_gate(call: Call) -> bool:
    """Whether a call is of a layer that a `GatedRecurrent` may be put round."""
    return rule_of(call).feeds_back and recurrence.why_not(call.op) is None


def states_read_elsewhere(call: Call) -> tuple[int, ...]:
    """The states `h` of a recurrent layer, if others than such layers read any.

    Args:
        call: a call of the layer.

    Returns:
        The numbers of all of these outputs, or nothing.
    """
    kinds = recurrence.outputs(call.op)
    numbers = tuple(
        n for n, kind in enumerate(kinds) if kind.hidden and kind.state
    )
    elsewhere = any(_is_read_elsewhere(call.outputs[n]) for n in numbers)
    return numbers if elsewhere else ()


def _is_read_elsewhere(state: Tensor) -> bool:
    """Whether it is more than the initial state of recurrent layers."""
    for reader in state.consumers:
        rule = rule_of(reader)
        starts = rule.feeds_back and reader.inputs[0] is not state
        if not starts and not rule.moves:
            return True
        if not starts and any(map(_is_read_elsewhere, reader.outputs)):
            return True
    return False


def _maker(gate: Call) -> Call:
    """The call of the layer right before a gate."""
    maker = gate.inputs[0].producer
    # What scores close may stand between.
    while maker is not None and isinstance(maker.op, VirtualGate):
        maker = maker.inputs[0].producer
    if maker is None:
        raise ValueError(f"'{gate.path}' is a gate behind no layer.")
    return maker
