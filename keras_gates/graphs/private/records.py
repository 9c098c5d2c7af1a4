"""The record of a functional model: its calls, in nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import keras
from keras.src.models.functional import Functional
from keras.src.ops.node import Node as _Node

from keras_gates.graphs.private.layers import set_on


class _Arguments(Protocol):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Node(Protocol):
    """One recorded call, as Keras keeps it.

    Assumes: a node has these attributes; `arguments` holds the call's
    arguments as they were given.
    """

    operation: keras.Operation
    arguments: _Arguments
    input_tensors: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    is_input: bool


def graph_of(model: Any) -> keras.Model | None:
    """The functional graph of a model, or None where there is none.

    Assumes: a built Sequential keeps it in `_functional`.
    """
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, Functional) else None


def runs_its_graph(model: keras.Model) -> bool:
    """Whether the `call` of a functional model is the one of Keras.

    Assumes: these two methods make the recorded calls, and do nothing else.
    """
    return type(model).call in (Functional.call, keras.Sequential.call)


def nodes_of(function: keras.Model) -> list[Node]:
    """The recorded calls of a functional model or `keras.Function`, in order.

    Assumes: `_nodes_by_depth` holds them by their distance from the outputs,
    and Keras makes them by this order.
    """
    by_depth = function._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if node.operation is not None and not node.is_input
    ]


def structures_of(function: keras.Model) -> tuple[Any, Any]:
    """The nested structures of the inputs and outputs of a functional model.

    Assumes: `_inputs_struct` and `_outputs_struct` of the model, or of a
    `keras.Function`, are what it was made of.
    """
    return function._inputs_struct, function._outputs_struct


def origin_of(kt: keras.KerasTensor) -> tuple[keras.Operation, int, int]:
    """`(operation, number of its call, number of its output)` of a tensor.

    Assumes: `_keras_history` holds these three, in this order.
    """
    history = kt._keras_history
    return history.operation, history.node_index, history.tensor_index


def calls_of(op: keras.Operation) -> list[Node]:
    """All recorded calls of a layer or operation, in any model.

    Assumes: `_inbound_nodes` holds them in the order in which they were made.
    """
    return list(getattr(op, "_inbound_nodes", ()))


def record(
    layer: keras.Layer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: keras.KerasTensor,
) -> None:
    """Note a call of a built layer in the graph of `output`.

    Assumes: of a symbolic call of a built layer, a new `Node` and the flag
    `_called` are all that is left.
    """
    layer._called = True
    _Node(layer, args, kwargs, output)


def building(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which `layer.build` gives variables their paths.

    Assumes: a symbolic call opens it by `_open_name_scope`.
    """
    scope: contextlib.AbstractContextManager[Any] = layer._open_name_scope()
    return scope


def mark_called(model: keras.Model) -> None:
    """Let a functional model that never ran be exported to ONNX.

    Assumes: the export asks for `_called`, and a call would tell it nothing
    more about a functional model.
    """
    model._called = True


@contextlib.contextmanager
def other_loop(
    functional: keras.Model, loop: Callable[[Any, Callable[..., Any]], Any]
) -> Iterator[None]:
    """Within, a functional model makes its recorded calls by `loop`.

    Assumes: `call` runs `self._run_through_graph(inputs, operation_fn)`.

    Args:
        functional: the model; its layers are not concerned.
        loop: `(inputs, operation_fn) -> outputs`: `operation_fn` of an
            operation is what is to be called in its place, since it passes
            on `training`.
    """
    with set_on(functional, "_run_through_graph", loop):
        yield


def init_functional(
    model: keras.Model, inputs: Any, outputs: Any, name: str
) -> None:
    """Make a functional model of an object whose constructor never ran.

    Assumes: where the class has made such a model before, which has put
    `Functional` among its bases, nothing but `Functional.__init__` is needed.
    """
    Functional.__init__(model, inputs, outputs, name=name)
