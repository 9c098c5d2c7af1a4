"""Convolution with stripes: one product, then shifted sums.

All stripes together are a 1x1 convolution. Its output for a stripe is added to
the stripe's filter, shifted by the stripe's position in the kernel. Positions
whose shifts have the same remainder modulo the strides read the same pixels;
each such phase is cut out before the product, so that only pixels that an
output reads are multiplied.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.layers.stripconv.stripes import Stripes
    from keras_gates.layers.window import Window


@dataclasses.dataclass(frozen=True, eq=False)
class Tap:
    """One position of the kernel.

    Attributes:
        shift: its offset in pixels of the phase, on each axis.
        filters: the filters with a stripe there.
        start: the index of its first stripe within the phase.
    """

    shift: tuple[int, ...]
    filters: NDArray[np.intp]
    start: int

    def columns(self, filters: int, none: int) -> NDArray[np.int32]:
        """The stripe of each filter; `none` if it has none."""
        columns = np.full(filters, none, np.int32)
        columns[self.filters] = self.start + np.arange(len(self.filters))
        return columns


@dataclasses.dataclass(frozen=True, eq=False)
class Phase:
    """The positions that read the same pixels.

    Attributes:
        first: the first of these pixels, on each axis.
        rows: the indices of its stripes.
        taps: its `Tap`s.
    """

    first: tuple[int, ...]
    rows: list[int]
    taps: list[Tap]


def phases(stripes: Stripes, window: Window) -> list[Phase]:
    """The `Phase`s of a layer; `window.pads` must be known."""
    found: dict[tuple[int, ...], Phase] = {}
    before = np.array([pad[0] for pad in window.known_pads])
    for at in np.argwhere(stripes.kept.any(axis=2)):
        rows = stripes.numbers[tuple(at)]
        filters = np.flatnonzero(rows < stripes.count)
        pixel = at * window.dilation - before
        shift, rest = np.divmod(pixel, window.strides)
        first = tuple(rest.tolist())
        phase = found.setdefault(first, Phase(first, [], []))
        tap = Tap(tuple(shift.tolist()), filters, len(phase.rows))
        phase.taps.append(tap)
        phase.rows.extend(rows[filters].tolist())
    return list(found.values())


def can_convolve(stripes: Stripes, window: Window) -> bool:
    """Whether the shifts are known, and each phase has pixels to read."""
    if max(window.strides) == 1:
        return True
    return None not in window.sizes and all(
        size is not None and first < size
        for phase in phases(stripes, window)
        for first, size in zip(phase.first, window.sizes, strict=True)
    )


def convolve(
    x: Any, weights: Any, stripes: Stripes, window: Window, channels_first: bool
) -> Any:
    """The convolution of `x` with stripes, without a bias.

    Args:
        x: the input, of rank 4.
        weights: the stripes, `(count, input channels)`.
        stripes: their `Stripes`.
        window: the `Window` on the input, for which `can_convolve` holds.
        channels_first: whether the channels come first.
    """
    filters = stripes.kept.shape[2]
    summed = _Sum(window, filters, channels_first)
    if keras.backend.backend() == "torch":
        summed = _SumInPlace(window, filters, channels_first)
    for phase in phases(stripes, window):
        pixels = summed.pixels(x, phase)
        own = weights
        if len(phase.rows) < stripes.count:
            own = ops.take(weights, np.array(phase.rows), axis=0)
        kernel = ops.transpose(own)[None, None]
        product = ops.conv(
            pixels,
            kernel,
            padding="valid",
            data_format="channels_first" if channels_first else "channels_last",
        )
        summed.add(product, phase)
    return summed.total


class _Sum:
    """Adds shifted products in a form that XLA fuses into one loop."""

    def __init__(
        self, window: Window, filters: int, channels_first: bool
    ) -> None:
        self.window = window
        self.filters = filters
        self.channels = 1 if channels_first else 3
        self.spatial = (2, 3) if channels_first else (1, 2)
        self.total: Any = None

    def pixels(self, x: Any, phase: Phase) -> Any:
        """The pixels that a phase reads."""
        if max(self.window.strides) == 1:
            return x
        cut = [slice(None)] * 4
        for axis, first, step in zip(
            self.spatial, phase.first, self.window.strides, strict=True
        ):
            cut[axis] = slice(first, None, step)
        return x[tuple(cut)]

    def add(self, product: Any, phase: Phase) -> None:
        """Add the product of a phase to each filter."""
        extra = [self._extra(axis, phase) for axis in (0, 1)]
        pads = [self._pad(axis, phase, extra[axis]) for axis in (0, 1)]
        widths = [(0, 0)] * 4
        for axis, pad in zip(self.spatial, pads, strict=True):
            widths[axis] = pad
        # The column that filters read if they have no stripe at a position.
        widths[self.channels] = (0, 1)
        product = ops.pad(product, widths)
        for tap in phase.taps:
            cut = [slice(None)] * 4
            for axis in (0, 1):
                start = pads[axis][0] + tap.shift[axis]
                rest = pads[axis][1] - tap.shift[axis] - extra[axis]
                cut[self.spatial[axis]] = slice(start, -rest or None)
            columns = tap.columns(self.filters, len(phase.rows))
            part = ops.take(product[tuple(cut)], columns, axis=self.channels)
            self.total = part if self.total is None else self.total + part

    def _extra(self, axis: int, phase: Phase) -> int:
        """How many more outputs there are than pixels of the phase."""
        window = self.window
        reach = (window.kernel[axis] - 1) * window.dilation[axis]
        more = sum(window.known_pads[axis]) - reach
        step, size = window.strides[axis], window.sizes[axis]
        if step == 1 or size is None:
            return more
        pixels = -(-(size - phase.first[axis]) // step)
        return (size + more - 1) // step + 1 - pixels

    def _pad(self, axis: int, phase: Phase, extra: int) -> tuple[int, int]:
        """Zeros before a phase's pixels, and after them."""
        shifts = [tap.shift[axis] for tap in phase.taps]
        return max(0, -min(shifts)), max(0, extra + max(shifts))


class _SumInPlace(_Sum):
    """Adds each product in place, which is fastest without XLA."""

    def add(self, product: Any, phase: Phase) -> None:
        if self.total is None:
            shape = list(product.shape)
            shape[self.channels] = self.filters
            for axis in (0, 1):
                shape[self.spatial[axis]] += self._extra(axis, phase)
            self.total = product.new_zeros(shape)
        for tap in phase.taps:
            here, there = [slice(None)] * 4, [slice(None)] * 4
            for axis, shift in zip(self.spatial, tap.shift, strict=True):
                low = max(0, -shift)
                high = min(self.total.shape[axis], product.shape[axis] - shift)
                here[axis] = slice(low, max(low, high))
                there[axis] = slice(low + shift, max(low, high) + shift)
            stop = tap.start + len(tap.filters)
            there[self.channels] = slice(tap.start, stop)
            filters = ops.convert_to_tensor(tap.filters, "int32")
            self.total[tuple(here)].index_add_(
                self.channels, filters, product[tuple(there)]
            )
