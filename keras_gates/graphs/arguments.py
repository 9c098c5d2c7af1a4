"""Put other tensors into the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor


def mapped(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)` with `function` of each leaf in its place."""
    # Nearly every call has one tensor, which is no work for a tree's library.
    if len(args) == 1 and not kwargs and hasattr(args[0], "dtype"):
        return (function(args[0]),), {}
    return keras.tree.map_structure(function, (args, kwargs))


def recorded(node: Any, tensors: dict[int, Tensor]) -> tuple[Any, ...]:
    """`(args, kwargs)` of a recorded call, on `tensors` by id instead."""

    def swap(
        x: NDArray[Any] | bool | float | keras.KerasTensor | None,
    ) -> NDArray[Any] | Tensor | bool | float | None:
        return tensors[id(x)] if isinstance(x, keras.KerasTensor) else x

    return mapped(swap, node.arguments.args, node.arguments.kwargs)
