"""Argument checks that regularizers, constraints and callbacks share."""

import math
import numbers


def nonnegative_number(value, argument, owner):
    """Return `value` as a float, or say what is wrong with it.

    Args:
        value: What the user passed.
        argument: Name of the argument, for the message.
        owner: Name of the class that asks, for the message.

    Raises:
        ValueError: If `value` is not a finite number of at least 0.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"{owner} cannot use this `{argument}`. Received: "
            f"{argument}={value!r}. Expected: a finite number >= 0. "
            f"Pass a number such as {argument}=1e-4."
        )
    return float(value)
