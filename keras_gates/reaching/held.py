"""Closed factors, put back after each step of the optimizer.

An optimizer moves a closed factor like any other: Adam by its learning rate,
even for tiny gradients. After a few such steps, a network can rely on closed
factors, especially where a normalization amplifies small values. So they are
reset after every step. Their movement is summed on the device, without reading
anything back.
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
        closed: the closed factors of each variable.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        closed: Sequence[NDArray[np.bool_]],
        rests: Sequence[NDArray[np.float64]],
    ) -> None:
        """Start to hold factors.

        Args:
            variables: the variables of the gates.
            closed: which of their factors are held.
            rests: the values at which they are held.
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
        """Reset closed factors, and sum their movement."""
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
        """The movement of each factor since the last call."""
        found = [
            np.zeros(mask.shape)
            if moved is None
            else ops.convert_to_numpy(moved).astype("float64")
            for mask, moved in zip(self.closed, self._moved, strict=True)
        ]
        self._moved = [None] * len(self._variables)
        return found
