"""Writes operations of data and a weight as stock layers."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import private
from keras_gates.graphs import weighted_convolutions as convolutions
from keras_gates.graphs.weight_values import Weight

if TYPE_CHECKING:
    from keras_gates.graphs.bare_weights import Replay
    from keras_gates.graphs.private import Node

Handler: TypeAlias = "Callable[[Replay, Node, Operands], Any]"
_LETTERS = string.ascii_lowercase


@dataclasses.dataclass(frozen=True, eq=False)
class Operands:
    """The arguments of a call, with a `Weight` where a weight is.

    Attributes:
        args: the positional ones.
        kwargs: those by keyword.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def flat(self) -> list[Any]:
        return [*self.args, *self.kwargs.values()]

    def split(self) -> tuple[Any, Weight] | None:
        """`(data, weight)` if these are all that there is."""
        pair = self.flat
        if len(pair) != 2:
            return None
        weights = [x for x in pair if isinstance(x, Weight)]
        data = [x for x in pair if isinstance(x, keras.KerasTensor)]
        return (data[0], weights[0]) if len(data) == len(weights) else None


def _scaled(replay: Replay, node: Node, operands: Operands) -> Any:
    """`x * w`, with one factor for each channel of an axis."""
    pair = operands.split()
    axis = None if pair is None else _sole_axis(replay, node, *pair)
    if pair is None or axis is None:
        return None
    x, weight = pair
    size = int(x.shape[axis])
    last = axis == len(x.shape) - 1
    bias = replay.bias_after(node, size) if last else None
    vector = weight.value.reshape(-1)
    layer = replay.holders.layer(
        weight,
        "kernel",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        **_along(x, axis, biased=bias is not None),
    )
    y = replay.holders.called(layer, x, weight, vector)
    replay.with_bias(node, layer, y, bias)
    return y


def _along(x: keras.KerasTensor, axis: int, biased: bool) -> dict[str, Any]:
    """The config of an `EinsumDense` with one factor for each channel."""
    letters = _LETTERS[: len(x.shape)]
    return {
        "equation": f"{letters},{letters[axis]}->{letters}",
        "output_shape": tuple(x.shape[1:]),
        "bias_axes": letters[axis] if biased else None,
    }


def _shifted(replay: Replay, node: Node, operands: Operands) -> Any:
    """`x + w`, with one number for each channel of the last axis."""
    pair = operands.split()
    axis = None if pair is None else _sole_axis(replay, node, *pair)
    if pair is None or axis is None or axis != len(pair[0].shape) - 1:
        return None
    x, weight = pair
    layer = replay.holders.layer(
        weight,
        "bias",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        **_along(x, axis, biased=True),
        kernel_initializer="ones",
    )
    return replay.holders.called(
        layer, x, weight, weight.value.reshape(-1), "bias"
    )


def _sole_axis(
    replay: Replay, node: Node, x: keras.KerasTensor, weight: Weight
) -> int | None:
    """The axis of `x` along which a weight varies; None if not one."""
    shape = weight.value.shape
    varying = [a - len(shape) for a, size in enumerate(shape) if size > 1]
    same = replay.keeps_shape(node)
    if len(varying) != 1 or not same or len(shape) > len(x.shape):
        return None
    axis = varying[0] + len(x.shape)
    floats = keras.backend.is_float_dtype(weight.dtype)
    return axis if axis > 0 and floats else None


def _multiplied(replay: Replay, node: Node, operands: Operands) -> Any:
    """`matmul(x, w)` with a matrix `w`."""
    args = operands.flat
    pair = operands.split()
    if pair is None or not pair[1].is_matrix:
        return None
    x, weight = pair
    rank = len(x.shape)
    if args[1] is not weight:
        if rank < 3:
            return None
        x_letters = _LETTERS[:rank]
        across = x_letters[-2]  # the axis that is summed over
        y = x_letters.replace(across, "z")
        return _einsum(replay, node, x, weight, f"{x_letters},z{across}->{y}")
    return _dense(replay, node, x, weight) if rank > 1 else None


def _dense(
    replay: Replay, node: Node, x: keras.KerasTensor, weight: Weight
) -> Any:
    found = _read_back(replay, node, x, weight)
    if found is not None:
        return found
    units = weight.value.shape[1]
    bias = replay.bias_after(node, units)
    layer = replay.holders.layer(
        weight,
        "kernel",
        keras.layers.Dense,
        node.outputs[0].dtype,
        units=units,
        use_bias=bias is not None,
    )
    y = replay.holders.called(layer, x, weight, weight.value)
    replay.with_bias(node, layer, y, bias)
    return y


def _dotted(replay: Replay, node: Node, operands: Operands) -> Any:
    """`dot(x, w)` and `tensordot(x, w, 1)` with a matrix `w`."""
    args, pair = operands.flat, operands.split()
    axes = getattr(node.operation, "axes", 1)
    if pair is None or args[1] is not pair[1] or not pair[1].is_matrix:
        return None
    last = axes in (1, [[-1], [0]], [[len(pair[0].shape) - 1], [0]])
    return _dense(replay, node, *pair) if last else None


