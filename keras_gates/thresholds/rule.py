"""Factors of gates, and the base class of threshold rules."""

from __future__ import annotations

import dataclasses
import math
import numbers

import numpy as np
from numpy.typing import NDArray

KINDS = (
    *("filter", "head", "layer", "branch", "block"),
    *("batch_norm", "stripe", "group"),
)
# Their factors are a vector, one for each channel or head.
VECTORS = ("filter", "head", "batch_norm", "group")
# They are gates only if a dict of thresholds says so.
NAMED = ("batch_norm",)


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of one gate, under the name that thresholds use.

    Attributes:
        name: the path of the gate.
        kind: one of `KINDS`.
        values: its factors, floats: `()` for a gate of one factor,
            `(channels,)` for one of channels, `(height, width, filters)` for
            stripes.
    """

    name: str
    kind: str
    values: NDArray[np.floating]


class ThresholdRule:
    """Base class of rules that choose which gates to close.

    A rule gets all of its gates at once, so that it can compare them.

    Example:
    >>> import numpy as np
    >>> from keras_gates.thresholds import Factors, ThresholdRule
    >>> class Negative(ThresholdRule):
    ...     def close(self, gates):
    ...         return [gate.values < 0 for gate in gates]
    >>> gate = Factors("gate", "filter", np.array([0.5, -0.5]))
    >>> Negative().close([gate])[0].tolist()
    [False, True]
    """

    def close(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        """Return a boolean array for each of the `Factors`."""
        raise NotImplementedError


def check_number(value: float, what: str) -> None:
    """Refuse anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{what.capitalize()} must be a number. Received: {value!r} (of "
            f"type {type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{what.capitalize()} must be finite. Received: {value!r}."
        )
