"""Layers that treat each channel alone, with its own weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.elementwise import EXTRA
from keras_gates.surgeon.rules.elementwise import rerun
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.modes import Scaling
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import only_first
from keras_gates.surgeon.rules.source import Source

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.elementwise import Twin
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

    class Axis(Protocol):
        """What `Rule.axis` is, as a field."""

        def __call__(self, call: Call) -> int: ...


@dataclasses.dataclass(frozen=True)
class PerChannel(Rule):
    """Vectors of weights along an axis; each channel is treated alone.

    Attributes:
        axis: `call -> axis` of the channels, used instead of the method.
        twin: `(op, array) -> array` on an array with all channels,
            instead of running the layer.
        axes: weight name -> `("channel",)`, right-aligned as ever.
    """

    kind: str = "per channel"
    axis: Axis = lambda call: -1
    passes: str | None = None
    twin: Twin | None = None
    cuts: bool = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        shape = call.inputs[0].shape
        axis = self.axis(call) % len(shape)
        labels = inputs[0]
        sources = only_first(inputs, units, EXTRA)
        ids = one_axis(labels, axis, shape)
        if ids is not None:
            return Flow([labels], [sources], roles={"channel": ids})
        if lb.varying(labels):
            reason = f"its channels are not on axis {axis} of its input"
            return barrier(call, inputs, units, reason)
        return Flow([labels], [sources])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None]
        x = values[0].plain()
        shape = list(x.shape)
        axis = self.axis(call) % len(shape)
        shape[axis] = call.inputs[0].shape[axis]
        filled = np.broadcast_to(np.where(np.isnan(x), 0.0, x), shape)
        if self.twin is not None:
            result = self.twin(call.op, filled)
        else:
            result = rerun(call, filled)
        # The weights may vary along other axes, too: it may not matter.
        same = alike(result, x.shape)
        if same is not None:
            return [known(np.where(np.isnan(x), np.nan, same))]
        if self.passes is None:
            return [None]
        return [known(np.where(x == 0, 0.0, np.nan))]

    def scaling(self, call: Call) -> Scaling | None:
        return None if self.passes is None else Scaling(self.passes)


def alike(
    array: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """An array with the extents of `shape`, NaN where what goes differs.

    None where it is no longer one along some axis of `shape`.
    """
    if array.shape == shape:
        return array
    pairs = list(zip(array.shape, shape, strict=True))
    if any(own != size and size != 1 for own, size in pairs):
        return None
    axes = tuple(a for a, (own, size) in enumerate(pairs) if own != size)
    low, high = (f(array, axis=axes, keepdims=True) for f in (np.min, np.max))
    return np.where(low == high, low, np.nan)


def slopes_axis(call: Call) -> int:
    """The last axis along which there is more than one slope."""
    shape = call.op.alpha.shape
    own = [a for a, s in enumerate(shape) if s > 1]
    return own[-1] + 1 if own else len(shape)


@dataclasses.dataclass(frozen=True)
class PReLU(PerChannel):
    """Slopes of the input's shape, with 1 along the shared axes."""

    kind: str = "PReLU"
    axis: Axis = slopes_axis

    pointwise = True

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        rank = len(call.op.alpha.shape)
        axis = self.axis(call) - 1
        if call.op.alpha.shape[axis] == 1:
            return {"alpha": (None,)}
        return {"alpha": ("channel",) + (None,) * (rank - 1 - axis)}


@dataclasses.dataclass(frozen=True)
class Rescaling(PerChannel):
    """A scalar, or a vector along the last axis, from the config."""

    kind: str = "rescaling"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        first = keras.config.image_data_format() == "channels_first"
        vectors = np.ndim(call.op.scale) or np.ndim(call.op.offset)
        if vectors and first:
            why = (
                "a Rescaling by a vector depends on the global image data "
                "format"
            )
            return barrier(call, inputs, units, why)
        if vectors:
            return super().flow(call, inputs, units)
        sources = only_first(inputs, units, EXTRA)
        return Flow([inputs[0]], [sources])

    def sized(self, call: Call) -> bool:
        return bool(np.ndim(call.op.scale) or np.ndim(call.op.offset))

    def scaling(self, call: Call) -> Scaling | None:
        return LINEAR if np.all(np.asarray(call.op.offset) == 0) else None

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        kept = view.index.get("channel")
        config = {}
        for key in ("scale", "offset"):
            vector = np.asarray(getattr(call.op, key))
            if vector.ndim and kept is not None:
                config[key] = vector[..., kept].tolist()
        return config, call.args, call.kwargs


@dataclasses.dataclass(frozen=True)
class BatchNorm(PerChannel):
    """Its gammas are gates: where one is zero, beta alone comes out."""

    kind: str = "batch normalization"

    def source(self, call: Call) -> Source | None:
        gamma = call.op.gamma if call.op.scale else None
        if gamma is None:
            return None
        zeroed = {"gamma": "channel"}
        return Source(call.op, "batch_norm", gamma, zeroed)

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        labels = flow.labels[0]
        shape = [1] * labels.ndim
        shape[self.axis(call) % labels.ndim] = -1
        if "channel" not in flow.roles:
            return value
        center = call.op.center
        beta = as_float64(call.op.beta) if center else np.zeros(mask.shape)
        before = np.nan if value is None else value.values
        before = np.broadcast_to(before, labels.shape)
        return known(np.where(mask.reshape(shape), beta.reshape(shape), before))

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        if "channel" not in flow.roles:
            return None
        labels = flow.labels[0]
        shape = [1] * labels.ndim
        shape[self.axis(call) % labels.ndim] = -1
        places = np.arange(len(flow.roles["channel"])).reshape(shape)
        return np.broadcast_to(places, labels.shape)[..., None]


def batch_norm_axis(op: keras.Layer) -> int:
    return int(np.atleast_1d(op.axis)[0])


def batch_norm(op: keras.Layer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Batch normalization in inference, channels on `op.axis`."""
    shape = [1] * x.ndim
    shape[batch_norm_axis(op)] = -1

    def vector(name: str) -> NDArray[np.float64]:
        return as_float64(getattr(op, name)).reshape(shape)

    scale = vector("gamma") if op.scale else 1.0
    shift = vector("beta") if op.center else 0.0
    deviation = np.sqrt(vector("moving_variance") + op.epsilon)
    normalized: NDArray[np.float64] = (x - vector("moving_mean")) / deviation
    return normalized * scale + shift
