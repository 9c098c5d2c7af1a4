"""The factors of a layer that thresholds close."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """The factors of one layer.

    Attributes:
        layer: the layer.
        kind: the kind in thresholds.
        variable: the variable that holds the factors, or from which they are
            computed.
        zeroed: the weights of the layer, with the role of their axis, that
            are zero where a closed factor stays; a gate leaves none.
        closed: the value of `variable` at which its factor is zero, or None
            where the rule does not say whether they are the same.
        opened: the value of `variable` at which its factor is 1.
        factors: the factors of the variable's values, as a tensor; None where
            they are its values.
        scores: what thresholds compare in place of the factors, or None.
    """

    layer: keras.Layer
    kind: str
    variable: keras.Variable
    zeroed: dict[str, str] = dataclasses.field(default_factory=dict)
    closed: float | None = 0.0
    opened: float = 1.0
    factors: Callable[[Any], Any] | None = None
    scores: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    def values(self) -> NDArray[Any]:
        """The values that thresholds compare: the scores or the factors."""
        if self.scores is not None:
            return self.scores
        factors = self.variable
        if self.factors is not None:
            factors = self.factors(keras.ops.convert_to_tensor(factors))
        return np.array(keras.ops.convert_to_numpy(factors))
