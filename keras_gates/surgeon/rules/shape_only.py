"""Operations that look at the shape of a tensor, and at none of its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import VALUES

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Flow


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
