"""GatedRecurrent: a stock layer with a gate in its loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.variables import copy_state
from keras_gates.graphs.variables import values_of
from keras_gates.layers import hard_concrete
from keras_gates.layers import recurrence
from keras_gates.layers.loop_gate import LoopGate
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.composite import Composite
from keras_gates.surgeon.rules.gates import GateRule
from keras_gates.surgeon.rules.registry import rule_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.layers.gated_recurrent import GatedRecurrent
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights


@dataclasses.dataclass(frozen=True)
class LoopGateRule(GateRule):
    """A gate whose factors may each be for more than one channel.

    Raw outputs are closed only in the loop.
    """

    closes_loop = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        flow = super().flow(call, inputs, units)
        ids = flow.roles.get("channel")
        if ids is None:
            return flow
        # The units of both directions are the same.
        one = {"channel": ids[: call.op.factor.shape[0]]}
        return dataclasses.replace(flow, roles=one)

    def factors(
        self, call: Call, rank: int, factor: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        if factor is None:
            factor = np.asarray(keras.ops.convert_to_numpy(call.op.factor))
            factor = np.ones_like(factor) if _is_raw(call) else factor
        elif _is_raw(call):
            factor = np.zeros_like(factor)
        size = call.inputs[0].shape[call.op.axis] or factor.size
        factor = np.tile(factor.reshape(-1), size // factor.size)
        return super().factors(call, rank, factor)

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        return None if _is_raw(call) else super().opened_by(call, flow)


def _is_raw(call: Call) -> bool:
    return bool(call.argument("raw", default=False))


def expand(layer: GatedRecurrent, *given: Any, **kwargs: Any) -> Any:
    """The function of a built `GatedRecurrent`, of KerasTensors.

    The rows of the recurrent kernel have the factors; what is closed is so
    in the loop by the rule of the gate.

    Args:
        layer: the layer.
        *given: the positional arguments of the call, and a dict to keep the
            new layers in.
        **kwargs: its keyword arguments.
    """
    *args, made = given
    first = not made
    if first:
        made.update(layer=_copy(layer), gate=_gate(layer))
    found = made["layer"](*args, **kwargs)
    flat = keras.tree.flatten(found)
    kinds = recurrence.outputs(layer.layer)
    gated = [
        made["gate"](tensor, raw=not layer.gates(kind))
        for tensor, kind in zip(flat, kinds, strict=True)
    ]
    if first:
        _set_weights(layer, made["layer"], made["gate"])
    return keras.tree.pack_sequence_as(found, gated)


def _gate(layer: GatedRecurrent) -> LoopGate:
    return LoopGate(
        repeats=recurrence.outputs(layer.layer)[0].repeats,
        axis=recurrence.channel_axis(layer.layer),
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _copy(layer: GatedRecurrent) -> keras.Layer:
    """The stock layer, with the weights to come."""
    new, _ = new_copies().whole(layer.layer)
    if not layer.name.startswith(new.name):  # it may be that of another
        new.name = f"{layer.name}_{new.name}"
    return new


def _set_weights(
    layer: GatedRecurrent, stock: keras.Layer, gate: LoopGate
) -> None:
    """Give the new layers their weights, once they are built."""
    factor = np.array(keras.ops.convert_to_numpy(layer.factor))
    gate.factor.assign(factor)
    copy_state(layer.layer, stock)
    for cell in recurrence.cells(stock):
        kernel = values_of(cell.recurrent_kernel)
        scaled = kernel * factor[:, None]
        cell.recurrent_kernel.assign(scaled.astype(kernel.dtype))


def _counts(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """The multiply-adds of the layer inside."""
    site = dataclasses.replace(call.site, op=call.op.layer)
    one = dataclasses.replace(call, site=site)
    rule = rule_of(one)
    return counts.multiply_adds(one, rule, weights, inputs, outputs)


GATED_RECURRENT = Composite(
    expand=expand,
    shares=True,
    gate=lambda layer: (
        "filter",
        layer.gate.weight,
        *(
            (hard_concrete.CLOSED, hard_concrete.OPEN)
            if layer.gate.stochastic
            else (0.0, 1.0)
        ),
    ),
    counts=_counts,
    why="its units already have a gate",
    note="the stock layer remains; closed units are removed with their "
    "feedback",
)
LOOP_GATE = LoopGateRule(axis=lambda call: call.op.axis, cuts=False)
