"""The positions that the taps of a convolution's kernel read."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

# `(before, after)`; None where it is unknown.
Pad: TypeAlias = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Window:
    """The kernel of a convolution on an input; one entry per axis.

    Attributes:
        kernel: numbers of taps.
        strides: pixels from one output to the next.
        dilation: pixels from one tap to the next.
        padding: "valid" or "same".
        sizes: pixels of the input; None where they are unknown.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    sizes: tuple[int | None, ...]

    @property
    def keeps_size(self) -> bool:
        """Whether there is an output for each pixel of the input."""
        whole = self.padding == "same" or max(self.kernel) == 1
        return whole and max(self.strides) == 1

    @property
    def pads(self) -> tuple[Pad, ...]:
        """`(before, after)`: the zeros around the input; None if unknown.

        With strides, "same" depends on the size: with 3 taps and strides of 2,
        an even input is padded at its end, an odd one on both sides.
        """
        axes = zip(
            self.kernel, self.strides, self.dilation, self.sizes, strict=True
        )
        return tuple(self._pad(*axis) for axis in axes)

    @property
    def known_pads(self) -> tuple[tuple[int, int], ...]:
        """`pads` if all of them are known, otherwise an error."""
        known = tuple(pad for pad in self.pads if pad is not None)
        if len(known) < len(self.pads):
            raise ValueError(
                f"The padding of a window on {self.sizes} pixels is unknown."
            )
        return known

    @property
    def taps(self) -> tuple[int | None, ...]:
        """The taps that read the pixel `output * stride`; None if unknown."""
        pads = zip(self.pads, self.dilation, strict=True)
        return tuple(
            None if pad is None else pad[0] // step for pad, step in pads
        )

    @property
    def has_taps(self) -> bool:
        """Whether the taps of a "same" kernel fall on those pixels.

        An even number of dilated taps skips them on both sides.
        """
        axes = zip(self.kernel, self.dilation, strict=True)
        return all((k - 1) * step // 2 % step == 0 for k, step in axes)

    def _pad(self, taps: int, stride: int, step: int, size: int | None) -> Pad:
        if self.padding == "valid" or taps == 1:
            return (0, 0)
        reach = (taps - 1) * step
        if stride == 1:
            total = reach
        elif size is None:
            return None
        else:
            last = (size - 1) // stride * stride
            total = max(last + reach + 1 - size, 0)
        return (total // 2, total - total // 2)
