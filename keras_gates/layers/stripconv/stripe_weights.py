"""Between stripes, stored as rows, and the kernel that they are part of."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops


def kernel_of(weights: Any, stripes: Any, box: Any = None) -> Any:
    """The dense kernel, zero where there is no stripe.

    Args:
        weights: the stripes, `(count, input channels)`.
        stripes: their `Stripes`.
        box: the part of the kernel that is wanted, as `Stripes.box`.

    Returns:
        A kernel `(rows, columns, input channels, filters)`.
    """
    numbers = stripes.numbers
    if box is not None:
        numbers = numbers[tuple(slice(*axis) for axis in box)]
    rows = ops.pad(weights, [(0, 1), (0, 0)])
    kernel = ops.take(rows, numbers.reshape(-1), axis=0)
    kernel = ops.reshape(kernel, (*numbers.shape, weights.shape[1]))
    return ops.transpose(kernel, (0, 1, 3, 2))


def stripes_of(kernel: Any, stripes: Any) -> Any:
    """The stored form of a dense kernel, a tensor or an array."""
    channels = kernel.shape[2]
    rows = ops.reshape(ops.transpose(kernel, (0, 1, 3, 2)), (-1, channels))
    return ops.take(rows, np.flatnonzero(stripes.kept), axis=0)


class AsKernel:
    """Lets what is said of a kernel hold for the stripes that it keeps.

    Args:
        stripes: the `Stripes`.
        channels: the number of input channels.
    """

    def __init__(self, stripes: Any, channels: Any) -> None:
        self.stripes = stripes
        self.channels = channels

    def initializer(self, initializer: Any) -> Any:
        """As the whole kernel would start: by its size, not by what is left."""
        rows, columns, filters = self.stripes.kept.shape

        def start(shape: Any, dtype: Any = None) -> Any:
            whole = (rows, columns, self.channels, filters)
            return stripes_of(initializer(whole, dtype), self.stripes)

        return start

    def regularizer(self, regularizer: Any) -> Any:
        if regularizer is None:
            return None
        return lambda weights: regularizer(kernel_of(weights, self.stripes))

    def constraint(self, constraint: Any) -> Any:
        if constraint is None:
            return None

        def constrained(weights: Any) -> Any:
            kernel = constraint(kernel_of(weights, self.stripes))
            return stripes_of(kernel, self.stripes)

        return constrained
