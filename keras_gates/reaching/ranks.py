"""What factors are ranked by: sizes, made comparable between gates.

By size alone whole gates go: training moves the factors of one gate up or down
together, which says little, as the kernels around them can make up for it. And
the fewer are left of a gate, the more it costs to lose one more. So the square
of each is divided by the sum of the squares of the larger ones of its gate, and
multiplied by their number: `n * s^2 / (larger ones + s^2 / 10)`. That is 1 and
less for the smallest ones, about `n / m` where m are left, and `10 n` for the
last, so that no gate is closed wholly while others have many open. Lee et al.
do much the same for the weights of layers (2021,
https://arxiv.org/abs/2010.07611).

A gate with a single factor, as on a branch, closes all that is in it. It has
what its factors have in the mean, those that are open, times the square of its
own size beside others of its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.reaching.live_factors import LiveFactors


# How much of its own square each is divided by, beside the larger ones'.
_OWN = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks the factors of a model.

    Attributes:
        families: for each factor, the number of its gate; gates with a single
            factor have one number for each kind.
        inside: by the number of a gate with a single factor, the factors
            that do nothing where it is closed.
    """

    families: NDArray[np.intp]
    inside: Mapping[int, NDArray[np.intp]]

    @classmethod
    def of(
        cls, live: LiveFactors, inside: Mapping[int, NDArray[np.intp]]
    ) -> Ranks:
        """The ranks of these factors."""
        numbers: dict[str | int, int] = {}
        families = [
            numbers.setdefault(number if shape else kind, len(numbers))
            for number, (kind, shape) in enumerate(
                zip(live.kinds, live.shapes, strict=True)
            )
        ]
        return cls(np.array(families, np.intp)[live.owner], inside)

    def __call__(
        self, sizes: NDArray[np.float64], closed: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The rank of each factor, the smallest to close first.

        Args:
            sizes: how large they are, closed ones as large as they would be.
            closed: those that are closed.
        """
        found = np.zeros(sizes.size)
        squares = np.square(sizes)
        for family in np.unique(self.families):
            own = np.flatnonzero(self.families == family)
            found[own] = _beside_larger(squares[own])
        for factor, members in self.inside.items():
            family = self.families == self.families[factor]
            mean = squares[family].mean() or 1.0
            left = found[members][~closed[members]]
            share = left.mean() if left.size else 0.0
            found[factor] = squares[factor] / mean * share
        return found


def _beside_larger(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each by the sum of those that are larger, times their number."""
    order = np.argsort(squares, kind="stable")
    upwards = squares[order]
    sums = np.cumsum(upwards[::-1])[::-1] - (1 - _OWN) * upwards
    found = np.zeros(squares.size)
    found[order] = squares.size * upwards / np.where(sums > 0, sums, 1.0)
    return found