def _summed(replay: Replay, node: Node, operands: Operands) -> Any:
    """`einsum(equation, x, w)`, in any order."""
    flat = [x for x in operands.args if not isinstance(x, str)]
    equation = node.operation.subscripts.replace(" ", "")
    left, _, y = equation.partition("->")
    terms = left.split(",")
    if len(flat) != 2 or not y or len(terms) != 2:
        return None
    if isinstance(flat[0], Weight):
        flat, terms = flat[::-1], terms[::-1]
    x, weight = flat
    if not (isinstance(x, keras.KerasTensor) and isinstance(weight, Weight)):
        return None
    if weight.batched or terms[0][0] != y[0] or y[0] in terms[1]:
        return None
    if _is_dense(terms[0], terms[1], y) and weight.is_matrix:
        turned = weight
        if terms[1][0] != terms[0][-1]:
            value, probe = weight.value.T, weight.probe.T
            turned = dataclasses.replace(weight, value=value, probe=probe)
        found = _read_back(replay, node, x, turned)
        if found is not None:
            return found
    return _einsum(replay, node, x, weight, f"{terms[0]},{terms[1]}->{y}")


def _is_dense(x: str, kernel: str, y: str) -> bool:
    """Whether an equation takes the last axis for another, as a Dense does."""
    if len(kernel) != 2 or "." in kernel or not x or x[-1] not in kernel:
        return False
    other = kernel.replace(x[-1], "", 1)
    return y == x[:-1] + other and other not in x


def _einsum(
    replay: Replay,
    node: Node,
    x: keras.KerasTensor,
    weight: Weight,
    equation: str,
) -> Any:
    layer = replay.holders.layer(
        weight,
        "kernel",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        equation=equation,
        output_shape=_extents(equation, node, x, weight),
    )
    return replay.holders.called(layer, x, weight, weight.value)


def _extents(
    equation: str, node: Node, x: keras.KerasTensor, weight: Weight
) -> tuple[int | None, ...]:
    """The shape of the output of an `EinsumDense`, without the samples."""
    left, _, y = equation.partition("->")
    terms = left.split(",")
    if "." in equation:
        return tuple(node.outputs[0].shape[1:])
    sizes = dict(zip(terms[1], weight.value.shape, strict=True))
    sizes.update(zip(terms[0], x.shape, strict=True))
    return tuple(sizes[letter] for letter in y[1:])


def _looked_up(replay: Replay, node: Node, operands: Operands) -> Any:
    """`take(w, x, axis=0)`."""
    flat = operands.flat
    pair = operands.split()
    table = pair is not None and flat[0] is pair[1]
    if pair is None or not table or not pair[1].is_matrix:
        return None
    x, weight = pair
    if node.operation.axis != 0:
        return None
    return looked_up(replay, node, x, weight)


def looked_up(
    replay: Replay, node: Node, x: keras.KerasTensor, weight: Weight
) -> keras.KerasTensor:
    """The rows of a table at `x`."""
    layer = _table(replay, node, weight)
    return replay.holders.called(layer, x, weight, weight.value, "embeddings")


def _table(replay: Replay, node: Node, weight: Weight) -> keras.Layer:
    """The layer that looks the rows of a weight up."""
    kind: type[keras.Layer] = keras.layers.Embedding
    if id(weight.variable) in replay.tied and _REVERSIBLE is not None:
        kind = _REVERSIBLE
    return replay.holders.layer(
        weight,
        "embeddings",
        kind,
        node.outputs[0].dtype,
        input_dim=weight.value.shape[0],
        output_dim=weight.value.shape[1],
    )


def _read_back(
    replay: Replay, node: Node, x: keras.KerasTensor, weight: Weight
) -> Any:
    """`matmul(x, table.T)`, for a table that is looked up as well."""
    if id(weight.variable) not in replay.tied or _REVERSIBLE is None:
        return None
    value, probe = weight.value.T, weight.probe.T
    table = dataclasses.replace(weight, value=value, probe=probe)
    if table.derived:
        return None
    layer = _table(replay, node, table)
    y = layer(x, reverse=True)
    layer.embeddings.assign(value)
    return y


# Older versions of Keras have none.
_REVERSIBLE: type[keras.Layer] | None = getattr(
    keras.layers, "ReversibleEmbedding", None
)
ADD = private.operation("numpy.Add")
BROADCASTING = frozenset(
    private.operation(f"numpy.{name}")
    for name in (
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Power"),
        *("Maximum", "Minimum", "Where"),
    )
)
HANDLERS: dict[type[Any] | None, Handler] = {
    private.operation("numpy.Multiply"): _scaled,
    ADD: _shifted,
    private.operation("numpy.Matmul"): _multiplied,
    private.operation("numpy.Dot"): _dotted,
    private.operation("numpy.Tensordot"): _dotted,
    private.operation("numpy.Einsum"): _summed,
    private.operation("numpy.Take"): _looked_up,
    private.operation("nn.Conv"): convolutions.convolved,
    private.operation("nn.ConvTranspose"): convolutions.transposed,
    private.operation("nn.DepthwiseConv"): convolutions.depthwise,
    private.operation("nn.SeparableConv"): convolutions.separable,
}
