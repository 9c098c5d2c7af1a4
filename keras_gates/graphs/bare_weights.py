"""Writes operations on a layer's own variables as stock layers.

A functional model has no variables outside of its layers. So `x * w` becomes an
`EinsumDense` with one letter for the channels, `matmul(x, w)` a `Dense`, and
`take(w, x)` an `Embedding`; for other uses, `w` becomes the output of an
`EinsumDense` applied to a one per sample, which any operation can read.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import private
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.holders import Holders
from keras_gates.graphs.holders import TwoWays
from keras_gates.graphs.names import Names
from keras_gates.graphs.names import without_count
from keras_gates.graphs.opened import unpacked
from keras_gates.graphs.several_sizes import Revision
from keras_gates.graphs.stand_ins import ReadsInside
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.weight_values import Weight
from keras_gates.graphs.weight_values import computed
from keras_gates.graphs.weight_values import read
from keras_gates.graphs.weighted_operations import ADD
from keras_gates.graphs.weighted_operations import BROADCASTING
from keras_gates.graphs.weighted_operations import HANDLERS
from keras_gates.graphs.weighted_operations import Operands
from keras_gates.graphs.weighted_operations import looked_up

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.stand_ins import StandIn

_LETTERS = string.ascii_lowercase


def written_out(
    twin: keras.Layer,
    inputs: list[keras.KerasTensor],
    outputs: list[keras.KerasTensor],
    weights: list[StandIn],
    stripped: bool = False,
    new_inputs: list[keras.KerasTensor] | None = None,
    revision: Revision | None = None,
    before: Holders | None = None,
    apart: bool = False,
) -> tuple[keras.Model, Holders]:
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
        before: what holds the weights in another way of calling the layer.
        apart: whether samples are taken apart inside, as windows of images
            are, so that a weight is there for each of these.

    Returns:
        The model, and what holds the weights in it.

    Raises:
        SideEffect: a weight is used in a way that no stock layer has.
    """
    sources: set[int] = set()
    tied: set[int] = set()
    several: set[int] = set()
    first: TwoWays | None = None
    while True:
        replay = Replay(twin, inputs, stripped, revision or Revision(), before)
        replay.sources, replay.tied, replay.apart = sources, tied, apart
        replay.holders.several = several
        try:
            ends = replay.run(outputs, weights, new_inputs or inputs)
            break
        except TwoWays as error:
            # It may be a table that is looked up and read back, or the output
            # of one layer that each use reads. Or each use is in a layer of
            # its own, which can't stand in the place of the one that it is.
            first, number = first or error, id(error.variable)
            if number in several or (number in sources and before):
                raise first from error
            if number in sources:
                several.add(number)
                continue
            (sources if number in tied else tied).add(number)
            tied -= sources
        except SideEffect as error:
            if first is None or not tied:
                raise first or error from None
            sources, tied = sources | tied, set()
    replay.name_operations(ends)
    inputs = replay.inputs
    model = keras.Model(unpacked(inputs), unpacked(ends), name=twin.name)
    return model, replay.holders


