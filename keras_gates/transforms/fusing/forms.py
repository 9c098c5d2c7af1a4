"""Converts linear layers to the form `Linear`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.configs import config_of
from keras_gates.layers import kernels
from keras_gates.layers import stock
from keras_gates.layers.window import Window
from keras_gates.transforms.fusing import linear

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.graph import Site
    from keras_gates.transforms.fusing.linear import Linear


def form_of(site: Site, rank: int, axis: int) -> Linear | None:
    """The `Linear` of a recorded call, or None.

    Args:
        site: the `Site`.
        rank: spatial axes that the window has; 0 for Dense layers.
        axis: the channel axis.
    """
    return _form(site, rank, axis) if is_linear(site) else None


def form_inside(site: Site) -> Linear | None:
    """The `Linear` of a convolution or Dense layer without its activation."""
    return _form(site, *layout_of(site))


def is_linear(site: Site) -> bool:
    """Whether a call has no activation."""
    activation = getattr(site.op, "activation", None)
    return activation in (None, keras.activations.linear)


def _form(site: Site, rank: int, axis: int) -> Linear | None:
    make = _FORMS.get(type(site.op))
    alone = len(site.node.input_tensors) == len(site.node.outputs) == 1
    if make is None or not alone or gr.has_own_call(site.op):
        return None
    return make(site, rank, axis)


def is_kernel(site: Site) -> bool:
    """Whether a fused layer can be made from the layer of a call."""
    return type(site.op) in KERNELS


def is_padding(site: Site) -> bool:
    """Whether a call pads with zeros."""
    return type(site.op) in PADDINGS


def layouts(shape: Shape) -> list[tuple[int, int]]:
    """`(rank, axis)` of all layers that can produce tensors of a shape."""
    rank = len(shape) - 2
    spatial = [(rank, rank + 1), (rank, 1)] if rank in stock.RANKS else []
    return [*spatial, (0, rank + 1)]


def layout_of(site: Site) -> tuple[int, int]:
    """`(rank, axis)` of a convolution or Dense layer."""
    count = len(site.node.outputs[0].shape)
    if type(site.op) is layers.Dense:
        return 0, count - 1
    first = site.op.data_format == "channels_first"
    return count - 2, 1 if first else count - 1


def remade(
    layer: keras.Layer, form: Linear
) -> tuple[keras.Layer, list[NDArray[np.float64]]]:
    """A layer like a convolution or Dense layer, and its new weights."""
    kernel = form.kernel
    if stock.is_depthwise(layer):
        kernel = kernel.reshape(*form.taps, form.channels, -1)
    prefix = "depthwise" if stock.is_depthwise(layer) else "kernel"
    config = {
        **config_of(layer),
        "use_bias": form.biased,
        f"{prefix}_constraint": None,
        "bias_constraint": None,
    }
    new = type(layer).from_config(config)
    return new, [kernel, form.bias][: 1 + form.biased]


def _window(site: Site, rank: int, axis: int) -> Window | None:
    """The `Window` of a layer with the given layout, or None."""
    op, shape = site.op, site.node.input_tensors[0].shape
    first = getattr(op, "data_format", "channels_last") == "channels_first"
    if len(shape) != rank + 2 or axis != (1 if first else rank + 1):
        return None
    sizes = tuple(s for a, s in enumerate(shape) if a not in (0, axis))
    taps = getattr(op, "kernel_size", None) or op.pool_size
    steps = getattr(op, "dilation_rate", (1,) * rank)
    if op.padding not in ("same", "valid"):
        return None
    return Window(taps, op.strides, steps, op.padding, sizes)


def _shifted(
    window: Window,
    kernel: NDArray[np.float64],
    bias: NDArray[np.float64],
    groups: int,
    biased: bool = False,
) -> Linear:
    pads = [pad for pad in window.pads if pad is not None]
    placed = len(pads) == len(window.pads)
    return linear.Linear(
        kernel,
        bias,
        groups,
        window.strides,
        tuple(-before for before, _ in pads)
        if placed
        else (0,) * len(window.pads),
        window.dilation,
        biased,
        not placed or any(any(pad) for pad in pads),
        placed,
    )


def _convolution(site: Site, rank: int, axis: int) -> Linear | None:
    op, window = site.op, _window(site, rank, axis)
    if window is None or not _is_bare(op):
        return None
    kernel, bias = kernels.weights(op)
    groups = getattr(op, "groups", None)
    if groups is None:
        groups = kernel.shape[-2]
        kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return _shifted(window, kernel, bias, groups, op.use_bias)


def _dense(site: Site, rank: int, axis: int) -> Linear | None:
    if rank or not _is_bare(site.op):
        return None
    return linear.Linear(
        *kernels.weights(site.op), 1, (), (), (), site.op.use_bias
    )


def _is_bare(op: keras.Layer) -> bool:
    """Whether it has no additional weights."""
    return bool(len(op.weights) == 1 + op.use_bias)


def _normalization(site: Site, rank: int, axis: int) -> Linear | None:
    op, node = site.op, site.node
    count = len(node.outputs[0].shape)
    given = [*node.arguments.args[1:2], node.arguments.kwargs.get("training")]
    if True in given or op.axis % count != axis:
        return None
    scale, offset = kernels.affine(op)
    return linear.pointwise(scale, offset, rank)


def _rescaling(site: Site, rank: int, axis: int) -> Linear | None:
    op, tensor = site.op, site.node.input_tensors[0]
    if np.ndim(op.scale) or np.ndim(op.offset):
        return None
    # It converts integers to floats, which a convolution does not.
    if not keras.backend.is_float_dtype(tensor.dtype) or not tensor.shape[axis]:
        return None
    ones = np.ones(tensor.shape[axis])
    scale, offset = op.scale * ones, op.offset * ones
    return linear.pointwise(scale, offset, rank, bool(op.offset))


def _pool(site: Site, rank: int, axis: int) -> Linear | None:
    window = _window(site, rank, axis)
    # "same" pooling does not count zeros: see `zero_padded_pool`.
    if window is None or any(pad is None or any(pad) for pad in window.pads):
        return None
    channels = site.node.input_tensors[0].shape[axis]
    shape = (*window.kernel, 1, channels)
    share = np.full(shape, 1 / math.prod(window.kernel))
    return _shifted(window, share, np.zeros(channels), channels)


def _padding(site: Site, rank: int, axis: int) -> Linear | None:
    shape = site.node.input_tensors[0].shape
    first = site.op.data_format == "channels_first"
    if len(shape) != rank + 2 or axis != (1 if first else rank + 1):
        return None
    pads = [site.op.padding] if rank == 1 else site.op.padding
    ones, channels = (1,) * rank, shape[axis]
    return linear.Linear(
        np.ones((*ones, 1, channels)),
        np.zeros(channels),
        channels,
        ones,
        tuple(-before for before, _ in pads),
        ones,
        biased=False,
        borders=True,
    )


PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D)
KERNELS = (*stock.CONVOLUTIONS, *stock.DEPTHWISE, layers.Dense)
_FORMS: dict[type[Any], Callable[[Site, int, int], Linear | None]] = {
    **dict.fromkeys((*stock.CONVOLUTIONS, *stock.DEPTHWISE), _convolution),
    layers.Dense: _dense,
    layers.BatchNormalization: _normalization,
    layers.Rescaling: _rescaling,
    layers.AveragePooling1D: _pool,
    layers.AveragePooling2D: _pool,
    **dict.fromkeys(PADDINGS, _padding),
}
