"""How many channels of a gate stay open, whatever thresholds say."""

import math
import numbers


def check_floor(floor, argument):
    """Refuse what is neither a number of channels nor a share of them.

    Raises:
        TypeError: `floor` is no number.
        ValueError: it is negative, or a float that is no share below 1.
    """
    if isinstance(floor, bool) or not isinstance(floor, numbers.Real):
        raise TypeError(
            f"`{argument}` must be a whole number of channels, or a share "
            f"below 1. Received: {floor!r} (of type {type(floor).__name__})."
        )
    whole = isinstance(floor, numbers.Integral)
    if not floor >= 0 or not (whole or floor < 1):
        raise ValueError(
            f"`{argument}` must be at least 0: an int for a number of "
            "channels, a float below 1 for a share of those of each gate. "
            f"Received: {floor!r}."
        )


def channels(floor, count):
    """The number of channels that a floor means for a gate of `count`."""
    if isinstance(floor, numbers.Integral):
        return min(int(floor), count)
    return math.ceil(floor * count)
