"""Convolutions: whole, transposed, separable, depthwise, in groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.linear import built_in
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import weight

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling


@dataclasses.dataclass(frozen=True)
class Conv(Linear):
    """Convolutions, whole or in groups.

    Zero padding makes a constant input look different at the border, so a
    constant can become a bias only where there is none.
    """

    kind: str = "convolution"

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        if call.op.groups == 1:
            return self.axes
        return {**self.axes, self.kernel: ("in of group", "out")}

    def couple(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> None:
        groups = call.op.groups
        if groups == 1:
            return
        for role in ("in", "out"):
            if role in roles:
                ids = roles[role].reshape(groups, -1)
                units.tie(ids, ids[:1])
        if "in" in roles:
            roles["in of group"] = roles["in"].reshape(groups, -1)[0]

    def reading(self, call: Call) -> Reading:
        return conv_reading(call.op)

    def merges(self, call: Call) -> bool:
        return bool(call.op.groups == 1)

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        taken = super().takes(call, side)
        grouped = call.op.groups > 1 and side == "in"
        return None if grouped else taken

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        groups = part.groups
        if groups == 1:
            return super().contribution(part, values)
        kernel = as_float64(getattr(part, self.kernel))
        taps = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
        taps = taps.reshape(taps.shape[0], groups, -1)
        x = np.where(np.isnan(values), 0.0, values).reshape(groups, -1)
        # (group, in) and (in, group, out)
        added: NDArray[np.float64] = np.einsum("gi,igo->go", x, taps)
        return added.reshape(-1)


def conv_reading(op: keras.Layer) -> Reading:
    """Zero padding changes a constant at the border."""
    point = all(k == 1 for k in op.kernel_size)
    return BIAS if point or op.padding == "valid" else ZERO


@dataclasses.dataclass(frozen=True)
class ConvTranspose(Linear):
    """Transposed convolutions; the kernel is `(..., out, in)`.

    The number of taps that reach an output position depends on the stride, so a
    constant input does not give a constant output; but the operation is linear,
    so constants merge.
    """

    kind: str = "transposed convolution"

    def reading(self, call: Call) -> Reading:
        return ZERO

    def approximates(self, call: Call) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Separable(Linear):
    """A depthwise, then a 1x1 convolution, in one layer."""

    kind: str = "separable convolution"
    kernel: str = "pointwise_kernel"

    def couple(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> None:
        if "in" in roles:
            multiplier = call.op.depth_multiplier
            roles["middle"] = np.repeat(roles["in"], multiplier)

    def reading(self, call: Call) -> Reading:
        return conv_reading(call.op)

    def merges(self, call: Call) -> bool:
        return False

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        depthwise = as_float64(part.depthwise_kernel)
        spatial = tuple(range(depthwise.ndim - 2))
        taps = depthwise.sum(axis=spatial)  # (in, multiplier)
        x = np.where(np.isnan(values), 0.0, values)[:, None]
        return super().contribution(part, (taps * x).reshape(-1))


@dataclasses.dataclass(frozen=True)
class Depthwise(Rule):
    """Each channel has its own kernel; outputs go with their input."""

    kind: str = "depthwise convolution"
    kernel: str = "kernel"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        axis = channel_axis(call.op, len(call.inputs[0].shape))
        ids = one_axis(inputs[0], axis, call.inputs[0].shape)
        if ids is None:
            reason = "each of its filters has one fixed input channel"
            return barrier(call, inputs, units, reason)
        # A kernel is `(..., in, multiplier)`, or `(..., 1, out)` of groups.
        count = math.prod(getattr(call.op, self.kernel).shape[-2:])
        source = np.repeat(np.arange(len(ids)), count // len(ids))
        out = ids[source]
        why = activations.why_not(call.op.activation)
        if why is not None:
            units.pin(out, why)
        rank = len(call.outputs[0].shape)
        return Flow(
            [lb.vector(out, rank, axis)],
            [[lb.vector(source, rank, axis)]],
            {"in": ids, "out": out},
        )

    def taps(self, op: keras.Layer) -> NDArray[np.float64]:
        """The sum of each output channel's kernel, `(out,)`."""
        kernel = as_float64(getattr(op, self.kernel))
        spatial = tuple(range(kernel.ndim - 2))
        taps: NDArray[np.float64] = kernel.sum(axis=spatial)
        return taps.reshape(-1)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        source = flow.sources[0][0]
        if values[0] is None or not isinstance(source, np.ndarray):
            return [None]
        x = values[0].plain()
        axis = channel_axis(call.op, x.ndim)
        if x.size != x.shape[axis]:
            return [None]
        x = x.reshape(-1)[source.reshape(-1)]
        if conv_reading(call.op) == BIAS:
            out = x * self.taps(call.op)
        else:
            out = np.where(x == 0, 0.0, np.nan)
        bias = weight(call.op, "bias")
        out = out + (0.0 if bias is None else bias)
        out = activations.apply(call.op.activation, out)
        return [known(out.reshape(flow.labels[0].shape))]

    def scaling(self, call: Call) -> Scaling | None:
        return None if call.op.use_bias else built_in(call)

    def scaling_but_bias(self, call: Call) -> Scaling | None:
        return built_in(call)

    def behind(self, call: Call) -> Scaling | None:
        return built_in(call)

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        """A factor scales the kernels, where each input has one filter."""
        axis = channel_axis(call.op, len(call.inputs[0].shape))
        same = call.inputs[0].shape[axis] == call.outputs[0].shape[axis]
        if not same:
            return None
        role = next(r for r in self.axes[self.kernel] if r is not None)
        weights = {self.kernel: role}
        return weights if side == "in" else {**weights, "bias": "out"}


@dataclasses.dataclass(frozen=True)
class AnyConv(Rule):
    """`Conv` or, where each group is one input channel, `Depthwise`."""

    kind: str = "convolution"
    whole: Conv = Conv()
    channelwise: Depthwise = Depthwise()

    def pick(self, call: Call) -> Rule:
        axis = channel_axis(call.op, len(call.inputs[0].shape))
        each = call.op.groups == call.inputs[0].shape[axis]
        return self.channelwise if call.op.groups > 1 and each else self.whole
