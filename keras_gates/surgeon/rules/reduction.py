"""Reductions, which are computed for constants."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.elementwise import rerun_all
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import axes_among
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.spatial import Spatial
from keras_gates.surgeon.rules.spatial import reduced

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.spatial import Space
    from keras_gates.surgeon.rules.view import View

# More numbers than these are not run through an operation for a constant.
_MOST = 2**22


@dataclasses.dataclass(frozen=True)
class Reduction(Spatial):
    """Reduces axes; run on a constant at all of their positions.

    Attributes:
        constant: whether the outcome of a constant is one for certain. That
            of `argmax` is not: which of equal numbers it names is open.
    """

    kind: str = "reduction"
    space: Space = reduced
    passes: str | None = None
    constant: bool = True

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        unknown: list[Known | None] = [None] * len(call.outputs)
        if values[0] is None or not self.constant:
            return unknown
        x = self._uniform(call, values[0].plain())
        shape = list(x.shape)
        for axis in self.space(call):
            size = call.inputs[0].shape[axis]
            if size is None:
                return unknown
            shape[axis] = size
        if math.prod(shape) > _MOST:
            return unknown
        filled = np.broadcast_to(np.where(np.isnan(x), 0.0, x), shape)
        source = flow.sources[0][0]
        gone = np.isnan(x)
        if isinstance(source, np.ndarray):
            gone = gone.ravel()[source]
        return [
            known(np.where(gone, np.nan, y.reshape(gone.shape)))
            for y in rerun_all(call, filled)
        ]


@dataclasses.dataclass(frozen=True)
class Sum(Spatial):
    """A sum, or another reduction to which a zero adds nothing.

    Over channels it reads them as a kernel of ones does: zeros may go.

    Attributes:
        adds: whether zeros add nothing to what a call gives.
        corrects: what zeros that go have added, `(output, share that is left)
            -> output`; None if that is nothing.
    """

    kind: str = "reduction"
    space: Space = reduced
    adds: Callable[[Call], bool] = lambda call: True
    corrects: Callable[[Any, float], Any] | None = None

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        space, labels = self.space(call), inputs[0]
        if not labels.size or 0 in space or not self.adds(call):
            return super().flow(call, inputs, units)
        axes = lb.varying(lb.collapse(labels))
        if len(axes) != 1 or axes[0] not in space:
            return super().flow(call, inputs, units)
        if axes[0] != self.axis(call) or len(call.inputs) > 1:
            return super().flow(call, inputs, units)
        ids = one_axis(labels, axes[0], call.inputs[0].shape)
        if ids is None:
            return super().flow(call, inputs, units)
        fixed = lb.fixed(len(call.outputs[0].shape))
        return Flow([fixed], [[None]], {"in": ids}, mixes=True)

    def axis(self, call: Call) -> int:
        return max(self.space(call))

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if not flow.mixes or not flow.roles:
            return super().value(call, flow, values)
        zeros = values[0] is not None and (values[0].plain() == 0).all()
        return [known(np.zeros(flow.labels[0].shape)) if zeros else None]

    def replaced(
        self, call: Call, flow: Flow, view: View
    ) -> keras.Operation | None:
        removed = view.removed(0)
        if removed is None or self.corrects is None:
            return None
        tensor, op = call.inputs[0], call.op
        inputs = keras.Input(
            batch_shape=view.shape(tensor, view.inputs[0]),
            dtype=tensor.dtype,
            name=f"{op.name}_input",
        )
        left = type(op)(axis=op.axis, keepdims=op.keepdims)
        left.name = f"{op.name}_of_left"
        share = float(np.isnan(removed).mean())
        return keras.Model(
            inputs, self.corrects(left(inputs), share), name=op.name
        )


def counted_in(mean: Any, share: float) -> Any:
    """The mean of all channels from that of those that are left."""
    return gr.named_operation("numpy.Multiply", "share_of_mean")(mean, share)


def not_below_zero(largest: Any, share: float) -> Any:
    """The maximum over channels of which some are zero."""
    return gr.named_operation("numpy.Maximum", "or_zero")(largest, 0.0)


def not_above_zero(smallest: Any, share: float) -> Any:
    """The minimum over channels of which some are zero."""
    return gr.named_operation("numpy.Minimum", "or_zero")(smallest, 0.0)


def of_fractions(call: Call) -> bool:
    """`adds` for what has no value of its own to start from."""
    dtype = keras.backend.standardize_dtype(call.inputs[0].dtype)
    starts = getattr(call.op, "initial", None) is not None
    return bool(keras.backend.is_float_dtype(dtype)) and not starts


def of_absolutes(call: Call) -> bool:
    """`adds` for a norm: of one axis, and by no order below 0."""
    order = call.op.ord
    plain = order is None or (not isinstance(order, str) and order >= 1)
    return plain and len(reduced(call)) == 1


def zero_only(call: Call, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A constant of 0 stays; any other varies along the axes."""
    return np.where(x == 0, 0.0, np.nan)


def always_zero(call: Call, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What differences of a constant are."""
    return np.where(np.isnan(x), np.nan, 0.0)


def uncertain(call: Call, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nothing is known about the result."""
    return np.full(x.shape, np.nan)


def among(*names: str) -> Space:
    """`space` for axes that the operation has under other names."""

    def space(call: Call) -> list[int]:
        rank = len(call.inputs[0].shape)
        axes = [axes_among(getattr(call.op, name), rank) for name in names]
        return [axis for every in axes for axis in every]

    return space


def last(count: int) -> Space:
    """`space` for the last axes of a tensor."""

    def space(call: Call) -> list[int]:
        rank = len(call.inputs[0].shape)
        return list(range(rank - count, rank))

    return space


def lists(name: str) -> Callable[[Call], str | None]:
    """`bars` for an argument that adds an axis where it is a list."""

    def why(call: Call) -> str | None:
        if np.ndim(call.argument(name)):
            return f"a list of `{name}` adds an axis"
        return None

    return why


def weighted(call: Call) -> str | None:
    """`bars` for an average with weights."""
    if call.argument("weights") is not None:
        return "its weights belong to positions"
    return None


def spaced(call: Call) -> str | None:
    """`bars` for an integral over positions that are given."""
    return None if call.op.x is None else "its positions are given"
