"""The one convolution that a `ResConv` is in inference."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_gates.layers import kernels
from keras_gates.layers import stock


def fuse(layer: keras.Layer) -> Any:
    """The built convolution of a built `ResConv`."""
    kernel, bias = fused_weights(layer)
    ((axis, channels),) = layer.conv.input_spec.axes.items()
    shape = [None] * kernel.ndim
    shape[axis] = channels
    new = layer.convolution(
        kernel.ndim - 2,
        channels,
        use_bias=True,
        activation=layer.activation,
        kernel_constraint=None,
        bias_constraint=None,
        name=layer.name,
    )
    new.build(tuple(shape))
    new.set_weights([kernel, bias])
    new.trainable = layer.trainable
    return new


def fused_weights(layer: keras.Layer) -> Any:
    """`(kernel, bias)` of that convolution, in float64."""
    kernel, bias = kernels.of(layer.conv)
    if layer.norm is not None:
        kernel, bias = kernels.normalized(kernel, bias, layer.norm)
    m, g = kernels.values(layer.m), kernels.values(layer.g)
    added, offset = _shortcut(layer, kernel.shape)
    return m * kernel + g * added, m * bias + g * offset


def _shortcut(layer: keras.Layer, shape: Any) -> Any:
    """The kernel and bias that compute the shortcut."""
    offset = 0.0
    if layer.pointwise is None:
        depthwise = stock.is_depthwise(layer.conv)
        channels = kernels.identity(shape, depthwise)
    else:
        channels, offset = kernels.of(layer.pointwise)
        channels = np.squeeze(channels, tuple(range(len(shape) - 2)))
    if layer.shortcut_kind.startswith("pool"):
        return kernels.averaging(shape, channels), offset
    return kernels.at_tap(shape, layer.taps, channels), offset
