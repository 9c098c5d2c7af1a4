"""The one convolution that a `ResConv` is in inference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_gates.layers import kernels
from keras_gates.layers import stock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from keras_gates.layers.resconv.res_conv import ResConv


def fuse(layer: ResConv) -> keras.Layer:
    """The built convolution of a built `ResConv`."""
    kernel, bias = fused_weights(layer)
    ((axis, channels),) = layer.conv.input_spec.axes.items()
    shape: list[int | None] = [None] * kernel.ndim
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


def fused_weights(layer: ResConv) -> kernels.Weights:
    """The weights of that convolution."""
    kernel, bias = kernels.weights(layer.conv)
    if layer.norm is not None:
        kernel, bias = kernels.normalized(kernel, bias, layer.norm)
    m, g = kernels.values(layer.m), kernels.values(layer.g)
    added, offset = _shortcut(layer, kernel.shape)
    return kernels.Weights(m * kernel + g * added, m * bias + g * offset)


def _shortcut(layer: ResConv, shape: tuple[int, ...]) -> kernels.Weights:
    """The kernel and bias that compute the shortcut."""
    offset: NDArray[np.float64] = np.zeros(())
    if layer.pointwise is None:
        depthwise = stock.is_depthwise(layer.conv)
        channels = kernels.identity(shape, depthwise)
    else:
        channels, offset = kernels.weights(layer.pointwise)
        channels = np.squeeze(channels, tuple(range(len(shape) - 2)))
    if layer.shortcut_kind.startswith("pool"):
        return kernels.Weights(kernels.averaging(shape, channels), offset)
    kernel = kernels.at_tap(shape, layer.taps, channels)
    return kernels.Weights(kernel, offset)
