"""The remaining stripes of a kernel, and their positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# `(first, past the last)` of the rows, and of the columns, of a kernel.
Box: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
# For each row, for each column of a kernel: numbers of filters.
Lists: TypeAlias = Sequence[Sequence[Sequence[int]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Stripes:
    """The stripes of the filters of a convolution.

    A stripe is what one filter reads at one position of the kernel: a vector
    over the input channels. Stored, stripes are the rows of a matrix, by
    position and then by filter.

    Attributes:
        kept: boolean array `(rows, columns, filters)`.
    """

    kept: NDArray[np.bool_]

    @classmethod
    def from_lists(
        cls,
        lists: Lists,
        kernel_size: tuple[int, int],
        filters: int,
        owner: str,
    ) -> Stripes:
        """Stripes from lists, as a config holds them.

        Args:
            lists: for each row, for each column of the kernel, the numbers
                of the filters that have a stripe there, in ascending order.
            kernel_size: `(rows, columns)`.
            filters: the number of filters.
            owner: name of the layer, for the message.

        Raises:
            ValueError: the lists have another form, or are all empty.
        """
        try:
            kept = _mask(lists, kernel_size, filters)
        except (TypeError, ValueError, IndexError):
            kept = None
        if kept is None or not kept.any():
            rows, columns = kernel_size
            raise ValueError(
                f"StripConv '{owner}' cannot use these `stripes`. Received: "
                f"{_shortened(lists)}. Expected: {rows} lists of {columns} "
                f"lists of indices of filters, each below {filters} and in "
                "ascending order, with at least one stripe. Leave `stripes` "
                "out for a layer with all of its stripes."
            )
        return cls(kept)

    def lists(self) -> list[list[list[int]]]:
        """The stripes as lists that a JSON config can hold."""
        return [
            [np.flatnonzero(tap).tolist() for tap in row] for row in self.kept
        ]

    @property
    def count(self) -> int:
        """The number of stripes."""
        return int(np.count_nonzero(self.kept))

    @property
    def numbers(self) -> NDArray[np.int32]:
        """Like `kept`: the row of each stripe, `count` where there is none."""
        numbers = np.full(self.kept.shape, self.count, np.int32)
        numbers[self.kept] = np.arange(self.count)
        return numbers

    @property
    def box(self) -> Box:
        """The smallest `Box` that holds all stripes."""
        rows = np.flatnonzero(self.kept.any(axis=(1, 2)))
        columns = np.flatnonzero(self.kept.any(axis=(0, 2)))
        return _span(rows), _span(columns)


def _span(positions: NDArray[np.intp]) -> tuple[int, int]:
    return int(positions[0]), int(positions[-1]) + 1


def _mask(
    lists: Lists, kernel_size: tuple[int, int], filters: int
) -> NDArray[np.bool_] | None:
    """The lists as a mask, or None if they don't fit."""
    kept = np.zeros((*kernel_size, filters), bool)
    if [len(row) for row in lists] != [kernel_size[1]] * kernel_size[0]:
        return None
    for i, row in enumerate(lists):
        for j, tap in enumerate(row):
            numbers = np.asarray(tap, dtype="int64")
            if numbers.tolist() != list(tap) or (numbers < 0).any():
                return None
            if (np.diff(numbers) <= 0).any():
                return None
            kept[i, j, numbers] = True
    return kept


def _shortened(lists: Any, most: int = 200) -> str:
    text = repr(lists)
    return text if len(text) <= most else f"{text[:most]}..."
