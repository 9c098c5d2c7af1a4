"""The stock layers that convolutions with a shortcut are made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import layers
from keras import ops

if TYPE_CHECKING:
    from keras_gates.layers.resconv.res_conv import ResConv
    from keras_gates.layers.window import Window

_CONVOLUTIONS = {1: layers.Conv1D, 2: layers.Conv2D}
_DEPTHWISE = {1: layers.DepthwiseConv1D, 2: layers.DepthwiseConv2D}
_PADDINGS = {1: layers.ZeroPadding1D, 2: layers.ZeroPadding2D}
_POOLS = {1: layers.AveragePooling1D, 2: layers.AveragePooling2D}

RANKS = tuple(_CONVOLUTIONS)
CONVOLUTIONS = tuple(_CONVOLUTIONS.values())
DEPTHWISE = tuple(_DEPTHWISE.values())


def convolution(
    rank: int, channels: int | None, filters: int, groups: int, **settings: Any
) -> keras.Layer:
    """A convolution, depthwise if each channel is its own group.

    It is the same function, but TensorFlow can't train a grouped convolution on
    a CPU, and it is slow elsewhere.

    Args:
        rank: 1 or 2, the number of spatial axes.
        channels: those of the input; None for unknown.
        filters: the number of output channels.
        groups: as in `keras.layers.Conv2D`.
        **settings: further arguments of `keras.layers.Conv2D`.
    """
    if groups == 1 or groups != channels:
        return _CONVOLUTIONS[rank](filters, groups=groups, **settings)
    named = {
        key.replace("kernel_", "depthwise_")
        if key != "kernel_size"
        else key: value
        for key, value in settings.items()
    }
    return _DEPTHWISE[rank](depth_multiplier=filters // groups, **named)


def normalization(layer: ResConv, name: str) -> keras.Layer | None:
    """The new batch normalization of a `ResConv`, or None.

    Raises:
        ValueError: `batch_norm` is neither a bool nor a dict, or sets what the
            layer itself sets.
    """
    given = layer.batch_norm
    if given is False:
        return None
    options = {} if given is True else given
    own = {
        "axis": layer.channel_axis,
        "dtype": layer.dtype_policy,
        "name": name,
    }
    if not isinstance(options, dict) or own.keys() & options.keys():
        layer.refuse(
            f"batch_norm={given!r}",
            "Expected: True, False, or a dict of arguments of "
            f"BatchNormalization other than {', '.join(own)}.",
        )
    return layers.BatchNormalization(**own, **options)


def is_depthwise(layer: keras.Layer) -> bool:
    """Whether a layer is a depthwise convolution."""
    return isinstance(layer, DEPTHWISE)


def zero_padded_mean(
    x: Any, window: Window, channels: int, data_format: str
) -> Any:
    """The average over a window, zeros of the padding included."""
    if window.padding == "valid":
        return ops.average_pool(
            x, window.kernel, window.strides, "valid", data_format
        )
    shape = (*window.kernel, channels, 1)
    share = ops.full(shape, 1 / math.prod(window.kernel), x.dtype)
    return ops.depthwise_conv(
        x, share, window.strides, "same", data_format=data_format
    )


def zero_padded_pool(
    window: Window, data_format: str, dtype: Any, name: str
) -> list[keras.Layer]:
    """The same average as a list of layers.

    The "same" pooling of Keras excludes the padding from its averages, which no
    kernel does: the two would differ along the border.

    Args:
        window: the `Window`; where its sizes are unknown and matter, a
            depthwise convolution with a fixed kernel stands for the pooling.
        data_format: "channels_last" or "channels_first".
        dtype: the dtype policy of the layers.
        name: the prefix of the layers' names.
    """
    rank, pads = len(window.kernel), window.pads
    shared = {"data_format": data_format, "dtype": dtype}
    if None in pads:
        share = keras.initializers.Constant(1 / math.prod(window.kernel))
        fixed = _DEPTHWISE[rank](
            window.kernel,
            window.strides,
            window.padding,
            use_bias=False,
            depthwise_initializer=share,
            trainable=False,
            name=f"{name}_pool",
            **shared,
        )
        return [fixed]
    pool = _POOLS[rank](
        window.kernel, window.strides, name=f"{name}_pool", **shared
    )
    if not any(pad != (0, 0) for pad in pads):
        return [pool]
    widths = pads[0] if rank == 1 else pads
    return [_PADDINGS[rank](widths, name=f"{name}_pad", **shared), pool]
