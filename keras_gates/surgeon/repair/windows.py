"""Which inputs a convolution reads at a place of its output."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray


class Places(NamedTuple):
    """Some places of an output, over all samples of a batch.

    Attributes:
        sample: the number of the sample of each; int, `(places,)`.
        at: its coordinates along each axis of the output between samples and
            channels; int, `(axes, places)`.
    """

    sample: NDArray[np.intp]
    at: NDArray[np.intp]

    @classmethod
    def drawn(
        cls,
        samples: int,
        sizes: tuple[int, ...],
        most: int,
        rng: np.random.Generator,
    ) -> Places:
        """Places without repetition, all of them if there are few."""
        total = samples * int(np.prod(sizes, dtype=np.int64))
        flat = np.arange(total)
        if total > most:
            flat = np.sort(rng.choice(total, most, replace=False))
        sample, *at = np.unravel_index(flat, (samples, *sizes))
        shape = (len(sizes), len(sample))
        return cls(sample, np.array(at, np.intp).reshape(shape))

    def where(self, mask: NDArray[np.bool_]) -> Places:
        """Some of these places."""
        return Places(self.sample[mask], self.at[:, mask])

    def blocks(self, size: int) -> Iterator[Places]:
        """The same places, so many at a time."""
        for start in range(0, len(self.sample), size):
            some = slice(start, start + size)
            yield Places(self.sample[some], self.at[:, some])


@dataclasses.dataclass(frozen=True)
class Window:
    """The window of a convolution, by axis of space.

    Attributes:
        size: how many taps it has.
        strides: the steps between its places.
        dilation: the steps between its taps.
        padding: "valid", "same" or "causal".
        transposed: whether it spreads its inputs instead of reading them.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str
    transposed: bool = False

    @classmethod
    def of_layer(cls, op: keras.Layer, transposed: bool = False) -> Window:
        """That of a convolution of Keras."""
        rank = len(op.kernel_size)

        def each(value: int | tuple[int, ...]) -> tuple[int, ...]:
            return (value,) * rank if isinstance(value, int) else tuple(value)

        return cls(
            tuple(op.kernel_size),
            each(op.strides),
            each(op.dilation_rate),
            op.padding,
            transposed,
        )

    def outputs(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the output for an input; not for a transposed one."""
        found = []
        for axis, length in enumerate(lengths):
            span = (self.size[axis] - 1) * self.dilation[axis]
            whole = length - span if self.padding == "valid" else length
            found.append(-(-whole // self.strides[axis]))
        return tuple(found)

    def taps(
        self, x: NDArray[np.float64], places: Places, sizes: tuple[int, ...]
    ) -> Iterator[NDArray[np.float64]]:
        """What each tap reads at each place, 0 beyond the border.

        Args:
            x: the input, `(samples, ..., channels)`.
            places: places of the output.
            sizes: those of the output, without samples and channels.

        Yields:
            `(places, channels)`, in the order of the taps in a kernel.
        """
        lengths = x.shape[1:-1]
        axes = range(len(self.size))
        before = [self._before(axis, lengths, sizes) for axis in axes]
        for tap in itertools.product(*map(range, self.size)):
            inside = np.ones(len(places.sample), bool)
            index = []
            for axis in axes:
                reach = tap[axis] * self.dilation[axis]
                if self.transposed:
                    steps = places.at[axis] + before[axis] - reach
                    at, rest = np.divmod(steps, self.strides[axis])
                    inside &= rest == 0
                else:
                    first = places.at[axis] * self.strides[axis] - before[axis]
                    at = first + reach
                inside &= (at >= 0) & (at < lengths[axis])
                index.append(np.clip(at, 0, lengths[axis] - 1))
            read = x[(places.sample, *index)]
            yield np.where(inside[:, None], read, 0.0)

    def _before(
        self, axis: int, lengths: tuple[int, ...], sizes: tuple[int, ...]
    ) -> int:
        """How many zeros come before the first input along an axis."""
        span = (self.size[axis] - 1) * self.dilation[axis] + 1
        if self.padding == "causal":
            return span - 1
        if self.padding == "valid":
            return 0
        whole, small = lengths[axis], sizes[axis]
        if self.transposed:
            whole, small = small, whole
        return max((small - 1) * self.strides[axis] + span - whole, 0) // 2
