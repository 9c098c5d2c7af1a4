"""Gates: known factors, zero where they are closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.layers import hard_concrete
from keras_gates.layers.block_gate import BlockGate
from keras_gates.layers.branch_gate import BranchGate
from keras_gates.layers.filter_gate import FilterGate
from keras_gates.layers.head_gate import HeadGate
from keras_gates.layers.layer_gate import LayerGate
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.rule import IDENTITY
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.source import Source

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.layers.factor_layer import FactorLayer
    from keras_gates.surgeon.labels import Units


@dataclasses.dataclass(frozen=True)
class GateRule(PerChannel):
    """Multiplies by factors; the surgeon removes it from the model."""

    kind: str = "gate"
    passes: str | None = LINEAR
    note: str = "folded into neighboring layers"

    is_gate = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        rank = len(call.inputs[0].shape)
        along = lb.varying(lb.collapse(inputs[0]))
        elsewhere = along and self.axis(call) % rank not in along
        if not self.along_axis(call) or elsewhere:
            # Factors for what holds no channels bear on none of them.
            return Flow([inputs[0]], [[IDENTITY]])
        return super().flow(call, inputs, units)

    def along_axis(self, call: Call) -> bool:
        """Whether it has a factor for each channel, or head, of an axis."""
        return call.op.kind in ("filter", "head")

    def source(self, call: Call) -> Source | None:
        return source_of(call.op)

    def missing(self, call: Call) -> list[str]:
        return []

    def factors(
        self, call: Call, rank: int, factor: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The gate's factors, or an array like them, shaped for `rank`."""
        if factor is None:
            factor = np.asarray(keras.ops.convert_to_numpy(call.op.factor))
        if not self.along_axis(call):
            return factor.reshape((1,) * rank)
        shape = [1] * rank
        shape[call.op.axis] = -1
        return factor.reshape(shape)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        value = values[0]
        if value is None:
            return [None]
        x, border = value.values, value.border
        factors = self.factors(call, x.ndim).astype("float64")
        shape = flow.labels[0].shape
        if np.broadcast_shapes(x.shape, factors.shape, shape) != shape:
            return [known(np.where(x == 0, 0.0, np.nan))]
        return [known(np.broadcast_to(x * factors, shape), border)]

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        labels = flow.labels[0]
        mask = self.factors(call, labels.ndim, mask)
        pairs = zip(mask.shape, labels.shape, strict=True)
        if any(m not in (1, e) for m, e in pairs):
            return value if not mask.all() else Known(np.zeros(labels.shape))
        before = np.array(np.nan) if value is None else value.values
        values = np.broadcast_to(before, labels.shape)
        border = value is not None and value.border
        return Known(np.where(mask, 0.0, values), border)

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        shape = flow.labels[0].shape
        places = np.arange(int(np.prod(call.op.weight.shape)))
        places = self.factors(call, len(shape), places)
        pairs = zip(places.shape, shape, strict=True)
        if any(own not in (1, extent) for own, extent in pairs):
            # All of a vector of factors, before channels that are not told
            # apart.
            return np.broadcast_to(places.ravel(), (*shape, places.size))
        return np.broadcast_to(places, shape)[..., None]


def source_of(gate: FactorLayer) -> Source:
    """The `Source` of a layer whose factors are gates."""
    if not gate.stochastic:
        return Source(gate, gate.kind or "", gate.factor)
    return Source(
        gate,
        gate.kind or "",
        gate.weight,
        closed=hard_concrete.CLOSED,
        opened=hard_concrete.OPEN,
        factors=hard_concrete.factor_of,
    )


GATE = GateRule(axis=lambda call: getattr(call.op, "axis", -1))
# What a gate computes rests on these; a subclass that has its own is unknown.
OF_FACTOR = (
    *("__call__", "call", "symbolic_call", "build", "kind", "factor"),
    *("compute_mask", "compute_output_shape", "compute_output_spec"),
    *("_factor_shape", "_broadcastable", "_positive_axis", "axis"),
)
GATES = (FilterGate, HeadGate, LayerGate, BranchGate, BlockGate)
