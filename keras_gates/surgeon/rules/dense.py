"""Dense, whose channels may be along an axis that it does not mix.

A mixer swaps the axes of tokens and channels, and mixes tokens: the kernel
reads tokens, in the same way for each channel. So channels pass, as through a
pooling over space. What the kernel makes then stays whole: a tensor has units
along one axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.rule import IDENTITY
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import weight

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known


@dataclasses.dataclass(frozen=True)
class Dense(Linear):
    """`act(x . kernel + bias)` along the last axis."""

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels = inputs[0]
        varying = lb.varying(labels)
        last = self.axis(call) % labels.ndim
        followed = activations.why_not(call.op.activation) is None
        if not varying or last in varying or not followed:
            return super().flow(call, inputs, units)
        return Flow([labels], [[IDENTITY]])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if "out" in flow.roles:
            return super().value(call, flow, values)
        if values[0] is None:
            return [None]
        x = values[0].plain()
        # (channels, tokens): a bias has a value for each token.
        kernel = as_float64(call.op.kernel).sum(axis=0)
        out = np.where(np.isnan(x), 0.0, x).reshape(-1, 1) * kernel
        bias = weight(call.op, "bias")
        out = out + (0.0 if bias is None else bias)
        out = activations.apply(call.op.activation, out)
        same = (out == out[:, :1]).all(axis=1).reshape(x.shape)
        first = np.where(same, out[:, 0].reshape(x.shape), np.nan)
        return [known(np.where(np.isnan(x), np.nan, first))]
