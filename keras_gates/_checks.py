"""Argument checks, and what their messages have in common."""

from __future__ import annotations

import difflib
import math
import numbers

# How many names a message lists.
_MOST = 8


def nonnegative_number(value: float, argument: str, owner: str) -> float:
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


def listed(names: list[str], nothing: str = "none") -> str:
    """The first names of many, and how many more there are."""
    names = list(map(str, names))
    more = len(names) - _MOST
    tail = f" and {more} more" if more > 0 else ""
    return (", ".join(names[:_MOST]) or nothing) + tail


def suggestion(name: str, known: list[str] | set[str]) -> str:
    """A question that names what comes nearest, or "" where nothing does."""
    near = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
