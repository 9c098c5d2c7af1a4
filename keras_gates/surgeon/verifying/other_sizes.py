"""Parts of a layer that hold for single sizes, for those of given inputs.

A layer that works with sizes which the model leaves open was traced on known
ones. To run its parts on inputs of other sizes, it is traced on these: it
makes the same calls, so what is masked in one is masked in the other.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import graph as gr
from keras_gates.graphs.trace import at_size
from keras_gates.surgeon.verifying.masked_run import Closing

if TYPE_CHECKING:
    from keras_gates.surgeon.verifying.masked_run import Masks
    from keras_gates.surgeon.verifying.masked_run import Node
    from keras_gates.surgeon.verifying.masked_run import StandIn


def fitted(model: keras.Model, closing: Closing, x: Any) -> Closing:
    """A `Closing` whose parts of layers hold for the sizes of inputs.

    Args:
        model: the model.
        closing: the `Closing`.
        x: a batch of inputs.

    Raises:
        ValueError: inputs have different sizes where the model leaves them
            open; or a layer makes other calls at these.
    """
    inside = dict(closing.inside)
    todo = [
        node
        for node, each in inside.items()
        if each.opened is not None and each.opened.fixed
    ]
    if not todo:
        return closing
    size = _open_size(model, x)
    while todo and size is not None:
        node = todo.pop()
        if node not in inside:
            continue  # it is part of a layer that has been traced again
        new, nodes = _again(node, inside[node], size)
        inside[node] = new
        for old, one in nodes.items():
            if old in inside:
                inside[one] = inside.pop(old)
                todo.append(one)
    return dataclasses.replace(closing, inside=inside)


def _open_size(model: keras.Model, x: Any) -> int | None:
    """What inputs have where the model leaves a size open; None if nowhere."""
    functional: Any = gr.functional_of(model)
    sizes = {
        actual
        for kt, array in zip(
            functional.inputs, keras.tree.flatten(x), strict=True
        )
        for known, actual in zip(kt.shape[1:], np.shape(array)[1:], strict=True)
        if known is None
    }
    if len(sizes) > 1:
        raise ValueError(
            f"Inputs of '{model.name}' have the sizes {sorted(sizes)} where "
            "the model has unknown sizes. `verify` runs layers by their "
            "parts, which are known for one size at a time: pass `x` with "
            "one size."
        )
    return next(iter(sizes), None)


def _again(
    node: Node, stand_in: StandIn, size: int
) -> tuple[StandIn, dict[Node, Node]]:
    """What is run for a layer at a size; and old calls in it -> new ones."""
    assert stand_in.opened is not None
    found = at_size(node, stand_in.opened.twin, size)
    nodes: dict[Node, Node] = {}
    if isinstance(found, gr.Opened):
        function = gr.functional_of(found.model)
        old, new = gr.nodes_of(stand_in.function), gr.nodes_of(function)
        alike = [*map(_kind, old)] == [*map(_kind, new)]
        nodes = dict(zip(old, new, strict=True)) if alike else {}
    if not nodes or not isinstance(found, gr.Opened):
        raise ValueError(
            f"Layer '{node.operation.name}' (of type "
            f"{type(node.operation).__name__}) makes other calls for inputs "
            f"of the size {size} than when it was read, so `verify` can't run "
            "it by its parts. Pass `x` of another size."
        )
    variables = {
        id(v): w
        for a, b in nodes.items()
        for v, w in zip(_variables(a), _variables(b), strict=True)
    }
    values = {}
    for variable, value in stand_in.values.values():
        own = variables.get(id(variable), variable)
        values[id(own)] = (own, value)
    return dataclasses.replace(
        stand_in,
        function=function,
        opened=found,
        values=values,
        gates=_moved(stand_in.gates, nodes),
        masks=_moved(stand_in.masks, nodes),
    ), nodes


def _kind(node: Node) -> Any:
    return type(node.operation)


def _variables(node: Node) -> list[keras.Variable]:
    return gr.own_weights(node.operation)


def _moved(masks: Masks, nodes: dict[Node, Node]) -> Masks:
    return {nodes.get(node, node): each for node, each in masks.items()}
