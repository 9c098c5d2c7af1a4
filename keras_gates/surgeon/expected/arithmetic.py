"""Truth values from 0 to 1, for NumPy arrays and tensors.

"And" is a product, "or" is `1 - (1 - a) * (1 - b)`. Where all numbers are 0 or
1, both are what they are for truth values. In all functions `xp` is `numpy` or
`keras.ops`, and the last axis is that of what is counted; there may be others
before it, for several cases at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


def constant(xp: Any, array: NDArray[Any]) -> Any:
    """An array as what `xp` computes with."""
    if xp is np:
        return array
    return keras.ops.convert_to_tensor(array, "float32")


def any_of(xp: Any, values: Any) -> Any:
    """How far any along the last axis holds."""
    return 1 - xp.prod(1 - values, axis=-1)


def either(values: Sequence[Any]) -> Any:
    """Arrays joined by "or"."""
    none = 1 - values[0]
    for value in values[1:]:
        none = none * (1 - value)
    return 1 - none


def picked(xp: Any, values: Any, places: NDArray[np.intp]) -> Any:
    """How far any of the values at some places holds.

    Args:
        xp: the namespace.
        values: `(..., size)`.
        places: int, `(count, most)`; `size` stands for nothing.

    Returns:
        `(..., count)`.
    """
    nothing = xp.zeros_like(values[..., :1])
    if not values.shape[-1]:  # of a tensor that is empty
        nothing = xp.sum(values, axis=-1, keepdims=True)
    padded = xp.concatenate([values, nothing], axis=-1)
    if places.shape[1] == 1:
        return xp.take(padded, places[:, 0], axis=-1)
    return any_of(xp, xp.take(padded, places, axis=-1))


def grouped(
    owners: NDArray[np.intp], members: NDArray[np.intp], count: int, none: int
) -> NDArray[np.intp]:
    """The members of each owner as the rows of an array.

    Args:
        owners: for each member, the number of its owner.
        members: numbers.
        count: how many owners there are.
        none: what stands for no member where a row is longer than that.
    """
    order = np.argsort(owners, kind="stable")
    owners, members = owners[order], members[order]
    sizes = np.bincount(owners, minlength=count)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    found = np.full((count, max(1, int(sizes.max(initial=0)))), none, np.intp)
    found[owners, np.arange(len(owners)) - starts[owners]] = members
    return found
