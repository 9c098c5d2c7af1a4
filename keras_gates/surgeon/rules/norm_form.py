"""Recognizes functional models that compute a normalization.

Nothing but that: of one tensor x, over axes that hold its channels, with
factors and shifts that are weights. It goes by the operations, so that what
was written out once is told again, and so is what somebody else has written.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.carried import arguments
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules import bare_einsum
from keras_gates.surgeon.rules import norm_algebra as na
from keras_gates.surgeon.rules import norm_statistics as ns
from keras_gates.surgeon.rules.norm_algebra import Level
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import axes_among

# With more operations than this, it is not a normalization.
_MOST = 60


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A weight that scales or shifts the normalized tensor.

    Attributes:
        layer: the layer that holds it.
        name: the attribute of the layer.
        axes: for each axis of the weight, the axis of x; None for one of a
            single position.
    """

    layer: keras.Layer
    name: str
    axes: tuple[int | None, ...]

    @property
    def variable(self) -> keras.Variable:
        found: keras.Variable = getattr(self.layer, self.name)
        return found

    def like(self, name: str) -> dict[str, Any]:
        """The arguments for a weight of another layer that stands for it."""
        return {
            f"{name}_{what}": getattr(self.layer, f"{self.name}_{what}", None)
            for what in ("initializer", "regularizer", "constraint")
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """A normalization: `(x - mu) / sqrt(var) * gamma + beta`.

    Attributes:
        statistics: what it divides by.
        axis: the channel axis, counted from the first.
        spans: the axes that statistics are taken over.
        group_of: the group of each channel; int, `(channels,)`.
        gamma: the factors, or None.
        beta: what is added, or None.
    """

    statistics: ns.Statistics
    axis: int
    spans: tuple[int, ...]
    group_of: NDArray[np.intp]
    gamma: Weight | None = None
    beta: Weight | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Ones:
    """Ones, one or more for each sample."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensor:
    """A weight as a tensor; `dims`: for each axis, that of the weight."""

    weight: Weight
    dims: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Scaled:
    """A ratio with its factors and shifts."""

    ratio: na.Ratio
    gamma: Weight | None = None
    beta: Weight | None = None


_Any: TypeAlias = "na.Value | _Ones | _Tensor | _Scaled | None"
_FORMS: weakref.WeakKeyDictionary[keras.Model, Form | None]
_FORMS = weakref.WeakKeyDictionary()


def form_of(model: Any) -> Form | None:
    """The `Form` of a functional model of Keras' own class, or None."""
    if type(model) is not _FUNCTIONAL or gr.has_own_call(model):
        return None
    if model not in _FORMS:
        _FORMS[model] = _read(model)
    return _FORMS[model]


def _read(model: keras.Model) -> Form | None:
    nodes = gr.nodes_of(model)
    single = len(model.inputs) == len(model.outputs) == 1
    if not single or not 4 <= len(nodes) <= _MOST:
        return None
    walk = _Walk(model.inputs[0], nodes)
    values: dict[int, Any] = {id(model.inputs[0]): walk.x()}
    for node in nodes:
        found = walk.call(node, values)
        if found is None:
            return None
        values[id(node.outputs[0])] = found
    result = values.get(id(model.outputs[0]))
    if isinstance(result, na.Ratio):
        result = _Scaled(result)
    return walk.form(result) if isinstance(result, _Scaled) else None


class _Walk:
    """Evaluates the calls of a model, as far as they are understood."""

    def __init__(self, x: keras.KerasTensor, nodes: Sequence[Any]) -> None:
        self.shape = tuple(x.shape)
        self.spans: tuple[int, ...] | None = None
        self.group_of: NDArray[np.intp] | None = None
        self.groups = 1
        self._channels = -1
        # Channels that fall into groups are gathered by a product.
        self.grouped = any(type(n.operation) is _MATMUL for n in nodes)

    def x(self) -> na.Poly:
        dims = tuple(range(len(self.shape)))
        return na.Poly({"x": np.ones(1)}, Level.EACH, dims)

    def call(self, node: Any, values: dict[int, Any]) -> _Any:
        """The value of a recorded call, None where it is not understood."""
        op = node.operation
        handler = _HANDLERS.get(type(op))
        if handler is None or len(node.outputs) != 1 or gr.has_own_call(op):
            return None

        def valued(value: Any) -> Any:
            if isinstance(value, keras.KerasTensor):
                return values.get(id(value))
            return value

        try:
            args = [valued(value) for value in arguments(node).values()]
        except TypeError:
            return None
        return handler(self, node, args)

    def operand(self, value: Any) -> Any:
        """A value; constants are converted."""
        kinds = (na.Poly, na.Root, na.Ratio, _Ones, _Tensor, _Scaled)
        if value is None or isinstance(value, kinds):
            return value
        return na.of_number(value, self.groups)

    def form(self, found: _Scaled) -> Form | None:
        """The `Form` of what comes out, if it is one."""
        over, under = found.ratio.over, found.ratio.under
        slope = over.term("x")
        if self.spans is None or not (slope > 0).all():
            return None
        if set(under.terms) - {"q", "mm", "m", "1"}:
            return None
        # A group may have lost all of its channels.
        used = np.ones(1, np.intp)
        if self.group_of is not None:
            used = np.bincount(self.group_of, minlength=self.groups)
        one = np.ones(self.groups)
        mean = [-over.term(name) / slope * one for name in ("m", "1")]
        var = [under.term(t) / slope**2 * one for t in ("q", "mm", "m", "1")]
        mean, var = ([y[used > 0] for y in each] for each in (mean, var))
        centers = any(part.any() for part in mean)
        statistics = ns.from_polynomials(
            (mean[0], mean[1]) if centers else None,
            (var[0], var[1], var[2], var[3]),
        )
        if statistics is not None:
            statistics = statistics.among(used > 0)
        axis = self._axis(found)
        size = None if axis is None else self.shape[axis]
        if statistics is None or axis is None or size is None:
            return None
        group_of = self.group_of
        if group_of is None:
            group_of = np.zeros(size, np.intp)
        spans = tuple(sorted(self.spans))
        return Form(statistics, axis, spans, group_of, found.gamma, found.beta)

    def _axis(self, found: _Scaled) -> int | None:
        """The channel axis: of several, that of the weights."""
        spans = self.spans or ()
        if self.group_of is not None:
            return self._channels
        for weight in (found.gamma, found.beta):
            axes = [] if weight is None else weight.axes
            own = [axis for axis in axes if axis is not None]
            if len(own) == 1:
                return own[0] if own[0] in spans else None
        return max(spans)

    # Operations ----------------------------------------------------------

    def add(self, node: Any, args: list[Any]) -> _Any:
        return self._sum(args, 1.0)

    def subtract(self, node: Any, args: list[Any]) -> _Any:
        return self._sum(args, -1.0)

    def _sum(self, args: list[Any], sign: float) -> _Any:
        a, b = map(self.operand, args)
        if isinstance(a, na.Poly) and isinstance(b, na.Poly):
            return na.added(a, b, sign)
        if sign > 0 and isinstance(a, _Tensor):
            a, b = b, a
        if sign < 0 or not isinstance(b, _Tensor):
            return None
        a = _Scaled(a) if isinstance(a, na.Ratio) else a
        beta = self._weight(b)
        if not isinstance(a, _Scaled) or a.beta is not None or beta is None:
            return None
        return dataclasses.replace(a, beta=beta)

    def multiply(self, node: Any, args: list[Any]) -> _Any:
        a, b = map(self.operand, args)
        kinds = (na.Poly, na.Root, na.Ratio)
        if isinstance(a, kinds) and isinstance(b, kinds):
            return na.product(a, b)
        if isinstance(a, _Tensor):
            a, b = b, a
        if not isinstance(a, na.Ratio) or not isinstance(b, _Tensor):
            return None
        gamma = self._weight(b)
        return None if gamma is None else _Scaled(a, gamma)

    def _weight(self, tensor: _Tensor) -> Weight | None:
        """A weight by the axes of x that it is broadcast along."""
        rank = len(self.shape)
        ahead = rank - len(tensor.dims)
        axes: list[int | None] = [None] * len(tensor.weight.axes)
        for place, own in enumerate(tensor.dims, ahead):
            if own is not None and own >= 0:
                axes[own] = place
        fit = ahead >= 0 and all(
            axis is None or size == self.shape[axis]
            for axis, size in zip(
                axes, tensor.weight.variable.shape, strict=True
            )
        )
        return (
            dataclasses.replace(tensor.weight, axes=(*axes,)) if fit else None
        )

    def divide(self, node: Any, args: list[Any]) -> _Any:
        a, b = map(self.operand, args)
        kinds = (na.Poly, na.Root, na.Ratio)
        fit = isinstance(a, kinds) and isinstance(b, kinds)
        return na.quotient(a, b) if fit else None

    def square(self, node: Any, args: list[Any]) -> _Any:
        fit = isinstance(args[0], na.Poly)
        return na.multiplied(args[0], args[0]) if fit else None

    def power(self, node: Any, args: list[Any]) -> _Any:
        number = np.asarray(args[1]) if np.isscalar(args[1]) else np.empty(0)
        if number.size != 1 or not isinstance(args[0], na.Poly):
            return None
        if number == 2:
            return na.multiplied(args[0], args[0])
        if abs(number) != 0.5:
            return None
        return na.root(args[0], bool(number < 0))

    def negative(self, node: Any, args: list[Any]) -> _Any:
        fit = isinstance(args[0], na.Poly)
        return na.scaled(args[0], -1.0) if fit else None

    def mean(self, node: Any, args: list[Any]) -> _Any:
        if not isinstance(args[0], na.Poly):
            return None
        op, dims = node.operation, args[0].dims
        if dims != tuple(range(len(self.shape))):
            return None
        axes = tuple(axes_among(op.axis, len(dims)))
        if 0 in axes or (
            self.spans and not self.grouped and axes != self.spans
        ):
            return None
        left: tuple[int | None, ...] = tuple(
            None if axis in axes else axis
            for axis in dims
            if op.keepdims or axis not in axes
        )
        if self.grouped:
            return na.averaged(args[0], Level.SPACE, left)
        self.spans = axes
        return na.averaged(args[0], Level.GROUP, left)

    def sum(self, node: Any, args: list[Any]) -> _Any:
        axes = axes_among(node.operation.axis, len(self.shape))
        sizes = [self.shape[axis] for axis in axes]
        found = self.mean(node, args)
        if None in sizes or not isinstance(found, na.Poly):
            return None
        known = [size for size in sizes if size is not None]
        return na.scaled(found, float(np.prod(known)))

    def variance(self, node: Any, args: list[Any]) -> _Any:
        mean = self.mean(node, args)
        squares = self.mean(node, [self.square(node, args)])
        if not isinstance(mean, na.Poly) or not isinstance(squares, na.Poly):
            return None
        off = na.multiplied(mean, mean)
        return None if off is None else na.added(squares, off, -1.0)

    def sqrt(self, node: Any, args: list[Any]) -> _Any:
        return na.root(args[0], False)

    def rsqrt(self, node: Any, args: list[Any]) -> _Any:
        return na.root(args[0], True)

    def reciprocal(self, node: Any, args: list[Any]) -> _Any:
        fit = isinstance(args[0], na.Root)
        one = na.Poly({"1": np.ones(1)}, Level.GROUP, ())
        return na.quotient(one, args[0]) if fit else None

    def expand(self, node: Any, args: list[Any]) -> _Any:
        axes = np.atleast_1d(node.operation.axis)
        rank = len(node.outputs[0].shape)
        places = {int(axis) % rank for axis in axes}

        def change(dims: na.Dims) -> na.Dims:
            rest = iter(dims)
            return tuple(
                None if axis in places else next(rest) for axis in range(rank)
            )

        if isinstance(args[0], _Tensor):
            return _Tensor(args[0].weight, change(args[0].dims))
        fit = isinstance(args[0], (na.Poly, na.Root))
        return na.reshaped(args[0], change) if fit else None

    def cast(self, node: Any, args: list[Any]) -> _Any:
        floats = keras.backend.is_float_dtype(node.outputs[0].dtype)
        found: _Any = args[0]
        return found if floats else None

    # Groups --------------------------------------------------------------

    def matmul(self, node: Any, args: list[Any]) -> _Any:
        """A product with a matrix that says which channel is in which group."""
        poly, matrix = args
        if not isinstance(poly, na.Poly) or poly.level is Level.GROUP:
            return None
        matrix = np.asarray(matrix, "float64")
        # With no space, nothing is averaged before.
        flat = poly.level is Level.SPACE or len(self.shape) == 2
        plain = flat and len(poly.dims) == 2 and poly.dims[0] == 0
        if not plain or matrix.ndim != 2:
            return None
        (_, channels) = poly.dims
        member = matrix != 0
        if channels is None or not (member.sum(axis=1) == 1).all():
            return None
        number = matrix.max(axis=0)
        size = member.sum(axis=0)
        if not (matrix == number * member).all():
            return None
        group_of = member.argmax(axis=1)
        if not self._grouped(group_of, channels, matrix.shape[1]):
            return None
        poly = dataclasses.replace(poly, dims=(0, na.GROUP))
        return na.over_channels(poly, number * size)

    def _grouped(
        self, group_of: NDArray[np.intp], channels: int, groups: int
    ) -> bool:
        """Whether channels fall into the same groups as ever."""
        if self.group_of is None:
            self.group_of, self.groups = group_of, groups
            self._channels = channels
            self.spans = tuple(range(1, len(self.shape)))
        same = np.array_equal(self.group_of, group_of)
        return same and channels == self._channels

    def take(self, node: Any, args: list[Any]) -> _Any:
        """Statistics handed out to the channels of each group."""
        value, indices = args[0], args[1]
        if not isinstance(value, (na.Poly, na.Root)) or self.group_of is None:
            return None
        if not np.array_equal(np.asarray(indices), self.group_of):
            return None
        axis = node.operation.axis

        def change(dims: na.Dims) -> na.Dims | None:
            if axis is None or len(dims) < 2 or dims[axis] != na.GROUP:
                return None
            place = axis % len(dims)
            return (*dims[:place], self._channels, *dims[place + 1 :])

        found: _Any = na.reshaped(value, change)
        return found

    # Weights -------------------------------------------------------------

    def ones(self, node: Any, args: list[Any]) -> _Any:
        return _Ones() if args[0] is not None else None

    def item(self, node: Any, args: list[Any]) -> _Any:
        return _Ones() if isinstance(args[0], _Ones) else None

    def einsum(self, node: Any, args: list[Any]) -> _Any:
        op = node.operation
        row = activations.known_activation(op.activation)
        if row is None or row.passes != LINEAR or op.lora_enabled:
            return None
        if isinstance(args[0], _Ones) and bare_einsum.sources(op):
            if op.bias is not None or tuple(
                node.input_tensors[0].shape[1:]
            ) != (1,):
                return None
            axes = (None,) * len(op.kernel.shape)
            dims = (-1, *range(1, len(axes)))
            return _Tensor(Weight(op, "kernel", axes), dims)
        if not isinstance(args[0], na.Ratio):
            return None
        return self._scale(op, args[0])

    def _scale(self, op: keras.Layer, ratio: na.Ratio) -> _Any:
        """What is multiplied along axes of its own, and shifted."""
        rank = len(self.shape)
        x, kernel, y = bare_einsum.terms_of(op.equation)
        own = kernel.replace("...", "")
        if x != y or "..." in kernel or len(set(own)) < len(own):
            return None
        places = {}
        for letter in own:
            if x.count(letter) != 1:
                return None
            behind = x[x.index(letter) :]
            ahead = x[: x.index(letter)]
            if "..." in ahead:
                places[letter] = rank - len(behind)
            else:
                places[letter] = len(ahead)
        axes = tuple(places[letter] for letter in own)
        gamma = Weight(op, "kernel", axes)
        if op.bias is None:
            return _Scaled(ratio, gamma)
        shape = tuple(op.bias.shape)
        beta = Weight(
            op,
            "bias",
            tuple(
                axis if size == self.shape[axis] and axis > 0 else None
                for axis, size in enumerate(shape, rank - len(shape))
            ),
        )
        return _Scaled(ratio, gamma, beta)


def _ops(*names: str) -> list[type[Any]]:
    found = [gr.operation(name) for name in names]
    return [cls for cls in found if cls is not None]


_FUNCTIONAL = gr.layer_class("models.functional.Functional")
_MATMUL = gr.operation("numpy.Matmul")
_HANDLERS: dict[type[Any], Callable[[_Walk, Any, list[Any]], _Any]] = {
    cls: handler
    for names, handler in (
        (("numpy.Add",), _Walk.add),
        (("numpy.Subtract",), _Walk.subtract),
        (("numpy.Multiply",), _Walk.multiply),
        (("numpy.Divide", "numpy.TrueDivide"), _Walk.divide),
        (("numpy.Square",), _Walk.square),
        (("numpy.Power",), _Walk.power),
        (("numpy.Negative",), _Walk.negative),
        (("numpy.Mean",), _Walk.mean),
        (("numpy.Sum",), _Walk.sum),
        (("numpy.Var",), _Walk.variance),
        (("numpy.Sqrt",), _Walk.sqrt),
        (("math.Rsqrt",), _Walk.rsqrt),
        (("numpy.Reciprocal",), _Walk.reciprocal),
        (("numpy.ExpandDims",), _Walk.expand),
        (("core.Cast",), _Walk.cast),
        (("numpy.Matmul",), _Walk.matmul),
        (("numpy.Take",), _Walk.take),
        (("numpy.OnesLike",), _Walk.ones),
        (("numpy.GetItem",), _Walk.item),
    )
    for cls in _ops(*names)
}
_HANDLERS[keras.layers.EinsumDense] = _Walk.einsum
