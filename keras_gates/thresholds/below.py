"""Closes factors below a number."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.thresholds.rule import ThresholdRule
from keras_gates.thresholds.rule import check_number

if TYPE_CHECKING:
    from keras_gates.thresholds.rule import Factors


@dataclasses.dataclass(frozen=True)
class Below(ThresholdRule):
    """Closes each gate factor with `|factor| < threshold`, strictly.

    A plain number as `thresholds` means this rule.

    Args:
        threshold: A number that is at least 0.

    Raises:
        TypeError: If `threshold` is not a number.
        ValueError: If it is negative or not finite.

    Example:
    >>> import numpy as np
    >>> from keras_gates.thresholds import Below, Factors
    >>> gate = Factors("gate", "filter", np.array([0.5, 0.04, -0.05]))
    >>> Below(0.05).close([gate])[0].tolist()
    [False, True, False]
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number(self.threshold, "a threshold")
        if self.threshold < 0:
            raise ValueError(
                "A threshold must be at least 0: gates are compared by "
                f"their absolute value. Received: {self.threshold!r}."
            )

    def close(self, gates: list[Factors]) -> list[NDArray[np.bool_]]:
        return [np.abs(g.values) < self.threshold for g in gates]
