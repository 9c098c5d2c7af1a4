"""Attention with a gate on each head, which pruning removes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.layers.gated_attention import GatedAttention
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.attention import Attention
from keras_gates.surgeon.rules.attention import Grouped
from keras_gates.surgeon.rules.attention_units import Projections
from keras_gates.surgeon.rules.gates import source_of
from keras_gates.surgeon.rules.known import as_float64

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.source import Source
    from keras_gates.surgeon.rules.view import View


@dataclasses.dataclass(frozen=True)
class _Gated(Attention):
    """The factors of open heads are folded into the kernel's rows."""

    note: str = "the inner layer remains, with the open heads"

    @property
    def dissolved(self) -> tuple[str, ...]:
        return ("factor",)

    def base(self, op: keras.Operation) -> keras.Operation:
        return op.layer if isinstance(op, GatedAttention) else op

    def projections(self, op: keras.Layer) -> Projections:
        return Projections(self.base(op))

    def source(self, call: Call) -> Source | None:
        return source_of(call.op)

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        """An open head lets everything through."""
        heads = np.arange(len(flow.roles["head"]))
        return np.broadcast_to(heads, (*flow.labels[0].shape, heads.size))

    def inner_factors(
        self,
        call: Call,
        flow: Flow,
        kept: Mapping[str, NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None,
    ) -> list[tuple[str, str, NDArray[np.float64]]]:
        found = super().inner_factors(call, flow, kept, closed)
        role = self.layout(call.op).query
        factor = as_float64(call.op.factor)
        factor = np.repeat(factor, len(flow.roles[role]) // factor.size)
        return [*found, ("output_kernel", role, factor)]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        config, args, kwargs = super().revise(call, flow, view)
        return {**config, "name": call.op.name}, args, kwargs


@dataclasses.dataclass(frozen=True)
class _GatedGrouped(_Gated, Grouped):
    """The same round a `GroupQueryAttention`."""


@dataclasses.dataclass(frozen=True)
class GatedHeads(_Gated):
    """The one or the other, by what is inside."""

    def pick(self, call: Call) -> Rule:
        if isinstance(call.op.layer, keras.layers.GroupQueryAttention):
            return _GatedGrouped(counts=self.counts)
        return self


GATED_ATTENTION = GatedHeads(counts=counts.multi_head)
