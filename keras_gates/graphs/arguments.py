"""Replaces tensors in the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node


def mapped(
    function: Callable[[Any], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` with `function` applied to each leaf."""
    # Nearly every call has one tensor, which needs no tree library.
    if len(args) == 1 and not kwargs and hasattr(args[0], "dtype"):
        return (function(args[0]),), {}
    args, kwargs = keras.tree.map_structure(function, (args, kwargs))
    return args, kwargs


def recorded(
    node: Node, tensors: Mapping[int, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` of a recorded call, on other tensors.

    Args:
        node: the recorded call.
        tensors: `{id of a symbolic tensor: what stands for it}`.
    """

    def swap(x: Any) -> Any:
        return tensors[id(x)] if isinstance(x, keras.KerasTensor) else x

    return mapped(swap, node.arguments.args, node.arguments.kwargs)


def each_in_place(
    node: Node, made: Mapping[int, Sequence[Any]]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` of a recorded call, on others for each of its tensors.

    By the tensors themselves: their order in nested dicts is not the same for
    all that goes through these.

    Args:
        node: the recorded call.
        made: `{id of a symbolic tensor: what stands for it, each time}`.
    """
    rest = {key: list(each) for key, each in made.items()}

    def swap(x: Any) -> Any:
        return rest[id(x)].pop(0) if isinstance(x, keras.KerasTensor) else x

    return mapped(swap, node.arguments.args, node.arguments.kwargs)
