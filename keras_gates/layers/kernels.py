"""Arithmetic on the kernels of convolutions, in float64.

Kernels are laid out as Keras does: `(*window, channels of a group, filters)`,
and `(*window, channels, multiplier)` where they are depthwise.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.layers import stock


def values(variable: keras.Variable) -> NDArray[np.float64]:
    """A weight in float64."""
    return keras.ops.convert_to_numpy(variable).astype("float64")


def of(layer: keras.Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`(kernel, bias)` of a convolution or Dense layer; 0 for no bias."""
    kernel = values(layer.kernel)
    if layer.bias is not None:
        return kernel, values(layer.bias)
    outputs = kernel.shape[-1]
    if stock.is_depthwise(layer):
        outputs *= kernel.shape[-2]
    return kernel, np.zeros(outputs)


def affine(norm: Any) -> Any:
    """`(scale, offset)` of a batch normalization in inference."""
    variance = values(norm.moving_variance) + norm.epsilon
    scale = 1 / np.sqrt(variance)
    if norm.gamma is not None:
        scale = scale * values(norm.gamma)
    offset = -scale * values(norm.moving_mean)
    if norm.beta is not None:
        offset = offset + values(norm.beta)
    return scale, offset


def normalized(kernel: Any, bias: Any, norm: Any) -> Any:
    """A kernel and bias with the batch normalization behind them."""
    scale, offset = affine(norm)
    return scaled(kernel, scale), scale * bias + offset


def scaled(kernel: Any, factors: Any) -> Any:
    """A kernel whose outputs are multiplied by a factor each."""
    depthwise = len(factors) != kernel.shape[-1]
    if depthwise:
        factors = factors.reshape(kernel.shape[-2:])
    return kernel * factors


def identity(shape: Any, depthwise: Any) -> Any:
    """What hands each channel on, as the last two axes of a kernel."""
    if depthwise:
        return np.ones(shape[-2:])
    rows, columns = shape[-2:]
    # A group counts its channels from the first of its own.
    numbers = np.arange(columns)
    found = np.zeros((rows, columns))
    found[numbers % rows, numbers] = 1.0
    return found


def at_tap(shape: Any, tap: Any, channels: Any) -> Any:
    """A kernel that reads one pixel: zero at all taps but one."""
    found = np.zeros(shape)
    found[tuple(tap)] = channels
    return found


def averaging(shape: Any, channels: Any) -> Any:
    """A kernel that reads the average over its window."""
    return np.broadcast_to(channels / np.prod(shape[:-2]), shape)
