"""Penalties of transforms: numbers and regularizers."""

from __future__ import annotations

import numbers
from typing import Any

from keras_gates._checks import nonnegative_number
from keras_gates.penalties import L1


def penalty_of(
    strength: float | None, regularizer: Any, argument: str, owner: str
) -> Any:
    """The regularizer of each gate, from a number or from a regularizer.

    A number is a `strength`, and always means `L1(strength)`: `strength *
    sum(abs(factor))` is added to the loss. A regularizer is anything that Keras
    layers accept, so never a number.

    Args:
        strength: The user's strength of a penalty, or None.
        regularizer: The user's `argument`, or None.
        argument: The name of the argument that takes a regularizer.
        owner: The name of the transform.

    Returns:
        An `L1`, the `regularizer` unchanged, or None for no penalty.

    Raises:
        TypeError: `regularizer` is a number.
        ValueError: `strength` is not a number of at least 0, or both are
            given.
    """
    if isinstance(regularizer, numbers.Real):
        raise TypeError(
            f"`{argument}` takes a regularizer, as in Keras layers. Received: "
            f"{argument}={regularizer!r}. Pass strength={regularizer!r} for "
            "an L1 penalty, or "
            f"{argument}=keras_gates.regularizers.L1({regularizer!r})."
        )
    if strength is None:
        return regularizer
    if not isinstance(strength, numbers.Real):
        raise TypeError(
            f"{owner} cannot use this `strength`. Received: {strength!r} (of "
            f"type {type(strength).__name__}). Expected: a number. Pass a "
            f"regularizer as `{argument}`."
        )
    if regularizer is not None:
        raise ValueError(
            f"{owner} takes a `strength` or a `{argument}`. Received: "
            f"strength={strength!r} and {argument}={regularizer!r}."
        )
    return L1(nonnegative_number(strength, "strength", owner))
