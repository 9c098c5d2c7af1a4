"""Writes convolutions of data with a weight as stock layers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.weight_values import Weight

if TYPE_CHECKING:
    from keras_gates.graphs.bare_weights import Replay
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.weighted_operations import Operands

_CONVOLUTIONS: dict[int, type[keras.Layer]] = {
    3: keras.layers.Conv1D,
    4: keras.layers.Conv2D,
    5: keras.layers.Conv3D,
}
_TRANSPOSED: dict[int, type[keras.Layer]] = {
    3: keras.layers.Conv1DTranspose,
    4: keras.layers.Conv2DTranspose,
    5: keras.layers.Conv3DTranspose,
}
_DEPTHWISE: dict[int, type[keras.Layer]] = {
    3: keras.layers.DepthwiseConv1D,
    4: keras.layers.DepthwiseConv2D,
}


def convolved(replay: Replay, node: Node, operands: Operands) -> Any:
    """`conv(x, w)`."""
    pair = _of_data(operands)
    if pair is None:
        return None
    x, weight = pair
    read, filters = weight.value.shape[-2:]
    if _channels(node.operation, x) != read:  # in groups
        return None
    return _layer(replay, node, x, weight, _CONVOLUTIONS, filters=filters)


def transposed(replay: Replay, node: Node, operands: Operands) -> Any:
    """`conv_transpose(x, w)`."""
    pair = _of_data(operands)
    if pair is None:
        return None
    x, weight = pair
    return _layer(
        replay,
        node,
        x,
        weight,
        _TRANSPOSED,
        filters=weight.value.shape[-2],
        output_padding=node.operation.output_padding,
    )


def depthwise(replay: Replay, node: Node, operands: Operands) -> Any:
    """`depthwise_conv(x, w)`."""
    pair = _of_data(operands)
    return None if pair is None else _depthwise(replay, node, *pair)


def separable(replay: Replay, node: Node, operands: Operands) -> Any:
    """`separable_conv(x, v, w)`: one convolution after the other."""
    x, *weights = operands.flat
    kernels = [weight for weight in weights if _is_kernel(weight)]
    if len(kernels) != 2 or not _is_data(x):
        return None
    y = _depthwise(replay, node, x, kernels[0], with_bias=False)
    if y is None:
        return None
    kind = _CONVOLUTIONS[kernels[1].value.ndim]
    bias = _bias(replay, node, kernels[1].value.shape[-1])
    layer = replay.holders.layer(
        kernels[1],
        "kernel",
        kind,
        node.outputs[0].dtype,
        filters=kernels[1].value.shape[-1],
        kernel_size=1,
        data_format=_data_format(node.operation),
        use_bias=bias is not None,
    )
    z = replay.holders.called(layer, y, kernels[1], kernels[1].value)
    replay.with_bias(node, layer, z, bias)
    return z


def _depthwise(
    replay: Replay,
    node: Node,
    x: keras.KerasTensor,
    weight: Weight,
    with_bias: bool = True,
) -> Any:
    return _layer(
        replay,
        node,
        x,
        weight,
        _DEPTHWISE,
        with_bias=with_bias,
        depth_multiplier=weight.value.shape[-1],
    )


def _layer(
    replay: Replay,
    node: Node,
    x: keras.KerasTensor,
    weight: Weight,
    kinds: dict[int, type[keras.Layer]],
    with_bias: bool = True,
    **config: Any,
) -> Any:
    """The output of a stock layer; None if there is none for that rank."""
    op, kind = node.operation, kinds.get(weight.value.ndim)
    if kind is None or not isinstance(op.padding, str):
        return None
    bias = None
    if with_bias:
        bias = _bias(replay, node, _channels(op, node.outputs[0]))
    layer = replay.holders.layer(
        weight,
        "kernel",
        kind,
        node.outputs[0].dtype,
        kernel_size=weight.value.shape[:-2],
        strides=op.strides,
        padding=op.padding.lower(),
        data_format=_data_format(op),
        dilation_rate=op.dilation_rate,
        use_bias=bias is not None,
        **config,
    )
    y = replay.holders.called(layer, x, weight, weight.value)
    replay.with_bias(node, layer, y, bias)
    return y


def _bias(replay: Replay, node: Node, size: int | None) -> Any:
    """A vector that is added behind, along the channels."""
    last = _data_format(node.operation) == "channels_last"
    return replay.bias_after(node, size) if last and size else None


def _channels(op: keras.Operation, x: keras.KerasTensor) -> int | None:
    last = _data_format(op) == "channels_last"
    size = x.shape[-1 if last else 1]
    return None if size is None else int(size)


def _data_format(op: keras.Operation) -> str:
    return str(op.data_format or keras.config.image_data_format())


def _of_data(operands: Operands) -> tuple[keras.KerasTensor, Weight] | None:
    """`(data, kernel)` if these are all that there is, in that order."""
    flat = operands.flat
    pair = len(flat) == 2 and _is_data(flat[0]) and _is_kernel(flat[1])
    return (flat[0], flat[1]) if pair else None


def _is_data(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def _is_kernel(x: Any) -> bool:
    floats = isinstance(x, Weight) and keras.backend.is_float_dtype(x.dtype)
    return floats and not x.batched and x.value.ndim in _CONVOLUTIONS
