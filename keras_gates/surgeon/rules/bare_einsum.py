"""EinsumDense without a sum: a factor per channel, or a weight.

Weights that a layer uses in bare operations are written in this way:
`abc,c->abc` is `x * kernel`, and `ab,bcd->acd` of a one for each sample is the
kernel itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.ahead import ahead
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.linear import built_in
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import IDENTITY
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View


class Terms(NamedTuple):
    """The letters of an equation `x,kernel->y`."""

    x: str
    kernel: str
    y: str


def terms_of(equation: str) -> Terms:
    """The `Terms` of an equation."""
    left, _, y = equation.replace(" ", "").partition("->")
    x, _, kernel = left.partition(",")
    return Terms(x, kernel, y)


def scales(op: keras.Layer) -> bool:
    """Whether a layer multiplies each channel of an axis by a factor."""
    x, kernel, y = terms_of(op.equation)
    elided = "..." in x and not x.startswith("...")
    single = len(kernel) == 1 and x.count(kernel) == 1
    return x == y and single and not elided and x[0] != kernel


def sources(op: keras.Layer) -> bool:
    """Whether a layer puts out its kernel, times a number for each sample."""
    x, kernel, y = terms_of(op.equation)
    plain = len(x) == 2 and "." not in op.equation and len(kernel) > 1
    return plain and kernel[0] == x[1] and y == x[0] + kernel[1:]


def _axis_of(op: keras.Layer) -> int:
    x, kernel, _ = terms_of(op.equation)
    return x.index(kernel) - len(x)


@dataclasses.dataclass(frozen=True)
class EinsumScale(PerChannel):
    """`x * kernel + bias` along one axis."""

    kind: str = "einsum scale"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels, axis = inputs[0], self.axis(call)
        varying = lb.varying(labels)
        if varying and {*varying} != {axis % labels.ndim}:
            # Factors for steps, say: they bear on no channel, and stay. So
            # what is there at one of these goes with what is at the others.
            units.tie(labels, labels.take([0], axis=axis))
            return Flow([labels], [[IDENTITY]])
        return super().flow(call, inputs, units)

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        op, axes = call.op, {"kernel": ("channel",)}
        if op.bias is None:
            return axes
        # Keras gives the bias the axes of the output from the first that it
        # has, with an extent of 1 where it has none.
        rank = len(op.bias.shape)
        letter, y = terms_of(op.equation).kernel, terms_of(op.equation).y
        roles: list[str | None] = [None] * rank
        if letter in op.bias_axes:
            roles[y.index(letter) - len(y)] = "channel"
        return {**axes, "bias": tuple(roles)}

    def scaling(self, call: Call) -> Scaling | None:
        return self.scaling_but_bias(call) if call.op.bias is None else None

    def scaling_but_bias(self, call: Call) -> Scaling | None:
        return built_in(call)

    def behind(self, call: Call) -> Scaling | None:
        return built_in(call)

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        if side != "out":
            return super().takes(call, side)
        roles = self.axes_of(call).get("bias", ("channel",))
        every = {"kernel": "channel", "bias": "channel"}
        return every if "channel" in roles else None

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        axis, sizes = _axis_of(call.op), call.op.partial_output_shape
        kept = view.index.get("channel")
        # Along other axes with channels, the size is that of the input. The
        # sizes that can't change are kept: what follows may rely on them when
        # the model is loaded.
        extents = flow.labels[0].shape[1:]
        shape = [
            size if extent == 1 else None
            for size, extent in zip(sizes, extents, strict=True)
        ]
        shape[axis] = sizes[axis] if kept is None else len(kept)
        return {"output_shape": shape}, call.args, call.kwargs


def scaled(op: keras.Layer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an `EinsumScale` gives."""
    shape = [1] * x.ndim
    shape[_axis_of(op)] = -1
    y = x * as_float64(op.kernel).reshape(shape)
    if op.bias is not None:
        y = y + as_float64(op.bias)
    return activations.apply(op.activation, y)


SCALE = EinsumScale(
    axis=lambda call: _axis_of(call.op),
    twin=scaled,
    passes=LINEAR,
    counts=counts.einsum_dense,
)


@dataclasses.dataclass(frozen=True)
class EinsumSource(Linear):
    """The kernel for each sample.

    Its readers determine the channel axis, such as that of heads in a bias of
    attention. By default, it is the last one; but if a softmax runs along it,
    as for a mask, there is none.
    """

    kind: str = "einsum source"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        if (inputs[0] != lb.FIXED).any():
            units.pin(inputs[0], "it has one value per sample")
        axis = self._channels(call)
        if axis is None:
            rank = len(call.outputs[0].shape)
            return Flow([lb.fixed(rank)], [[None]], {}, mixes=True)
        # If calls have it along different axes, it is kept whole.
        key = (id(call.op), axis)
        out = units.mint(key, int(call.op.kernel.shape[axis]))
        reason = activations.why_not(call.op.activation)
        if reason is not None:
            units.pin(out, reason)
        labels = lb.vector(out, len(call.outputs[0].shape), axis)
        return Flow([labels], [[None]], {"out": out}, mixes=True)

    def axis_out(self, call: Call) -> int:
        axis = self._channels(call)
        return -1 if axis is None else axis

    def _channels(self, call: Call) -> int | None:
        """The channel axis, counted from the end, if it has any."""
        output = call.outputs[0]
        rank = len(output.shape)
        sizes = {
            axis: size
            for axis, size in enumerate(call.op.kernel.shape)
            if axis and size > 1
        }
        found = ahead(output, sizes)
        if len(sizes) > 1 and found.axis is not None:
            return found.axis - rank
        return None if rank - 1 in found.positions else -1

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        op, axis = call.op, self._channels(call)
        roles: list[str | None] = [None] * len(op.kernel.shape)
        if axis is None:
            count = 0 if op.bias is None else len(op.bias.shape)
            return {"kernel": tuple(roles), "bias": tuple(roles[:count])}
        roles[axis] = "out"
        kernel = tuple(roles)
        if op.bias is None:
            return {"kernel": kernel}
        # Keras gives the bias the axes of the output from its first letter.
        letters = terms_of(op.equation).y
        if letters[axis] not in op.bias_axes:
            roles[axis] = None
        bias = tuple(roles[-len(op.bias.shape) :])
        return {"kernel": kernel, "bias": bias}

    def reading(self, call: Call) -> Reading:
        return ALL

    def merges(self, call: Call) -> bool:
        return False

    def approximates(self, call: Call) -> bool:
        return False

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        shape = list(call.op.partial_output_shape)
        if "out" in view.index:
            shape[self.axis_out(call)] = len(view.index["out"])
        return {"output_shape": shape}, call.args, call.kwargs


SOURCE = EinsumSource(
    scales={"out": {"kernel": "out", "bias": "out"}},
    costs={},  # what it multiplies is 1
)
