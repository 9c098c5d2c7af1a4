"""Arithmetic on the kernels of convolutions, in float64.

Kernels are laid out as Keras does: `(*window, channels of a group, filters)`,
and `(*window, channels, multiplier)` where they are depthwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.layers import stock

Floats: TypeAlias = NDArray[np.float64]


class Weights(NamedTuple):
    """The kernel and bias of a layer; a missing bias is 0."""

    kernel: Floats
    bias: Floats


class Affine(NamedTuple):
    """A batch normalization in inference: `scale * x + offset`."""

    scale: Floats
    offset: Floats


def values(variable: keras.Variable) -> Floats:
    """A weight in float64."""
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


def weights(layer: keras.Layer) -> Weights:
    """The `Weights` of a convolution or Dense layer."""
    kernel = values(layer.kernel)
    if layer.bias is not None:
        return Weights(kernel, values(layer.bias))
    outputs = kernel.shape[-1]
    if stock.is_depthwise(layer):
        outputs *= kernel.shape[-2]
    return Weights(kernel, np.zeros(outputs))


def affine(norm: keras.Layer) -> Affine:
    """The `Affine` of a batch normalization."""
    variance = values(norm.moving_variance) + norm.epsilon
    scale = 1 / np.sqrt(variance)
    if norm.gamma is not None:
        scale = scale * values(norm.gamma)
    offset = -scale * values(norm.moving_mean)
    if norm.beta is not None:
        offset = offset + values(norm.beta)
    return Affine(scale, offset)


def normalized(kernel: Floats, bias: Floats, norm: keras.Layer) -> Weights:
    """A kernel and bias with the following batch normalization folded in."""
    scale, offset = affine(norm)
    return Weights(scaled(kernel, scale), scale * bias + offset)


def scaled(kernel: Floats, factors: Floats) -> Floats:
    """A kernel whose outputs are multiplied by one factor each."""
    depthwise = len(factors) != kernel.shape[-1]
    if depthwise:
        factors = factors.reshape(kernel.shape[-2:])
    return kernel * factors


def identity(shape: tuple[int, ...], depthwise: bool) -> Floats:
    """The identity, as the last two axes of a kernel."""
    if depthwise:
        return np.ones(shape[-2:])
    rows, columns = shape[-2:]
    # Within a group, channels are counted from its first one.
    numbers = np.arange(columns)
    kernel = np.zeros((rows, columns))
    kernel[numbers % rows, numbers] = 1.0
    return kernel


def at_tap(
    shape: tuple[int, ...], tap: Sequence[int | None], channels: Floats
) -> Floats:
    """A kernel that reads one pixel: zero at all taps but one."""
    kernel = np.zeros(shape)
    kernel[tuple(tap)] = channels
    return kernel


def averaging(shape: tuple[int, ...], channels: Floats) -> Floats:
    """A kernel that reads the average over its window."""
    return np.broadcast_to(channels / np.prod(shape[:-2]), shape)
