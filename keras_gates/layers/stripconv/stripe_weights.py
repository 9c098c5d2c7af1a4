"""Converts between rows of stripes and the kernel that contains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from keras_gates.layers.stripconv.stripes import Box
    from keras_gates.layers.stripconv.stripes import Stripes


def dense_kernel(weights: Any, stripes: Stripes, box: Box | None = None) -> Any:
    """The dense kernel, zero where there is no stripe.

    Args:
        weights: the stripes, `(count, input channels)`.
        stripes: their `Stripes`.
        box: the part of the kernel to return, as `Stripes.box`.

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


def stripe_rows(kernel: Any, stripes: Stripes) -> Any:
    """The stored form of a dense kernel, a tensor or an array."""
    channels = kernel.shape[2]
    rows = ops.reshape(ops.transpose(kernel, (0, 1, 3, 2)), (-1, channels))
    return ops.take(rows, np.flatnonzero(stripes.kept), axis=0)


class AsKernel:
    """Applies regularizers and initializers of a kernel to its stripes.

    Args:
        stripes: the `Stripes`.
        channels: the number of input channels.
    """

    def __init__(self, stripes: Stripes, channels: int) -> None:
        self.stripes = stripes
        self.channels = channels

    def initializer(
        self, initializer: Callable[..., Any]
    ) -> Callable[..., Any]:
        """An initializer that scales as for the whole kernel."""
        rows, columns, filters = self.stripes.kept.shape

        def start(shape: tuple[int, ...], dtype: Any = None) -> Any:
            whole = (rows, columns, self.channels, filters)
            return stripe_rows(initializer(whole, dtype), self.stripes)

        return start

    def regularizer(
        self, regularizer: Callable[..., Any] | None
    ) -> Callable[..., Any] | None:
        if regularizer is None:
            return None
        return lambda weights: regularizer(dense_kernel(weights, self.stripes))

    def constraint(
        self, constraint: Callable[..., Any] | None
    ) -> Callable[..., Any] | None:
        if constraint is None:
            return None

        def constrained(weights: Any) -> Any:
            kernel = constraint(dense_kernel(weights, self.stripes))
            return stripe_rows(kernel, self.stripes)

        return constrained
