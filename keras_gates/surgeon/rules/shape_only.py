"""Operations that depend on the shape of a tensor, not on its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.index import Index
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import VALUES
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known


@dataclasses.dataclass(frozen=True)
class ShapeOnly(Elementwise):
    """`zeros_like(x)` and its like: what is in `x` gets nowhere."""

    kind: str = "shape"

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        # What `full_like` fills with may be a tensor.
        single = len(call.inputs) == 1
        return super().value(call, flow, values) if single else [None]

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        looked_at = call.argument("x")
        return [NOTHING if t is looked_at else VALUES for t in call.inputs]


SHAPE_ONLY = ShapeOnly()


@dataclasses.dataclass(frozen=True)
class FirstOfAlike(Rule):
    """The first of values that are all the same: which it is does not matter.

    So a one for each sample stems from no channel of what it was made from.
    """

    kind: str = "shape"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels = lb.fixed(len(call.outputs[0].shape))
        return Flow([labels], [[None] * len(inputs)])


@dataclasses.dataclass(frozen=True)
class Slice(Index):
    """Slicing, of what may have one value everywhere."""

    kind: str = "slice"

    def pick(self, call: Call) -> Rule:
        maker = call.inputs[0].producer
        alike = maker is not None and type(maker.op) in _ALIKE
        key = call.argument("key")
        items = [*key] if isinstance(key, tuple) else [key]
        return FirstOfAlike() if alike and _first(items) else self


def _first(items: list[Any]) -> bool:
    """Whether a key picks the first of each axis but that of the batch."""
    firsts = (0, slice(0, 1), slice(None, 1))
    alone = all(not isinstance(x, np.ndarray) for x in items)
    return (
        alone
        and items[:1] == [slice(None)]
        and all(any(x == first for first in firsts) for x in items[1:])
    )


_ALIKE = frozenset(
    gr.operation(f"numpy.{name}Like") for name in ("Zeros", "Ones")
)
