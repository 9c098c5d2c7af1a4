"""Make the calls of a model on a batch, as far as they are asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs import time_axis
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.calls import Tensor
from keras_gates.graphs.without_gradients import without_gradients
from keras_gates.surgeon.rules.virtual import VirtualGate

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph


class Walk:
    """The tensors of a model for one batch.

    A tensor is made when it is asked for, and let go of when all calls that
    read it have been made: what is held is as much as one layer passes on, and
    the shortcuts around it. One that is asked for again is made again.

    No variable is assigned, and no gradient kept.

    Args:
        graph: the `Graph` of the model.
        x: flat list of its inputs.

    Attributes:
        shapes: those of all tensors that were made.
    """

    def __init__(self, graph: Graph, x: list[Any]) -> None:
        self.graph = graph
        pairs = zip(graph.inputs, graph.functional.inputs, x, strict=True)
        self._given = {t: _as_input(kt, a) for t, kt, a in pairs}
        self._order = {call: n for n, call in enumerate(graph.calls)}
        self._values: dict[Tensor, Any] = {}
        self._made: set[Call] = set()
        self.shapes = {t: _shape(a) for t, a in self._given.items()}

    def value(self, tensor: Tensor) -> Any:
        """A tensor of the model, as one of the backend."""
        wanted = self._missing([tensor])
        for call in sorted(wanted, key=self._order.__getitem__):
            wanted.discard(call)
            self._make(call, wanted, tensor)
        return self._get(tensor)

    def ahead(self, tensors: Iterable[Tensor]) -> list[Any]:
        """Tensors beyond one that is still to change: nothing is kept."""
        values, made = dict(self._values), set(self._made)
        try:
            return [self.value(tensor) for tensor in tensors]
        finally:
            self._values, self._made = values, made

    def forget(self) -> None:
        """Let go of all tensors; what is asked for next is made again."""
        self._values.clear()
        self._made.clear()

    def _get(self, tensor: Tensor) -> Any:
        known = self._values if tensor in self._values else self._given
        return known[tensor]

    def _missing(self, tensors: Iterable[Tensor]) -> set[Call]:
        """The calls that have to be made for some tensors."""
        calls: set[Call] = set()
        left = list(tensors)
        while left:
            tensor = left.pop()
            known = tensor in self._values or tensor in self._given
            if known or tensor.producer is None or tensor.producer in calls:
                continue
            calls.add(tensor.producer)
            left += tensor.producer.inputs
        return calls

    def _make(self, call: Call, wanted: set[Call], asked: Tensor) -> None:
        outputs = run(call, self._get)
        self._values.update(zip(call.outputs, outputs, strict=True))
        shapes = map(_shape, outputs)
        self.shapes.update(zip(call.outputs, shapes, strict=True))
        self._made.add(call)
        for tensor in {*call.inputs}:
            read = all(
                reader in self._made and reader not in wanted
                for reader in tensor.consumers
            )
            if read and tensor is not asked:
                self._values.pop(tensor, None)


def run(
    call: Call, get: Any, values: Sequence[tuple[Any, Any]] = ()
) -> list[Any]:
    """The flat outputs of a call in inference.

    Args:
        call: the `Call`.
        get: what a `Tensor` of its arguments stands for.
        values: variables with other values for the while.
    """
    op = call.op
    if isinstance(op, VirtualGate):
        return [get(call.inputs[0])]
    args, kwargs = mapped(
        lambda a: get(a) if isinstance(a, Tensor) else a, call.args, call.kwargs
    )
    if _takes_training(op):
        # As a model in inference does, whatever the call recorded: that may be
        # the default of the layer's `call`, such as the True of augmentations.
        kwargs = {**kwargs, "training": False}
    function = op.call if time_axis.is_fold(op) else op
    with without_gradients(), keras.StatelessScope(state_mapping=values):
        outputs = function(*args, **kwargs)
    return [_detached(y) for y in keras.tree.flatten(outputs)]


def _shape(y: Any) -> tuple[int, ...]:
    """That of a tensor; () for what is none."""
    return tuple(getattr(y, "shape", ()))


def _detached(y: Any) -> Any:
    """A tensor of which no gradient is kept, with its mask of time steps."""
    if not keras.ops.is_tensor(y):
        return y
    detached = keras.ops.stop_gradient(y)
    gr.carry_mask(y, detached)
    return detached


def _takes_training(op: Any) -> bool:
    if not isinstance(op, keras.Layer):
        return False
    return "training" in inspect.signature(op.call).parameters


def _as_input(kt: keras.KerasTensor, array: Any) -> Any:
    """What a functional model makes of an array that it is given."""
    if array is None:
        return None
    x = keras.ops.convert_to_tensor(array, dtype=kt.dtype)
    rank = len(kt.shape)
    if len(x.shape) == rank + 1 and x.shape[-1] == 1:
        x = keras.ops.squeeze(x, -1)
    elif len(x.shape) == rank - 1 and kt.shape[-1] == 1:
        x = keras.ops.expand_dims(x, -1)
    return _on_all_devices(x)


def _on_all_devices(x: Any) -> Any:
    """The samples of a batch, spread as the distribution in force spreads them.

    What is computed of them is then computed on all devices. A batch that
    can't be shared out evenly is left where it is.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or not x.shape:
        return x
    mesh = distribution.device_mesh
    along = mesh.axis_names.index(distribution.batch_dim_name)
    if x.shape[0] % mesh.shape[along]:
        return x
    layout = distribution.get_data_layout(tuple(x.shape))
    return keras.distribution.distribute_tensor(x, layout)
