"""Argument checks, and the common parts of their messages."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
from collections.abc import Callable
from typing import ParamSpec
from typing import TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Class = TypeVar("_Class")

# The number of names that a message lists.
_MOST = 8


def nonnegative_number(value: float, argument: str, owner: str) -> float:
    """Return `value` as a float, or raise an error that says what is wrong.

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


def integer(value: object, argument: str, least: int | None = None) -> None:
    """Refuse what is not an integer, or is too small.

    Args:
        value: What the user passed.
        argument: Name of the argument, for the message.
        least: The smallest value that is allowed.

    Raises:
        TypeError: If `value` is not an integer.
        ValueError: If `value` is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`{argument}` must be an int. Received: {value!r}.")
    if least is not None and value < least:
        raise ValueError(
            f"`{argument}` must be at least {least}. Received: {value!r}."
        )


def listed(names: list[str], nothing: str = "none") -> str:
    """The first few names, and how many more there are."""
    names = list(map(str, names))
    more = len(names) - _MOST
    tail = f" and {more} more" if more > 0 else ""
    return (", ".join(names[:_MOST]) or nothing) + tail


def suggestion(name: str, known: list[str] | set[str]) -> str:
    """A question with the nearest name, or "" if there is none."""
    names = list(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=1)
    # A gate's name begins with that of its layer.
    near = near or [n for n in names if name and n.startswith(f"{name}_")]
    return f" Did you mean {near[0]!r}?" if near else ""


def renamed(
    **new: str,
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """A decorator that answers old argument names with the new ones.

    Args:
        **new: The new name of each argument that was renamed.
    """

    def decorate(
        function: Callable[_Arguments, _Result],
    ) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def checked(
            *args: _Arguments.args, **kwargs: _Arguments.kwargs
        ) -> _Result:
            for old in kwargs.keys() & new.keys():
                raise TypeError(
                    f"{function.__qualname__.removesuffix('.__init__')} no "
                    f"longer has an argument `{old}`. Pass `{new[old]}`."
                )
            return function(*args, **kwargs)

        return checked

    return decorate


def renamed_arguments(**new: str) -> Callable[[type[_Class]], type[_Class]]:
    """`renamed` for the arguments of a class."""

    def decorate(cls: type[_Class]) -> type[_Class]:
        # The instances of a frozen dataclass are frozen, the class is not.
        own = renamed(**new)(cls.__init__)
        type.__setattr__(cls, "__init__", own)
        return cls

    return decorate
