"""Layers that look up vectors in a table, or also read it back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import one_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights

_WHOLE = "its table is read back by a tensor whose channels are kept"
_ALONG = "its last axis has no channels that can be removed"


@dataclasses.dataclass(frozen=True)
class Embedding(Linear):
    """Creates its output channels; its input is an index, kept whole."""

    kind: str = "embedding"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        out = units.mint(id(call.op), call.op.output_dim)
        labels = lb.vector(out, len(call.outputs[0].shape), -1)
        sources = [[None] * len(inputs)]
        return Flow([labels], sources, {"out": out}, mixes=True)

    def reading(self, call: Call) -> Reading:
        return ALL

    def merges(self, call: Call) -> bool:
        return False

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]


@dataclasses.dataclass(frozen=True)
class Reversible(Rule):
    """A table that is also a kernel: `reverse=True` leads back to its rows.

    What is looked up has the columns of the table for channels, and so has
    what is led back: one width, whether the kernel is the table or another
    weight. No factor of a gate moves into a table that is read both ways.
    """

    kind: str = "reversible embedding"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        out = units.mint(id(call.op), call.op.output_dim)
        rank = len(call.outputs[0].shape)
        if not _is_reversed(call):
            labels, reads = lb.vector(out, rank, -1), {}
        else:
            labels, reads = lb.fixed(rank), {0: "out"}
            shape = call.inputs[0].shape
            ids = one_axis(inputs[0], len(shape) - 1, shape)
            if ids is not None:
                units.tie(out, ids)
            else:
                units.pin(out, _WHOLE)
                if lb.varying(inputs[0]):
                    units.pin(inputs[0], _ALONG)
        sources = [[None] * len(inputs)]
        return Flow([labels], sources, {"out": out}, mixes=True, reads=reads)

    def sense(self, call: Call) -> Hashable:
        return _is_reversed(call)

    def reading(self, call: Call) -> Reading:
        return ZERO if _is_reversed(call) else ALL


def _is_reversed(call: Call) -> bool:
    return bool(call.argument("reverse", False))


def reversible_counts(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """A product with the table, where it is read back."""
    if not _is_reversed(call):
        return 0
    _, kernel = weights[-1]
    return math.prod(inputs[0][1:-1]) * math.prod(kernel)
