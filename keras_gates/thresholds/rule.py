"""What thresholds speak of, and the base class of their rules."""

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
# They are gates only where a dict of thresholds says so.
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

    A rule sees all the gates it is given at once, so that it may compare
    them.

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
    """Refuse what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{what.capitalize()} must be a number. Received: {value!r} (of "
            f"type {type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{what.capitalize()} must be finite. Received: {value!r}."
        )
