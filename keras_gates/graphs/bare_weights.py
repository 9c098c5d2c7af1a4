"""Operations on a layer's own variables, written as stock layers.

A functional model has no place for a variable beside its layers. So `x * w`
becomes an `EinsumDense` with one letter for the channels, `matmul(x, w)` a
`Dense`, `take(w, x)` an `Embedding`; what is left of uses makes `w` the output
of an `EinsumDense` of a one for each sample, so that any operation can take
it.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.names import Names
from keras_gates.graphs.opened import Place
from keras_gates.graphs.opened import unpacked
from keras_gates.graphs.several_sizes import Revision
from keras_gates.graphs.several_sizes import alike
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.variables import values_of

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.stand_ins import StandIn

Placed: TypeAlias = "list[tuple[keras.Variable, Place]]"
Handler: TypeAlias = "Callable[[_Replay, Node, _Operands], Any]"
# What Keras adds to a name that was there before.
_COUNT = re.compile(r"_\d+$")
_LETTERS = string.ascii_lowercase


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """What comes of a variable alone.

    Attributes:
        variable: the variable.
        label: what it is called.
        dtype: the type in which the layer reads it.
        value: the numbers.
        probe: what comes of `0, 1, 2, ...` in the variable's place.
        batched: whether its first axis is that of the samples.
    """

    variable: keras.Variable
    label: str
    dtype: str
    value: NDArray[Any]
    probe: NDArray[Any]
    batched: bool = False

    @property
    def derived(self) -> bool:
        """Whether it holds more than the variable's numbers in their order."""
        flat = self.probe.reshape(-1)
        return not np.array_equal(flat, _probe(self.variable).reshape(-1))

    @property
    def is_buffer(self) -> bool:
        """Whether it holds whole numbers that no training changes."""
        trained = self.variable.trainable
        return not (trained or keras.backend.is_float_dtype(self.dtype))

    @property
    def is_matrix(self) -> bool:
        return self.value.ndim == 2 and not self.batched


def _probe(variable: keras.Variable) -> NDArray[Any]:
    shape = tuple(variable.shape)
    return np.arange(int(np.prod(shape)), dtype="float32").reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class _Operands:
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


def written_out(
    twin: keras.Layer,
    inputs: list[keras.KerasTensor],
    outputs: list[keras.KerasTensor],
    weights: list[StandIn],
    stripped: bool = False,
    new_inputs: list[keras.KerasTensor] | None = None,
    revision: Revision | None = None,
) -> tuple[keras.Model, tuple[tuple[keras.Variable, Place], ...]]:
    """A functional model of recorded operations.

    Args:
        twin: the copy of a layer that was run.
        inputs: what its `call` was run on.
        outputs: what it gave, flat.
        weights: what stood for its variables.
        stripped: whether the calls are not to say whether they train.
        new_inputs: the inputs of the model, where the calls are to be made
            again on other sizes.
        revision: what is otherwise for these sizes.

    Returns:
        `(model, places)`: where the values of variables are in it.

    Raises:
        SideEffect: a weight is used in a way that no stock layer has.
    """
    sources: set[int] = set()
    first: _TwoWays | None = None
    while True:
        replay = _Replay(twin, inputs, stripped, revision or Revision())
        replay.sources = sources
        try:
            ends = replay.run(outputs, weights, new_inputs or inputs)
            break
        except _TwoWays as error:
            # It may be the output of one layer that each use reads.
            first = first or error
            if id(error.variable) in sources:
                raise first from error
            sources.add(id(error.variable))
        except SideEffect as error:
            raise first or error from None
    replay.name_operations(ends)
    inputs = replay.inputs
    model = keras.Model(unpacked(inputs), unpacked(ends), name=twin.name)
    return model, tuple(replay.placed)


class _TwoWays(SideEffect):
    """A variable would be in two layers.

    Args:
        variable: the variable.
    """

    def __init__(self, variable: keras.Variable) -> None:
        super().__init__(
            f"its `call` uses the variable '{variable.name}' in two ways"
        )
        self.variable = variable


