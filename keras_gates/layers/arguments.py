"""The types of what the layers take, one name for each idea."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras

# The shape of a tensor, batch axis included; None where a size is unknown.
Shape: TypeAlias = tuple[int | None, ...]

# One size for all spatial axes, or one for each.
Sizes: TypeAlias = int | tuple[int, ...] | list[int]

# What `get` of Keras' modules takes: a name, a config, an object, a function.
Activation: TypeAlias = str | dict[str, Any] | Callable[..., Any] | None
Initializer: TypeAlias = (
    keras.initializers.Initializer | str | dict[str, Any] | Callable[..., Any]
)
Regularizer: TypeAlias = (
    keras.regularizers.Regularizer
    | str
    | dict[str, Any]
    | Callable[..., Any]
    | None
)
Constraint: TypeAlias = (
    keras.constraints.Constraint
    | str
    | dict[str, Any]
    | Callable[..., Any]
    | None
)
