"""Operations that treat every coordinate alike, or each channel alone."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import known
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import only_first
from keras_gates.surgeon.rules.rule import run

EXTRA = "an input beside the data is read whole"


def rerun(call, array):
    """The recorded call on `array` in place of its first tensor."""
    first = call.inputs[0]

    def function(x):
        args, kwargs = keras.tree.map_structure(
            lambda a: x if a is first else a, (call.args, call.kwargs)
        )
        if isinstance(call.op, keras.Layer):
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
            return call.op.call(*args, **kwargs)
        return call.op.call(*args, **kwargs)

    return run(function, array)


@dataclasses.dataclass(frozen=True)
class Elementwise(Rule):
    """Labels pass; a constant is what the operation makes of it.

    Attributes:
        passes: how a factor passes (LINEAR, POSITIVE, ...), or None.
        twin: `(op, array) -> array`, instead of running the operation.
    """

    kind: str = "elementwise"
    passes: str | None = None
    twin: Callable | None = None
    cuts: bool = True

    def flow(self, call, inputs, units):
        sources = only_first(inputs, units, EXTRA)
        return Flow([inputs[0]], [sources])

    def value(self, call, flow, values):
        if values[0] is None:
            return [None]
        x = values[0].plain()
        filled = np.where(np.isnan(x), 0.0, x)
        if self.twin is not None:
            result = self.twin(call.op, filled)
        else:
            result = rerun(call, filled)
        return [known(np.where(np.isnan(x), np.nan, result))]

    def scaling(self, call):
        return self.passes


@dataclasses.dataclass(frozen=True)
class Activated(Elementwise):
    """A layer that applies `op.activation`."""

    kind: str = "activation"

    def flow(self, call, inputs, units):
        reason = activations.why_not(call.op.activation)
        if reason is None:
            return super().flow(call, inputs, units)
        if activations.known_activation(call.op.activation) is None:
            return barrier(call, inputs, units, reason)
        return mixing_flow(call, inputs, units, -1)

    def value(self, call, flow, values):
        if values[0] is None or flow.mixes:
            return [None]
        result = activations.apply(call.op.activation, values[0].plain())
        return [known(result)]

    def reading(self, call):
        return ALL

    def approximates(self, call):
        return True

    def scaling(self, call):
        row = activations.known_activation(call.op.activation)
        return row.passes if row is not None else None


def mixing_flow(call, inputs, units, axes):
    """Labels pass, but each output depends on all inputs along `axes`."""
    rank = len(call.inputs[0].shape)
    axes = [axes] if isinstance(axes, int) else list(axes)
    mixed = {axis % rank for axis in axes}
    sources = only_first(inputs, units, EXTRA)
    mixes = any(axis in mixed for axis in lb.varying(inputs[0]))
    return Flow([inputs[0]], [sources], mixes=mixes)


@dataclasses.dataclass(frozen=True)
class PerChannel(Rule):
    """One or more vectors of weights along an axis, each channel alone.

    Attributes:
        axis: `op -> axis` of the channels.
        twin: `(op, array) -> array` on an array with all channels,
            instead of running the layer.
        axes: weight name -> `("channel",)`, right-aligned as ever.
    """

    kind: str = "per channel"
    axis: Callable = lambda op: -1
    passes: str | None = None
    twin: Callable | None = None
    cuts: bool = True

    def flow(self, call, inputs, units):
        shape = call.inputs[0].shape
        axis = self.axis(call.op) % len(shape)
        labels = inputs[0]
        sources = only_first(inputs, units, EXTRA)
        ids = one_axis(labels, axis, shape)
        if ids is not None:
            return Flow([labels], [sources], roles={"channel": ids})
        if lb.varying(labels):
            reason = f"its channels are not on axis {axis} of its input"
            return barrier(call, inputs, units, reason)
        return Flow([labels], [sources])

    def value(self, call, flow, values):
        if values[0] is None:
            return [None]
        x = values[0].plain()
        shape = list(x.shape)
        axis = self.axis(call.op) % len(shape)
        shape[axis] = call.inputs[0].shape[axis]
        filled = np.broadcast_to(np.where(np.isnan(x), 0.0, x), shape)
        if self.twin is not None:
            result = self.twin(call.op, filled)
        else:
            result = rerun(call, filled)
        if result.shape != x.shape:
            return [None]
        return [known(np.where(np.isnan(x), np.nan, result))]

    def scaling(self, call):
        return self.passes


def batch_norm_axis(op):
    return op.axis if isinstance(op.axis, int) else op.axis[0]


def batch_norm(op, x):
    """Batch normalisation in inference, channels on `op.axis`."""
    shape = [1] * x.ndim
    shape[batch_norm_axis(op)] = -1

    def vector(variable, default):
        if variable is None:
            return default
        array = keras.ops.convert_to_numpy(variable).astype("float64")
        return array.reshape(shape)

    scale = vector(op.gamma, 1.0) if op.scale else 1.0
    shift = vector(op.beta, 0.0) if op.center else 0.0
    deviation = np.sqrt(vector(op.moving_variance, None) + op.epsilon)
    return (x - vector(op.moving_mean, None)) / deviation * scale + shift


@dataclasses.dataclass(frozen=True)
class Normalizing(PerChannel):
    """Statistics over `spans(op, rank)`: channels there are all read."""

    kind: str = "normalization"
    spans: Callable = lambda op, rank: (-1,)
    cuts: bool = False
    absorbs: str = ALL

    def flow(self, call, inputs, units):
        flow = super().flow(call, inputs, units)
        if flow.reason is None:
            spans = self.spans(call.op, len(call.inputs[0].shape))
            mixed = mixing_flow(call, inputs, units, spans)
            flow.mixes = mixed.mixes
        return flow

    def value(self, call, flow, values):
        return [None]

    def reading(self, call):
        return self.absorbs

    def approximates(self, call):
        return self.absorbs == ALL


@dataclasses.dataclass(frozen=True)
class GroupNorm(Normalizing):
    """Cut only where each group is one channel (instance normalisation)."""

    kind: str = "group normalization"

    def flow(self, call, inputs, units):
        axis = call.op.axis % len(call.inputs[0].shape)
        channels = call.inputs[0].shape[axis]
        if call.op.groups not in (channels, -1):
            why = "a group's statistics read all of its channels"
            return barrier(call, inputs, units, why)
        return PerChannel.flow(self, call, inputs, units)

    def revise(self, call, flow, view):
        if "channel" not in view.index or call.op.groups == -1:
            return {}, call.args, call.kwargs
        groups = len(view.index["channel"])
        return {"groups": groups}, call.args, call.kwargs


@dataclasses.dataclass(frozen=True)
class Mixing(Elementwise):
    """Elementwise, but each output depends on all inputs along `spans`."""

    kind: str = "mixing"
    spans: Callable = lambda op, rank: (-1,)
    absorbs: str = ALL
    cuts: bool = False

    def flow(self, call, inputs, units):
        spans = self.spans(call.op, len(call.inputs[0].shape))
        return mixing_flow(call, inputs, units, spans)

    def value(self, call, flow, values):
        return [None]

    def reading(self, call):
        return self.absorbs

    def approximates(self, call):
        return self.absorbs == ALL


@dataclasses.dataclass(frozen=True)
class ReLU(Elementwise):
    """The ReLU layer: homogeneous unless it is clipped or shifted."""

    kind: str = "activation"

    def scaling(self, call):
        if call.op.threshold != 0:
            return None
        return POSITIVE if call.op.max_value is None else PRESERVES_ZERO


@dataclasses.dataclass(frozen=True)
class PReLU(PerChannel):
    """Slopes of the input's shape, with 1 along the shared axes."""

    kind: str = "PReLU"

    def axis(self, op):
        """The last axis along which there is more than one slope."""
        shape = op.alpha.shape
        own = [a for a, s in enumerate(shape) if s > 1]
        return own[-1] + 1 if own else len(shape)

    def axes_of(self, call):
        rank = len(call.op.alpha.shape)
        axis = self.axis(call.op) - 1
        if call.op.alpha.shape[axis] == 1:
            return {"alpha": (None,)}
        return {"alpha": ("channel",) + (None,) * (rank - 1 - axis)}


