"""Ranks of factors: sizes that are comparable between gates.

Ranking by size alone closes whole gates: training moves the factors of a gate
up or down together, which says little, since the kernels around them can
compensate. And the fewer factors of a gate remain, the more it costs to lose
another one. So the square of each is divided by the sum of the squares of the
larger ones of its gate, and multiplied by their number: `n * s^2 / (larger ones
+ s^2 / 10)`. This is 1 or less for the smallest ones, about `n / m` if m are
left, and `10 n` for the last one, so that no gate is closed completely while
others have many open. Lee et al. use a similar rule for the weights of layers
(2021, https://arxiv.org/abs/2010.07611).

A gate with a single factor, as on a branch, closes everything in the branch.
Its rank is the mean rank of the open factors in it, times the square of its own
size relative to others of its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.reaching.live_factors import LiveFactors


# The share of its own square in the divisor.
_OWN = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks the factors of a model.

    Attributes:
        families: for each factor, the number of its gate; gates with a single
            factor have one index per kind.
        inside: for each gate with a single factor, the factors without an
            effect while it is closed.
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
            sizes: their sizes; for closed ones, the size that they would have.
            closed: which of them are closed.
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
    """Each divided by the sum of the larger ones, times their number."""
    order = np.argsort(squares, kind="stable")
    upwards = squares[order]
    sums = np.cumsum(upwards[::-1])[::-1] - (1 - _OWN) * upwards
    found = np.zeros(squares.size)
    found[order] = squares.size * upwards / np.where(sums > 0, sums, 1.0)
    return found