class Replay:
    """Makes recorded calls again where weights take part in them.

    Attributes:
        holders: the layers that hold weights.
        sources: the ids of variables that no layer applies, since they are
            used in several ways: a layer has them for its output.
        tied: the ids of variables that are used in several ways, and may be
            tables that are looked up and read back.
        apart: as in `written_out`.
    """

    def __init__(
        self,
        twin: keras.Layer,
        inputs: list[keras.KerasTensor],
        stripped: bool,
        revision: Revision,
        before: Holders | None = None,
    ) -> None:
        self.twin = twin
        self.inputs = inputs
        self.stripped = stripped
        self.revision = revision
        self.sources: set[int] = set()
        self.tied: set[int] = set()
        self.apart = False
        self._values: dict[int, Any] = {}
        self._weights: dict[int, Weight] = {}
        self._names = Names()
        self.holders = Holders(twin, self._names, before)
        # By the id of the tensor whose samples they are for.
        self._one: dict[int, keras.KerasTensor] = {}

    def run(
        self,
        outputs: list[keras.KerasTensor],
        weights: list[StandIn],
        new_inputs: list[keras.KerasTensor],
    ) -> list[keras.KerasTensor]:
        """What `outputs` are in the model."""
        for each in weights:
            self._values[id(each)] = self._weights[id(each.variable)] = read(
                each
            )
        self.readers = private.readers_of(outputs)
        nodes = private.recorded_before(outputs, [*self.inputs, *weights])
        self._names.update(
            node.operation.name
            for node in nodes
            if isinstance(node.operation, keras.Layer)
            and self._tied_table(node) is None
        )
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
        """Refuse a variable of a layer that is also called."""
        called = {
            id(variable)
            for node in nodes
            if isinstance(node.operation, keras.Layer)
            and self._tied_table(node) is None
            for variable in node.operation.variables
        }
        for variable, _ in self.holders.placed:
            if id(variable) in called:
                raise TwoWays(variable)

    def name_operations(self, ends: list[keras.KerasTensor]) -> None:
        """Number operations from the layer on: Keras counts all there are.

        So they are called the same whenever the layer is traced.
        """
        for node in private.recorded_before(ends, self.inputs):
            op = node.operation
            if not isinstance(op, keras.Layer):
                op.name = self._names.free(without_count(op.name))

    def _node(self, node: Node) -> None:
        if id(node.outputs[0]) in self._values:
            return  # it was taken along
        args, kwargs = mapped(self._value, *_given(node))
        told = self.stripped and kwargs.pop("training", None) is not None
        flat = keras.tree.flatten((args, kwargs))
        weights = [x for x in flat if isinstance(x, Weight)]
        tensors = [x for x in flat if isinstance(x, keras.KerasTensor)]
        table = self._tied_table(node)
        if table is not None and tensors:
            self._note(node, looked_up(self, node, tensors[0], table))
            return
        if weights and isinstance(node.operation, keras.Layer):
            args, kwargs = mapped(self._as_tensor, args, kwargs)
            weights = []
        if weights and not tensors:
            spread = self.revision.spread
            found = computed(node, args, kwargs, spread)
            self._values.update(zip(map(id, node.outputs), found, strict=True))
            return
        if not weights:
            kept = [x for x in node.input_tensors if id(x) in self._values]
            if kept or told:
                self._note(node, self._again(node, args, kwargs))
            return
        made = None
        handler = HANDLERS.get(type(node.operation))
        applied = not any(id(x.variable) in self.sources for x in weights)
        if handler is not None and applied:
            made = handler(self, node, Operands(args, kwargs))
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
        """What is called in place of an operation; None for itself."""
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

    def _tied_table(self, node: Node) -> Weight | None:
        """The table that a layer inside looks up, if it is read back, too."""
        op = node.operation
        if type(op) is not keras.layers.Embedding or op.mask_zero:
            return None
        for variable in op.variables:
            if id(variable) in self.tied:
                return self._weights.get(id(variable))
        return None

    def _value(self, x: Any) -> Any:
        if isinstance(x, keras.Variable):
            raise ReadsInside(
                f"its `call` uses the variable '{x.path}' of a layer inside",
                [x],
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
        aligned = type(node.operation) in BROADCASTING

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
                    f"{type(node.operation).__name__}, for which there is no "
                    "stock layer"
                )
            return self.tensor(x, rank, like)

        flat = keras.tree.flatten((args, kwargs))
        data = [x for x in flat if isinstance(x, keras.KerasTensor)]
        like = data[0] if data and self.apart else None
        args, kwargs = mapped(tensor, args, kwargs)
        return self._again(node, args, kwargs)

    def tensor(
        self, weight: Weight, rank: int, like: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """A weight as a tensor of `rank` axes, the first for the samples.

        Args:
            weight: the weight.
            rank: how many axes.
            like: what has these samples; by default, the first input.
        """
        value = weight.value
        if value.ndim == rank and value.shape[0] == 1:
            value = value[0]
        if value.ndim >= rank:
            raise SideEffect(
                f"its `call` uses the variable '{weight.variable.name}' along "
                "the batch axis"
            )
        value = value.reshape((1,) * (rank - 1 - value.ndim) + value.shape)
        letters = _LETTERS[1 : rank + 1]
        layer = self.holders.layer(
            weight,
            "kernel",
            keras.layers.EinsumDense,
            weight.dtype,
            equation=f"a{letters[0]},{letters}->a{letters[1:]}",
            output_shape=value.shape,
        )
        return self.holders.called(
            layer, self._ones(like), weight, value[np.newaxis]
        )

    def _ones(self, like: keras.KerasTensor | None) -> keras.KerasTensor:
        """A one for each sample, `(batch, 1)`."""
        source = self.inputs[0] if like is None else like
        if id(source) not in self._one:
            rank = len(source.shape)
            if rank < 2:
                raise SideEffect("its input has only a batch axis")
            # Of no channel at all: any may go.
            x = source[(slice(None), *[slice(0, 0)] * (rank - 1))]
            if rank > 2:
                x = keras.ops.sum(x, axis=tuple(range(2, rank)))
            none = keras.ops.sum(x, axis=1, keepdims=True)
            one = keras.ops.ones_like(none)
            dtype = self.twin.compute_dtype
            self._one[id(source)] = keras.ops.cast(one, dtype)
        return self._one[id(source)]

    def bias_after(self, node: Node, size: int) -> tuple[Node, Weight] | None:
        """A vector that is added to the output of a call, and nowhere else.

        None for a call whose weight is used more than once: each use would
        need the same bias.
        """
        if any(len(self.readers.get(id(x), ())) > 1 for x in self._bare(node)):
            return None
        readers = self.readers.get(id(node.outputs[0]), [])
        after = readers[0] if len(readers) == 1 else None
        if after is None or type(after.operation) is not ADD:
            return None
        args, kwargs = mapped(self._value, *_given(after))
        weights = [
            x for x in (*args, *kwargs.values()) if isinstance(x, Weight)
        ]
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
        self.holders.give_bias(weight, layer)
        self._values[id(after.outputs[0])] = y


def _given(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return node.arguments.args, node.arguments.kwargs
