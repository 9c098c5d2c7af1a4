"""Closed factors, put back after each step of the optimizer.

An optimizer moves a closed factor like any other: Adam by its rate, however
small the gradient is. A few such steps are enough for a network to live on what
is closed, the more so where a normalization makes small things large. So they
are put back after every step. What they were moved is added up on the device:
nothing is read, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


class Held:
    """Closed factors of some variables.

    Attributes:
        closed: which factors are, of each variable.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        closed: Sequence[NDArray[np.bool_]],
        rests: Sequence[NDArray[np.float64]],
    ) -> None:
        """Hold factors from now on.

        Args:
            variables: those of the gates.
            closed: which factors of each are held.
            rests: the values of each that they are held at.
        """
        self.closed = list(closed)
        self._variables = list(variables)
        self._parts: list[tuple[Any, Any] | None] = [
            (
                ops.convert_to_tensor(mask, variable.dtype),
                ops.convert_to_tensor(np.where(mask, rest, 0), variable.dtype),
            )
            if mask.any()
            else None
            for variable, mask, rest in zip(
                variables, closed, rests, strict=True
            )
        ]
        self._moved: list[Any] = [None] * len(self._variables)

    @property
    def any(self) -> bool:
        """Whether any factor is held."""
        return any(part is not None for part in self._parts)

    def hold(self) -> None:
        """Put closed factors back, and add up what they were moved."""
        for number, variable in enumerate(self._variables):
            part = self._parts[number]
            if part is None:
                continue
            mask, rest = part
            value = ops.convert_to_tensor(variable)
            own = ops.multiply(value, mask)
            moved, known = ops.subtract(own, rest), self._moved[number]
            self._moved[number] = moved if known is None else known + moved
            variable.assign(ops.add(ops.subtract(value, own), rest))

    def moved(self) -> list[NDArray[np.float64]]:
        """What each factor was moved since this was last asked."""
        found = [
            np.zeros(mask.shape)
            if moved is None
            else ops.convert_to_numpy(moved).astype("float64")
            for mask, moved in zip(self.closed, self._moved, strict=True)
        ]
        self._moved = [None] * len(self._variables)
        return found