@dataclasses.dataclass(frozen=True)
class Rescaling(PerChannel):
    """A scalar, or a vector along the last axis, from the config."""

    kind: str = "rescaling"

    def flow(self, call, inputs, units):
        first = keras.config.image_data_format() == "channels_first"
        vectors = np.ndim(call.op.scale) or np.ndim(call.op.offset)
        if vectors and first:
            why = "a vector Rescaling follows the global image format"
            return barrier(call, inputs, units, why)
        if vectors:
            return super().flow(call, inputs, units)
        sources = only_first(inputs, units, EXTRA)
        return Flow([inputs[0]], [sources])

    def scaling(self, call):
        return LINEAR if np.all(np.asarray(call.op.offset) == 0) else None

    def revise(self, call, flow, view):
        kept = view.index.get("channel")
        config = {}
        for key in ("scale", "offset"):
            vector = np.asarray(getattr(call.op, key))
            if vector.ndim and kept is not None:
                config[key] = vector[..., kept].tolist()
        return config, call.args, call.kwargs


def norm_axes(op, rank):
    """The axes of a normalisation as a tuple."""
    axis = op.axis
    return tuple(axis) if isinstance(axis, (list, tuple)) else (axis,)


def single_axis(op):
    return norm_axes(op, None)[-1]


IDENTITY_TWIN = Elementwise(
    kind="identity in inference", passes=LINEAR, twin=lambda op, x: x
)
# A scaled input would change the noise, or the penalty, of training.
NOISE = Elementwise(
    kind="identity in inference", passes=None, twin=lambda op, x: x
)
