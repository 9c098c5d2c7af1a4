"""The number of channels of a gate that stay open under any thresholds."""

from __future__ import annotations

import math
import numbers
from typing import Any


def check_floor(floor: Any, argument: str) -> None:
    """Refuse anything but a number of channels or a share of them.

    Raises:
        TypeError: `floor` is not a number, or a float that is not a share.
        ValueError: it is negative.
    """
    number = isinstance(floor, numbers.Real) and not isinstance(floor, bool)
    if not number or not (isinstance(floor, numbers.Integral) or floor < 1):
        raise TypeError(
            f"`{argument}` must be a whole number of channels, or a share "
            f"below 1 of a gate's own. Received: {floor!r} (of type "
            f"{type(floor).__name__})."
        )
    if floor < 0:
        raise ValueError(
            f"`{argument}` must be at least 0. Received: {floor!r}."
        )


def channels(floor: float, count: int) -> int:
    """The number of channels that a floor means for a gate of `count`."""
    if isinstance(floor, numbers.Integral):
        return min(int(floor), count)
    # 0.07 of 100 is 7, not the 8 that its rounding error would make it.
    return math.ceil(floor * count - 1e-9)
