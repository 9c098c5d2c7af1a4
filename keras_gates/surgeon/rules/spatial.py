"""Operations along axes other than the channel axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.modes import Scaling
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import axes_among
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.rules.rule import only_first

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units

    Space = Callable[[Call], Sequence[int]]
    Twin = Callable[[Call, NDArray[np.float64]], NDArray[np.float64]]

WHY = "an input other than the data is kept whole"


def all_but_channels(call: Call) -> list[int]:
    """The axes of space of a layer with a `data_format`."""
    rank = len(call.inputs[0].shape)
    axis = channel_axis(call.op, rank)
    return [a for a in range(1, rank) if a != axis]


@dataclasses.dataclass(frozen=True)
class Spatial(Rule):
    """Works along `space`, each channel alone.

    Attributes:
        space: `call -> axes` that it works along.
        twin: what a constant becomes; the identity for an average or a maximum.
        pads: whether the input is padded.
        rim: the padding value.
        bars: `call -> ` why a call is not supported, or None.
    """

    kind: str = "spatial"
    space: Space = all_but_channels
    passes: str | None = LINEAR
    twin: Twin | None = None
    pads: Callable[[keras.Operation], bool] = lambda op: False
    rim: Callable[[keras.Operation], float] = lambda op: 0.0
    bars: Callable[[Call], str | None] = lambda call: None
    cuts: bool = True

    def pick(self, call: Call) -> Rule:
        why = self.bars(call)
        return self if why is None else Barrier(costs={}, why=why)

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels = inputs[0]
        if 0 in self.space(call):
            why = "it works across the samples of a batch"
            return barrier(call, inputs, units, why)
        if not labels.size:
            return _of_nothing(call)
        sources, count = only_first(inputs, units, WHY), len(call.outputs)
        for axis in self.space(call):
            if labels.shape[axis] > 1:
                first = labels.take([0], axis)
                if not (labels == first).all():
                    why = f"it works along axis {axis}, which has channels"
                    return barrier(call, inputs, units, why)
                labels = first
        rank = len(call.outputs[0].shape)
        if labels is inputs[0] and rank == labels.ndim:
            return Flow([labels] * count, [sources] * count)
        numbers = np.arange(inputs[0].size).reshape(inputs[0].shape)
        for axis in self.space(call):
            numbers = numbers.take([0], axis)
        if rank < labels.ndim:
            space = tuple(self.space(call))
            labels = labels.squeeze(space)
            numbers = numbers.squeeze(space)
        return Flow([labels] * count, [[numbers] + sources[1:]] * count)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        value = values[0]
        if value is None:
            return [None] * len(call.outputs)
        x = value.plain()
        source = flow.sources[0][0]
        if isinstance(source, np.ndarray):
            x = self._uniform(call, x).ravel()[source]
        if self.twin is not None:
            x = self.twin(call, x)
        rim = self._rim(call)
        if rim:
            same = np.float32(x) == np.float32(rim)
            return [known(np.where(same, x, np.nan))]
        if rim == 0 and not value.border:
            found = known(x)
            return [found and Known(found.values, border=True)]
        return [known(x)] * len(call.outputs)

    def axes_lost(self, call: Call) -> list[int]:
        fewer = len(call.outputs[0].shape) < len(call.inputs[0].shape)
        return list(self.space(call)) if fewer else []

    def puts_rim(self, call: Call) -> bool:
        return self.pads(call.op)

    def _rim(self, call: Call) -> float | None:
        """The value that is put round the input; None where there is none."""
        return self.rim(call.op) if self.pads(call.op) else None

    def _uniform(
        self, call: Call, x: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Values that agree along the axes that are reduced."""
        axes = tuple(a for a in self.space(call) if x.shape[a] > 1)
        if not axes:
            return x
        same = (x == x.take([0], axes[0])).all(axis=axes, keepdims=True)
        return np.where(same, x, np.nan)

    def scaling(self, call: Call) -> Scaling | None:
        if self.passes is None or self._rim(call):
            return None
        return Scaling(self.passes)


def _of_nothing(call: Call) -> Flow:
    """What comes of a tensor without a coordinate, a sum over none say."""
    outputs = [
        np.full([1 if size != 0 else 0 for size in t.shape], lb.FIXED)
        for t in call.outputs
    ]
    sources = [[None] * len(call.inputs) for _ in outputs]
    return Flow(outputs, sources, mixes=True)


def filled(call: Call) -> str | None:
    """`bars` for an operation on images, as a batch and padded with 0."""
    if len(call.inputs[0].shape) != 4:
        return "it is supported on batches of images only"
    if getattr(call.op, "fill_value", 0):
        return "it fills with a value other than 0"
    return None


def reduced(call: Call) -> list[int]:
    """The axes of `ops.mean` and its like; all of them for None."""
    return axes_among(call.op.axis, len(call.inputs[0].shape))


def times_positions(call: Call, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A constant summed over known positions."""
    count = 1
    for axis in reduced(call):
        size = call.inputs[0].shape[axis]
        if size is None or axis == 0:
            return np.full(x.shape, np.nan)
        count *= size
    return x * count
