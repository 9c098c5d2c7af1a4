"""Models of Keras 2, which are only read."""

from __future__ import annotations

from typing import Any


def cause_of(error: BaseException) -> BaseException:
    """The error that a `call` raised, where Keras could not repeat it.

    Assumes: Keras raises an error again as its class called with a longer
    text. A class that takes no text raises another error then, on that text,
    whose context is the first.
    """
    lost = "'str' object has no attribute"
    while lost in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


def keras2_has_graph(model: Any) -> bool:
    """Whether a model of tf_keras records a graph.

    Assumes: `_is_graph_network` says so.
    """
    return bool(getattr(model, "_is_graph_network", False))


def keras2_nodes_of(model: Any) -> list[Any]:
    """The recorded calls of a model of tf_keras in order, inputs included.

    Assumes: as `nodes_of`.
    """
    by_depth = model._nodes_by_depth
    return [n for d in sorted(by_depth, reverse=True) for n in by_depth[d]]


def keras2_structures_of(model: Any) -> tuple[Any, Any]:
    """The nested structures of the inputs and outputs of a tf_keras model.

    Assumes: they are in `_nested_inputs` and `_nested_outputs`.
    """
    return model._nested_inputs, model._nested_outputs
