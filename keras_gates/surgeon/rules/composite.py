"""Layers that stand for several others with rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.source import Source

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call


def _cannot(layer: keras.Layer, x: Any) -> Any:
    """The default of `expand`, which each rule has to have of its own."""
    raise NotImplementedError("a Composite rule must have `expand`")


@dataclasses.dataclass(frozen=True)
class Composite(Barrier):
    """A layer that the surgeon writes out before it looks at the model.

    Attributes:
        expand: `(layer, x) -> output`: the same function of a KerasTensor,
            made of new layers that have rules, with copies of the weights. A
            gate in it has the name of the layer. It gets the arguments of
            the recorded call, whatever they are, but for those that it does
            not take and that say nothing: None, or that it is no training.
        shares: whether `expand` takes a third argument, a dict to keep the
            new layers in, so that a layer may be called at several places:
            it is empty at the first, and the same at the others.
        gate: `layer -> (kind, variable)`: the factors in the layer that the
            gate of that name has, or None for a layer without. Where the
            factors are a function of the variable, `(kind, variable, value)`
            with the value at which they are zero, and after it that at which
            they are one, unless it is 1; thresholds and plans speak of the
            factors, and never of the variable.
    """

    kind: str = "composite"
    note: str = "written out first"
    expand: Callable[..., Any] = _cannot
    shares: bool = False
    gate: Callable[[keras.Layer], tuple[Any, ...] | None] = lambda layer: None

    def composite_of(
        self, op: keras.Operation, calls: Sequence[Call] = ()
    ) -> Composite:
        return self

    def source(self, call: Call) -> Source | None:
        found = self.gate(call.op)
        if found is None:
            return None
        kind, variable, *ends = found
        closed = ends[0] if ends else None
        opened = ends[1] if ends[1:] else 1.0
        return Source(call.op, kind, variable, closed=closed, opened=opened)
