"""Known values: coordinates that do not depend on the model's inputs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """Known values of a tensor's coordinates, NaN where unknown.

    With `border`, the value holds inside and the rim is zero (a constant after
    zero padding). A `guess` varies, but `exact=False` treats it as constant.

    Attributes:
        values: float64, of the shape of the tensor's labels.
        border: whether the rim is zero.
        guess: whether `exact=False` treats it as constant.
    """

    values: NDArray[np.float64]
    border: bool = False
    guess: bool = False

    @functools.cached_property
    def complete(self) -> bool:
        """Whether all of the values are known."""
        return not np.isnan(self.values).any()

    def plain(self) -> NDArray[np.float64]:
        """The values that hold at every position."""
        if not self.border:
            return self.values
        return np.where(self.values == 0, 0.0, np.nan)


class Signals(NamedTuple):
    """Channels that are combinations of two unknown signals.

    A normalization turns constants into
    `gamma * (c / sigma - mu / sigma) + beta`.

    Attributes:
        parts: a number for each channel: those of one have their two signals
            in common; int, `(channels,)`.
        shares: of each signal, how much there is in each channel; float64,
            `(2, channels)`, NaN for channels that are no such combination.
        offset: what is added; float64, `(channels,)`.
    """

    parts: NDArray[np.intp]
    shares: NDArray[np.float64]
    offset: NDArray[np.float64]


def known(
    values: NDArray[np.float64] | None, border: bool = False
) -> Known | None:
    """A `Known`, or None if nothing is known."""
    if values is None:
        return None
    values = np.where(np.isfinite(values), values, np.nan)
    return None if np.isnan(values).all() else Known(values, border)


def as_float64(tensor: Any) -> NDArray[np.float64]:
    """A variable or tensor as a NumPy array."""
    array: NDArray[Any] = keras.ops.convert_to_numpy(tensor)
    return array.astype("float64")


def channel_values(
    values: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """The known values along `axis`, 1-D; NaN where positions differ."""
    flat = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    same = (flat == flat[:1]).all(axis=0)
    return np.where(same, flat[0], np.nan)
