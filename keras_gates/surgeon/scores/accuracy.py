"""Classification accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: Any, told: NDArray[Any]) -> float | None:
    """The share of samples whose class is told; None where none is.

    Args:
        labels: the numbers of classes, `(samples,)` or `(samples, 1)`; or
            one-hot, like `told`.
        told: what the model puts out, `(samples, classes)`.
    """
    y = np.asarray(labels)
    if told.ndim != 2 or told.shape[1] < 2:
        return None
    if y.shape == told.shape:
        y = y.argmax(-1)
    elif y.shape[1:] == (1,):
        y = y[:, 0]
    if y.shape != told.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        return None
    return float((told.argmax(-1) == y).mean())
