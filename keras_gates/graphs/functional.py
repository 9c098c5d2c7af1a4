"""Facts about a functional model that need no graph."""

from __future__ import annotations

from typing import Any

import keras

from keras_gates.graphs import carried
from keras_gates.graphs import private


def functional_of(model: Any) -> keras.Model | None:
    """The functional graph of a model, or None where there is none."""
    return private.graph_of(model)


def is_functional(model: Any) -> bool:
    """Whether `model` records a graph (Functional or built Sequential)."""
    return private.graph_of(model) is not None


def has_own_call(op: keras.Operation) -> bool:
    """Whether a layer or model computes what Keras doesn't know of.

    That is what was put in place of its `call`, or a `call` that the
    class of a functional model has instead of running its graph.
    """
    if "call" in vars(op):
        return True
    return is_functional(op) and not private.runs_its_graph(op)


def own_weights(op: keras.Operation) -> list[keras.Variable]:
    """The variables of a layer in a fixed order; none for an operation."""
    return list(op.weights) if isinstance(op, keras.Layer) else []


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The nested structures of a functional model's inputs and outputs."""
    return private.structures_of(private.graph_of(model))


def struct_of(function: keras.Model) -> Any:
    """The nested structure of the outputs of a model or `keras.Function`."""
    return private.structures_of(function)[1]


def input_layer(kt: keras.KerasTensor) -> keras.Layer:
    """The `InputLayer` that makes a model's input tensor."""
    return private.origin_of(kt)[0]


def maker(kt: keras.KerasTensor) -> tuple[keras.Operation, int]:
    """`(operation, number of its output)` that a symbolic tensor is."""
    op, _, number = private.origin_of(kt)
    return op, number


def finds_mask(node: Any, kt: keras.KerasTensor) -> bool:
    """Whether a layer finds a mask with a tensor that it is called on.

    That is so where the record of the call has no such mask.
    """
    return bool(carried.found(node, {id(kt): carried.UNKNOWN}))


def masked_outputs(node: Any, kt: keras.KerasTensor) -> list[bool]:
    """Which outputs of a recorded call have the mask of one of its inputs.

    None of them, where the mask is an argument in the record: they have it
    in any case.
    """
    given = node.arguments.kwargs.get("mask")
    if any(mask is not None for mask in keras.tree.flatten(given)):
        return [False] * len(node.outputs)
    masks = {id(kt): carried.UNKNOWN}
    behind = carried.behind(node, masks, lambda mask: None)
    return [mask is not None for mask in behind]


def named_operation(path: str, name: str, **config: Any) -> keras.Operation:
    """An operation of `keras.ops` with a name of its own."""
    cls: Any = private.operation(path)
    operation: keras.Operation = cls(**config)
    operation.name = name
    return operation


def carry_mask(old: Any, new: Any) -> None:
    """Give a tensor the mask (of padded steps, say) of another."""
    mask = private.mask_of(old)
    if mask is not None:
        private.set_mask(new, mask)
