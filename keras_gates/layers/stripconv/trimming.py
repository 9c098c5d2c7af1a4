"""A kernel without its outer rows and columns of zeros."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

from keras import ops

if TYPE_CHECKING:
    from keras_gates.layers.stripconv.stripes import Box
    from keras_gates.layers.window import Window


@dataclasses.dataclass(frozen=True)
class Trim:
    """How the kernel in a box reads the same as the whole kernel.

    Attributes:
        box: the `Box` of the positions.
        padding: that of the convolution.
        pads: the zeros around its input on each axis, `(before, after)`, added
            beforehand; negative numbers are pixels to cut off.
    """

    box: Box
    padding: str
    pads: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))

    @property
    def kernel_size(self) -> tuple[int, int]:
        (top, bottom), (left, right) = self.box
        return bottom - top, right - left

    def padded(self, x: Any, channel_axis: int) -> Any:
        """The input, padded with these zeros or cropped."""
        widths = [(0, 0), *self.pads]
        widths.insert(channel_axis % 4, (0, 0))
        cut = tuple(
            slice(max(0, -before), min(0, after) or None)
            for before, after in widths
        )
        added = [(max(0, before), max(0, after)) for before, after in widths]
        x = x[cut] if min(map(min, widths)) < 0 else x
        return ops.pad(x, added) if max(map(max, added)) else x


def trim(window: Window, box: Box) -> Trim:
    """The `Trim` of a window to a box.

    The whole kernel if the padding depends on an unknown size.
    """
    rows, columns = window.kernel
    whole = (0, rows), (0, columns)
    if box == whole or None in window.pads:
        return Trim(whole, window.padding)
    pads = tuple(
        (before - start * step, after - (taps - stop) * step)
        for (before, after), (start, stop), taps, step in zip(
            window.known_pads, box, window.kernel, window.dilation, strict=True
        )
    )
    size = tuple(stop - start for start, stop in box)
    same = dataclasses.replace(window, kernel=size, padding="same")
    if window.padding == "same" and same.pads == pads:
        return Trim(box, "same")
    return Trim(box, "valid", pads)
