"""Operations that read all channels for statistics, or for a softmax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.elementwise import mixing_flow
from keras_gates.surgeon.rules.elementwise import rerun
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.per_channel import alike
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import axes_among
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import weight

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

    # The axes that statistics are taken over, of a tensor of some rank.
    Spans = Callable[[keras.Operation, int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Normalizing(PerChannel):
    """Statistics over `spans(op, rank)`: channels there are all read."""

    kind: str = "normalization"
    spans: Spans = lambda op, rank: (-1,)
    cuts: bool = False
    absorbs: Reading = ALL

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        flow = super().flow(call, inputs, units)
        if flow.reason is None:
            spans = self.spans(call.op, len(call.inputs[0].shape))
            mixed = mixing_flow(call, inputs, units, spans)
            flow = dataclasses.replace(flow, mixes=mixed.mixes)
        return flow

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """The shift: a closed channel counts as one at its mean."""
        if values[0] is None:
            return [None]
        beta = weight(call.op, "beta")
        x = values[0].plain()
        shape = [1] * x.ndim
        shape[self.axis(call)] = -1
        if beta is not None and beta.ndim != 1:
            return [None]
        shift = 0.0 if beta is None else beta.reshape(shape)
        found = np.where(np.isnan(x), np.nan, shift)
        same = found.shape == x.shape and not np.isnan(found).all()
        return [Known(found, guess=True) if same else None]

    def reading(self, call: Call) -> Reading:
        return self.absorbs

    def approximates(self, call: Call) -> bool:
        return self.absorbs == ALL


@dataclasses.dataclass(frozen=True)
class GroupNorm(Normalizing):
    """Cut only where each group is one channel (instance normalisation)."""

    kind: str = "group normalization"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        axis = call.op.axis % len(call.inputs[0].shape)
        channels = call.inputs[0].shape[axis]
        if call.op.groups not in (channels, -1):
            why = "a group's statistics read all of its channels"
            return barrier(call, inputs, units, why)
        return PerChannel.flow(self, call, inputs, units)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """A constant is its own mean: the shift alone comes out."""
        if values[0] is None:
            return [None]
        x = values[0].plain()
        shift = weight(call.op, "beta")
        if shift is None:
            return [known(np.where(np.isnan(x), np.nan, 0.0))]
        shape = [1] * x.ndim
        shape[call.op.axis] = -1
        shift = shift.reshape(shape)
        if np.broadcast_shapes(shift.shape, x.shape) != x.shape:
            return [None]
        return [known(np.where(np.isnan(x), np.nan, shift))]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        if "channel" not in view.index or call.op.groups == -1:
            return {}, call.args, call.kwargs
        groups = len(view.index["channel"])
        return {"groups": groups}, call.args, call.kwargs


@dataclasses.dataclass(frozen=True)
class Mixing(Elementwise):
    """Elementwise, but each output depends on all inputs along `spans`."""

    kind: str = "mixing"
    spans: Spans = lambda op, rank: (-1,)
    absorbs: Reading = ALL
    cuts: bool = False

    # `UnitNormalization` takes zeros for what they are, and puts out others
    # for what comes in: gates act in front of it.
    pointwise = False

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        spans = self.spans(call.op, len(call.inputs[0].shape))
        return mixing_flow(call, inputs, units, spans)

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        return None, True

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None]
        x = values[0].plain()
        if not flow.mixes:
            return [known(self._along_others(call, x))]
        if self.absorbs != ZERO:
            return [None]
        return [known(np.where(x == 0, 0.0, np.nan))]

    def _along_others(
        self, call: Call, x: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """What comes of constants along axes that hold no channels."""
        shape = call.inputs[0].shape
        spans = [a % x.ndim for a in self.spans(call.op, x.ndim)]
        if len(call.inputs) > 1 or any(shape[a] is None for a in spans):
            return None
        true = lb.spread(np.where(np.isnan(x), 0.0, x), shape, spans)
        found = alike(rerun(call, true), x.shape)
        return None if found is None else np.where(np.isnan(x), np.nan, found)

    def reading(self, call: Call) -> Reading:
        return self.absorbs

    def approximates(self, call: Call) -> bool:
        return self.absorbs == ALL


def norm_axes(op: keras.Operation, rank: int) -> list[int]:
    """The axes of a normalisation as a list."""
    return axes_among(op.axis, rank)


def single_axis(call: Call) -> int:
    """The last of the axes that a normalisation was given."""
    return int(np.atleast_1d(call.op.axis)[-1])
