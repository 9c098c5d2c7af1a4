"""Elementwise operations on several tensors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.modes import Scaling
from keras_gates.surgeon.rules.per_channel import alike
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import operands

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

    Combination = Callable[[list[NDArray[np.float64]]], NDArray[np.float64]]
    # The constants, by the index of the operand.
    Constants = dict[int, NDArray[np.float64]]
    # `scale * rest + offset`
    Affine = tuple[NDArray[np.float64] | float, NDArray[np.float64] | float]

    class Without(Protocol):
        """What `Rule.without` is, as a field."""

        def __call__(
            self, constants: Constants, count: int
        ) -> Affine | None: ...


RANKS = "its operands have different ranks"


def uncertain(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Nothing is known about the result."""
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    return np.full(shape, np.nan)


@dataclasses.dataclass(frozen=True)
class Merge(Rule):
    """Ties its operands, with broadcasting.

    Attributes:
        function: combines a list of arrays in NumPy, with NaN for unknown
            values. By default, nothing is known about the result.
        without: `(constants, count) -> (scale, offset)` that replaces the
            operands in `constants` (by index) of `count`; None if they
            can't be left out.
        absorbing: the value that determines the result alone (0 for a product),
            or None.
    """

    kind: str = "merge"
    function: Combination = uncertain
    without: Without = lambda constants, count: None
    absorbing: float | None = None
    passes: str | None = None
    merging = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        shapes = [tensor.shape for tensor in call.inputs]
        out_shape = call.outputs[0].shape
        rank = len(out_shape)
        constants = self.constants(call)
        ranks_differ = any(len(shape) != rank for shape in shapes)
        if ranks_differ or any(array.ndim > rank for array in constants):
            return barrier(call, inputs, units, RANKS)
        extents = np.broadcast_shapes(*(labels.shape for labels in inputs))
        # Operands that have all channels; those of others are repeated.
        whole = [_is_whole(shape, out_shape, extents) for shape in shapes]
        if not any(whole):
            return barrier(
                call, inputs, units, "both of its operands are broadcast"
            )
        if any(not _fits(array, extents) for array in constants):
            return barrier(call, inputs, units, "its constant has another size")
        first = inputs[whole.index(True)]
        for labels, full in zip(inputs, whole, strict=True):
            if full:
                units.tie(first, labels)
        # The coordinates of each operand, repeated as broadcasting does.
        sources = [
            np.broadcast_to(np.arange(x.size).reshape(x.shape), extents)
            for x in inputs
        ]
        untied = tuple(i for i, full in enumerate(whole) if not full)
        labels = np.broadcast_to(first, extents)
        return Flow([labels], [sources], untied=untied)

    def constants(self, call: Call) -> list[NDArray[Any]]:
        """The array operands, each with at least one axis."""
        if isinstance(call.op, keras.Layer):
            return []
        rest = [x for x in operands(call) if not isinstance(x, Tensor)]
        return [np.asarray(keras.ops.convert_to_numpy(x)) for x in rest]

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        arrays, index = [], 0
        for operand in operands(call):
            if isinstance(operand, Tensor):
                shape = flow.labels[0].shape
                x = self._operand(values[index], shape)
                index += 1
            else:
                x = np.asarray(keras.ops.convert_to_numpy(operand), "float64")
                x = _at_channels(x, flow.labels[0].shape)
            arrays.append(x)
        with np.errstate(all="ignore"):
            result = self.function(arrays)
        if self.absorbing is not None:
            for x in arrays:
                result = np.where(x == self.absorbing, self.absorbing, result)
        return [known(_everywhere(result, flow.labels[0].shape))]

    def _operand(
        self, value: Known | None, shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        if value is None:
            return np.full((1,) * len(shape), np.nan)
        return value.plain()

    def scaling(self, call: Call) -> Scaling | None:
        """Homogeneous, unless a constant array is added."""
        if self.absorbing is not None:
            return LINEAR
        if self.passes is None or self.constants(call):
            return None
        return Scaling(self.passes)

    def carries(self, call: Call, index: int) -> Scaling | None:
        if self.absorbing is not None:
            return LINEAR
        return self.scaling(call) if len(call.inputs) == 1 else None

    def one_takes_all(self, call: Call) -> bool:
        return self.absorbing is not None

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        """Constants are cut like the channels that they meet."""
        if isinstance(call.op, keras.Layer):
            return {}, call.args, call.kwargs
        masks = view.masks(flow.labels[0])

        def cut(x: Any) -> Any:
            if isinstance(x, Tensor) or np.ndim(x) == 0:
                return x
            array = np.asarray(keras.ops.convert_to_numpy(x))
            offset = len(masks) - array.ndim
            for axis in range(array.ndim):
                mask = masks[axis + offset]
                if array.shape[axis] == len(mask):
                    array = array.compress(mask, axis)
            return array

        args, kwargs = mapped(cut, call.args, call.kwargs)
        return {}, args, kwargs


def _at_channels(
    constant: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """A constant with the extents of labels; NaN where it varies otherwise."""
    tail = shape[len(shape) - constant.ndim :]
    pairs = zip(constant.shape, tail, strict=True)
    wide = tuple(1 if e == 1 else c for c, e in pairs)
    found = alike(constant, wide)
    return np.full(wide, np.nan) if found is None else found


def _is_whole(
    shape: tuple[int | None, ...],
    out_shape: tuple[int | None, ...],
    extents: tuple[int, ...],
) -> bool:
    """Whether an operand is as long as the output where channels differ."""
    return all(
        extent == 1 or own == out
        for own, out, extent in zip(shape, out_shape, extents, strict=True)
    )


def _fits(constant: NDArray[Any], extents: tuple[int, ...]) -> bool:
    """Whether a constant has one value, or all, where labels vary.

    Elsewhere it may vary as it likes, as the sines of positions do.
    """
    tail = extents[len(extents) - constant.ndim :]
    pairs = zip(constant.shape, tail, strict=True)
    return all(c in (1, extent) or extent == 1 for c, extent in pairs)


def _everywhere(
    values: NDArray[np.float64], extents: tuple[int, ...]
) -> NDArray[np.float64]:
    """Values by label; NaN where they vary along an axis that labels don't."""
    for axis, extent in enumerate(extents, values.ndim - len(extents)):
        if axis >= 0 and extent == 1 and values.shape[axis] > 1:
            first = values.take([0], axis)
            same = (values == first).all(axis=axis, keepdims=True)
            values = np.where(same, first, np.nan)
    return np.broadcast_to(values, extents)


def add(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return sum(arrays[1:], arrays[0])


def subtract(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return arrays[0] - arrays[1]


def multiply(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    result = arrays[0]
    for x in arrays[1:]:
        result = result * x
    return result


def average(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return add(arrays) / len(arrays)


def maximum(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return functools.reduce(np.maximum, arrays)


def minimum(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return functools.reduce(np.minimum, arrays)


def _sum(constants: Constants, count: int) -> Affine:
    return 1.0, add(list(constants.values()))


def _product(constants: Constants, count: int) -> Affine:
    return multiply(list(constants.values())), 0.0


def _difference(constants: Constants, count: int) -> Affine:
    if 0 in constants:
        return -1.0, constants[0]
    return 1.0, -constants[1]


def _mean(constants: Constants, count: int) -> Affine:
    total = add(list(constants.values())) / count
    return (count - len(constants)) / count, total


def _quotient(constants: Constants, count: int) -> Affine | None:
    return None if 0 in constants else (1.0 / constants[1], 0.0)


ADD = Merge("add", function=add, without=_sum, passes=LINEAR)
SUBTRACT = Merge(
    "subtract", function=subtract, without=_difference, passes=LINEAR
)
MULTIPLY = Merge("multiply", function=multiply, without=_product, absorbing=0.0)
AVERAGE = Merge("average", function=average, without=_mean, passes=LINEAR)
MAXIMUM = Merge("maximum", function=maximum)
MINIMUM = Merge("minimum", function=minimum)
DIVIDE = Merge("divide", function=lambda x: x[0] / x[1], without=_quotient)
POWER = Merge("power", function=lambda x: x[0] ** x[1])


@dataclasses.dataclass(frozen=True)
class ScaledAdd(Merge):
    """`inputs[0] + scale * inputs[1]`, as Inception-ResNet has it."""

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        shape = flow.labels[0].shape
        first, second = (self._operand(v, shape) for v in values)
        result = first + call.op.scale * second
        return [known(np.broadcast_to(result, shape))]


SCALED_ADD = ScaledAdd(
    "scaled add",
    without=lambda constants, count: (
        None if 0 in constants or np.any(constants[1]) else (1.0, 0.0)
    ),
    passes=LINEAR,
)