class _Replay:
    """Makes recorded calls again where weights take part in them.

    Attributes:
        placed: where the values of variables are.
        sources: the ids of variables that no layer applies, since they are
            used in several ways: a layer has them for its output.
    """

    def __init__(
        self,
        twin: keras.Layer,
        inputs: list[keras.KerasTensor],
        stripped: bool,
        revision: Revision,
    ) -> None:
        self.twin = twin
        self.inputs = inputs
        self.stripped = stripped
        self.revision = revision
        self.placed: Placed = []
        self.sources: set[int] = set()
        self._values: dict[int, Any] = {}
        self._layers: dict[tuple[Any, ...], keras.Layer] = {}
        self._uses: dict[int, tuple[Any, ...]] = {}
        self._names = Names(x.name for x in private.sublayers(twin))
        self._one: keras.KerasTensor | None = None

    def run(
        self,
        outputs: list[keras.KerasTensor],
        weights: list[StandIn],
        new_inputs: list[keras.KerasTensor],
    ) -> list[keras.KerasTensor]:
        """What `outputs` are in the model."""
        for each in weights:
            self._values[id(each)] = _read(each)
        self.readers = private.readers_of(outputs)
        nodes = private.recorded_before(outputs, [*self.inputs, *weights])
        if new_inputs is not self.inputs:
            pairs = zip(map(id, self.inputs), new_inputs, strict=True)
            self._values.update({**self.revision.values, **dict(pairs)})
            self.inputs = new_inputs
        for node in nodes:
            self._node(node)
        self._check_layers(nodes)
        inputs = {id(x) for x in self.inputs}
        ends = [self._values.get(id(x), x) for x in outputs]
        ends = [
            self.tensor(x, len(kt.shape)) if isinstance(x, Weight) else x
            for x, kt in zip(ends, outputs, strict=True)
        ]
        # A model needs an output of its own.
        return [
            keras.layers.Identity(name=self._names.free("output"))(x)
            if id(x) in inputs
            else x
            for x in ends
        ]

    def _check_layers(self, nodes: list[Node]) -> None:
        """Refuse a variable of a layer that is called as well."""
        called = {
            id(variable)
            for node in nodes
            if isinstance(node.operation, keras.Layer)
            for variable in node.operation.variables
        }
        for variable, _ in self.placed:
            if id(variable) in called:
                raise _TwoWays(variable)

    def name_operations(self, ends: list[keras.KerasTensor]) -> None:
        """Number operations from the layer on: Keras counts all there are.

        So they are called the same whenever the layer is traced.
        """
        for node in private.recorded_before(ends, self.inputs):
            op = node.operation
            if not isinstance(op, keras.Layer):
                op.name = self._names.free(_COUNT.sub("", op.name))

    def _node(self, node: Node) -> None:
        if id(node.outputs[0]) in self._values:
            return  # it was taken along
        args, kwargs = mapped(self._value, *_given(node))
        told = self.stripped and kwargs.pop("training", None) is not None
        flat = keras.tree.flatten((args, kwargs))
        weights = [x for x in flat if isinstance(x, Weight)]
        tensors = [x for x in flat if isinstance(x, keras.KerasTensor)]
        if weights and isinstance(node.operation, keras.Layer):
            args, kwargs = mapped(self._as_tensor, args, kwargs)
            weights = []
        if weights and not tensors:
            spread = self.revision.spread
            found = _computed(node, args, kwargs, spread)
            self._values.update(zip(map(id, node.outputs), found, strict=True))
            return
        if not weights:
            kept = [x for x in node.input_tensors if id(x) in self._values]
            if kept or told:
                self._note(node, self._again(node, args, kwargs))
            return
        made = None
        handler = _HANDLERS.get(type(node.operation))
        applied = not any(id(x.variable) in self.sources for x in weights)
        if handler is not None and applied:
            made = handler(self, node, _Operands(args, kwargs))
        if made is None:
            made = self._by_source(node, args, kwargs)
        if made is not None:
            self._note(node, made)

    def _again(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The call, as it is for the sizes at hand."""
        op = self._revised(node)
        if op is None:
            return node.operation(*args, **kwargs)
        flat = keras.tree.flatten((args, kwargs))
        return op(*(x for x in flat if isinstance(x, keras.KerasTensor)))

    def _revised(self, node: Node) -> keras.Operation | None:
        """What is called in the place of an operation; None for itself."""
        target = self.revision.targets.get(id(node))
        if target is None:
            return self.revision.operations.get(id(node))
        # Its layer has the number of samples follow; the operation has not.
        dtype = node.outputs[0].dtype
        floats = keras.backend.is_float_dtype(dtype)
        name = self._names.free("reshape")
        return keras.layers.Reshape(
            target, name=name, dtype=dtype if floats else None
        )

    def _value(self, x: Any) -> Any:
        if isinstance(x, keras.Variable):
            raise SideEffect(
                f"its `call` uses the variable '{x.path}' of a layer inside"
            )
        return self._values.get(id(x), x)

    def _note(self, node: Node, made: Any) -> None:
        flat = [x for x in keras.tree.flatten(made) if x is not None]
        for old, new in zip(node.outputs, flat, strict=True):
            if old is not new:
                self._values[id(old)] = new

    def _as_tensor(self, x: Any) -> Any:
        if not isinstance(x, Weight):
            return x
        return self.tensor(x, x.value.ndim + (not x.batched))

    def _by_source(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The call on tensors that hold the weights for each sample."""
        rank = len(node.outputs[0].shape)
        aligned = type(node.operation) in _BROADCASTING

        def tensor(x: Any) -> Any:
            if not isinstance(x, Weight):
                return x
            if not keras.backend.is_float_dtype(x.dtype):
                return x.value
            same = x.value.ndim == rank and x.value.shape[0] == 1
            if not aligned and not (x.batched or same):
                raise SideEffect(
                    f"its `call` uses the variable '{x.variable.name}' of the "
                    f"shape {tuple(x.variable.shape)} in the operation "
                    f"{type(node.operation).__name__}, which no stock layer "
                    "does"
                )
            return self.tensor(x, rank)

        args, kwargs = mapped(tensor, args, kwargs)
        return self._again(node, args, kwargs)

    # Layers that hold weights -----------------------------------------------

    def tensor(self, weight: Weight, rank: int) -> keras.KerasTensor:
        """A weight as a tensor of `rank` axes, the first for the samples."""
        value = weight.value
        if value.ndim == rank and value.shape[0] == 1:
            value = value[0]
        if value.ndim >= rank:
            raise SideEffect(
                f"its `call` uses the variable '{weight.variable.name}' along "
                "the axis of the samples"
            )
        value = value.reshape((1,) * (rank - 1 - value.ndim) + value.shape)
        letters = _LETTERS[1 : rank + 1]
        layer = self.layer(
            weight,
            "kernel",
            keras.layers.EinsumDense,
            weight.dtype,
            equation=f"a{letters[0]},{letters}->a{letters[1:]}",
            output_shape=value.shape,
        )
        return self.called(layer, self._ones(), weight, value[np.newaxis])

    def _ones(self) -> keras.KerasTensor:
        """A one for each sample, `(batch, 1)`."""
        if self._one is None:
            x = self.inputs[0]
            if len(x.shape) < 2:
                raise SideEffect("its input has no axis but that of samples")
            # Of one channel only: the others may go.
            index = (slice(None), slice(0, 1)) + (0,) * (len(x.shape) - 2)
            one = keras.ops.ones_like(x)[index]
            self._one = keras.ops.cast(one, self.twin.compute_dtype)
        return self._one

    def layer(
        self,
        weight: Weight,
        name: str,
        kind: type[keras.Layer],
        computes: str,
        **config: Any,
    ) -> keras.Layer:
        """A layer whose weight `name` holds a weight; one for each use.

        Args:
            weight: the weight.
            name: the attribute that holds it.
            kind: the class.
            computes: the type in which the operation computes.
            **config: for the class.

        Raises:
            SideEffect: the variable is in a layer of another kind already.
        """
        variable = weight.variable
        # Another order of its numbers, or other parts, are another use.
        key = (id(variable), kind, name, str(config), weight.probe.tobytes())
        if key in self._layers:
            return self._layers[key]
        if self._uses.setdefault(id(variable), key) != key:
            raise _TwoWays(variable)
        layer = kind(
            **config,
            name=self._names.free(weight.label),
            dtype=self._policy(weight, computes),
            trainable=variable.trainable,
        )
        if not weight.derived:
            setattr(layer, f"{name}_regularizer", variable.regularizer)
            setattr(layer, f"{name}_constraint", variable.constraint)
        self._layers[key] = layer
        self.placed.append((variable, Place(layer, name, weight.derived)))
        return layer

    def _policy(self, weight: Weight, computes: str) -> Any:
        """That of a layer that computes in a type, as the operation does.

        A `call` may compute in float32 where its layer does not.
        """
        own, variable = self.twin.dtype_policy, weight.variable
        # What torch says of float64 is not always so.
        if computes == own.compute_dtype or own.compute_dtype == "float64":
            return own
        if computes == variable.dtype:
            return computes
        raise SideEffect(
            f"its `call` computes with the variable '{variable.name}' in "
            f"{computes}, which is neither its type nor the layer's"
        )

    def called(
        self,
        layer: keras.Layer,
        x: keras.KerasTensor,
        weight: Weight,
        value: NDArray[Any],
        name: str = "kernel",
    ) -> keras.KerasTensor:
        """The output of a layer, whose weight has its values by then."""
        y = layer(x)
        getattr(layer, name).assign(value)
        return y

    def bias_after(self, node: Node, size: int) -> tuple[Node, Weight] | None:
        """A vector that is added to the output of a call, and nowhere else.

        None for a call whose weight is used more than once: each use would
        need the same bias.
        """
        if any(len(self.readers.get(id(x), ())) > 1 for x in self._bare(node)):
            return None
        readers = self.readers.get(id(node.outputs[0]), [])
        after = readers[0] if len(readers) == 1 else None
        if after is None or type(after.operation) is not _ADD:
            return None
        args, kwargs = mapped(self._value, *_given(after))
        weights = [x for x in (*args, *kwargs.values()) if type(x) is Weight]
        if len(weights) != 1 or weights[0].value.size != size:
            return None
        if id(weights[0].variable) in self.sources:
            return None
        vector = weights[0].value
        last = vector.ndim and vector.shape[-1] == size
        same = tuple(after.outputs[0].shape) == tuple(node.outputs[0].shape)
        return (after, weights[0]) if last and same else None

    def _bare(self, node: Node) -> list[keras.KerasTensor]:
        """What a call reads of variables alone, back to the variables."""
        found, pending = [], [*node.input_tensors]
        while pending:
            x = pending.pop()
            if type(self._values.get(id(x))) is Weight:
                found.append(x)
                pending += private.made_of(x)
        return found

    def keeps_shape(self, node: Node) -> bool:
        """Whether a call of data and a weight leaves the shape of the data."""
        data = [
            x
            for x in node.input_tensors
            if not isinstance(self._values.get(id(x)), Weight)
        ]
        return tuple(node.outputs[0].shape) == tuple(data[0].shape)

    def with_bias(
        self,
        node: Node,
        layer: keras.Layer,
        y: keras.KerasTensor,
        bias: tuple[Node, Weight] | None,
    ) -> None:
        """Let the vector after a call be the bias of its layer."""
        if bias is None:
            return
        after, weight = bias
        variable = weight.variable
        key = (id(variable), "bias", id(layer))
        if self._uses.setdefault(id(variable), key) != key:
            raise _TwoWays(variable)
        layer.bias.assign(weight.value.reshape(layer.bias.shape))
        if not weight.derived:
            layer.bias_regularizer = variable.regularizer
            layer.bias_constraint = variable.constraint
        self.placed.append((variable, Place(layer, "bias", weight.derived)))
        self._values[id(after.outputs[0])] = y


def _given(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return node.arguments.args, node.arguments.kwargs


def _read(stand_in: StandIn) -> Weight:
    variable = stand_in.variable
    return Weight(
        variable,
        stand_in.label,
        stand_in.dtype,
        values_of(variable),
        _probe(variable),
    )


def _computed(
    node: Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    spread: set[int],
) -> list[Weight]:
    """The outputs of an operation on weights alone.

    Args:
        node: the recorded call.
        args: its positional arguments.
        kwargs: those by name.
        spread: as in `Revision`.

    Raises:
        SideEffect: it takes several variables.
    """
    flat = keras.tree.flatten((args, kwargs))
    weights = [x for x in flat if isinstance(x, Weight)]
    first, shape = weights[0], tuple(node.outputs[0].shape)
    varying = [x for x in weights if not x.is_buffer]
    first = varying[0] if varying else first
    if any(x.variable is not first.variable for x in varying):
        raise SideEffect(
            "its `call` combines the variables "
            + " and ".join(f"'{x.variable.name}'" for x in weights)
        )
    if shape[:1] == (None,) and not first.batched:
        return [_spread(node, first)]

    def run(part: str) -> list[NDArray[Any]]:
        def array(x: Any) -> Any:
            if not isinstance(x, Weight):
                return x
            kept = x.is_buffer and x.variable is not first.variable
            return x.value if kept else getattr(x, part)

        a, k = mapped(array, args, kwargs)
        a, k = mapped(_tensor, a, k)
        found = keras.tree.flatten(node.operation.call(*a, **k))
        return [np.asarray(keras.ops.convert_to_numpy(x)) for x in found]

    made = [
        dataclasses.replace(first, dtype=kt.dtype, value=value, probe=probe)
        for kt, value, probe in zip(
            node.outputs, run("value"), run("probe"), strict=True
        )
    ]
    if any(id(kt) in spread for kt in node.outputs):
        return [_one_row(node, weight) for weight in made]
    for kt, weight in zip(node.outputs, made, strict=True):
        wanted = tuple(1 if size is None else size for size in kt.shape)
        if weight.value.shape != wanted:
            raise _by_samples(node, first)
    return made


def _by_samples(node: Node, weight: Weight) -> SideEffect:
    return SideEffect(
        "its `call` makes what has an axis of samples of the variable "
        f"'{weight.variable.name}' by {type(node.operation).__name__}"
    )


def _one_row(node: Node, weight: Weight) -> Weight:
    """What holds the same for each of the samples, by one row."""
    if not (alike(weight.value) and alike(weight.probe)):
        raise _by_samples(node, weight)
    value, probe = weight.value[:1], weight.probe[:1]
    return dataclasses.replace(weight, value=value, probe=probe, batched=True)


def _spread(node: Node, weight: Weight) -> Weight:
    """A weight that is there for each sample: one row stands for all."""
    if type(node.operation) not in _SPREADING:
        raise _by_samples(node, weight)
    kt = node.outputs[0]
    wanted = (1, *kt.shape[1:])
    value, probe = (
        np.broadcast_to(x, wanted) for x in (weight.value, weight.probe)
    )
    return dataclasses.replace(
        weight, dtype=kt.dtype, value=value, probe=probe, batched=True
    )


def _tensor(x: Any) -> Any:
    return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x


# Operations of data and a weight --------------------------------------------


def _scaled(replay: _Replay, node: Node, operands: _Operands) -> Any:
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
    layer = replay.layer(
        weight,
        "kernel",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        **_along(x, axis, biased=bias is not None),
    )
    y = replay.called(layer, x, weight, vector)
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


def _shifted(replay: _Replay, node: Node, operands: _Operands) -> Any:
    """`x + w`, with one number for each channel of the last axis."""
    pair = operands.split()
    axis = None if pair is None else _sole_axis(replay, node, *pair)
    if pair is None or axis is None or axis != len(pair[0].shape) - 1:
        return None
    x, weight = pair
    layer = replay.layer(
        weight,
        "bias",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        **_along(x, axis, biased=True),
        kernel_initializer="ones",
    )
    return replay.called(layer, x, weight, weight.value.reshape(-1), "bias")


def _sole_axis(
    replay: _Replay, node: Node, x: keras.KerasTensor, weight: Weight
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


def _multiplied(replay: _Replay, node: Node, operands: _Operands) -> Any:
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
    replay: _Replay, node: Node, x: keras.KerasTensor, weight: Weight
) -> Any:
    units = weight.value.shape[1]
    bias = replay.bias_after(node, units)
    layer = replay.layer(
        weight,
        "kernel",
        keras.layers.Dense,
        node.outputs[0].dtype,
        units=units,
        use_bias=bias is not None,
    )
    y = replay.called(layer, x, weight, weight.value)
    replay.with_bias(node, layer, y, bias)
    return y


def _dotted(replay: _Replay, node: Node, operands: _Operands) -> Any:
    """`dot(x, w)` and `tensordot(x, w, 1)` with a matrix `w`."""
    args, pair = operands.flat, operands.split()
    axes = getattr(node.operation, "axes", 1)
    if pair is None or args[1] is not pair[1] or not pair[1].is_matrix:
        return None
    last = axes in (1, [[-1], [0]], [[len(pair[0].shape) - 1], [0]])
    return _dense(replay, node, *pair) if last else None


def _summed(replay: _Replay, node: Node, operands: _Operands) -> Any:
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
    return _einsum(replay, node, x, weight, f"{terms[0]},{terms[1]}->{y}")


def _einsum(
    replay: _Replay,
    node: Node,
    x: keras.KerasTensor,
    weight: Weight,
    equation: str,
) -> Any:
    layer = replay.layer(
        weight,
        "kernel",
        keras.layers.EinsumDense,
        node.outputs[0].dtype,
        equation=equation,
        output_shape=_extents(equation, node, x, weight),
    )
    return replay.called(layer, x, weight, weight.value)


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


def _looked_up(replay: _Replay, node: Node, operands: _Operands) -> Any:
    """`take(w, x, axis=0)`."""
    flat = operands.flat
    pair = operands.split()
    table = pair is not None and flat[0] is pair[1]
    if pair is None or not table or not pair[1].is_matrix:
        return None
    x, weight = pair
    if node.operation.axis != 0:
        return None
    layer = replay.layer(
        weight,
        "embeddings",
        keras.layers.Embedding,
        node.outputs[0].dtype,
        input_dim=weight.value.shape[0],
        output_dim=weight.value.shape[1],
    )
    return replay.called(layer, x, weight, weight.value, "embeddings")


_SPREADING = frozenset(
    (
        private.operation("numpy.BroadcastTo"),
        private.operation("numpy.Repeat"),
        private.operation("numpy.Tile"),
    )
)
_ADD = private.operation("numpy.Add")
_BROADCASTING = frozenset(
    private.operation(f"numpy.{name}")
    for name in (
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Power"),
        *("Maximum", "Minimum", "Where"),
    )
)
_HANDLERS: dict[type[Any] | None, Handler] = {
    private.operation("numpy.Multiply"): _scaled,
    _ADD: _shifted,
    private.operation("numpy.Matmul"): _multiplied,
    private.operation("numpy.Dot"): _dotted,
    private.operation("numpy.Tensordot"): _dotted,
    private.operation("numpy.Einsum"): _summed,
    private.operation("numpy.Take"): _looked_up,
}
