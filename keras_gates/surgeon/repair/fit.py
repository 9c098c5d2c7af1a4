"""One least-squares fit, and how it is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.repair.forms import Array
from keras_gates.surgeon.repair.moments import Moments

# From hardly any pull to the cut weights to as good as nothing but them, by
# the mean variance of the inputs. Which one is best the held-out samples say.
RIDGES = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# The one that is tried first.
_FIRST = 1e-2


class Errors(NamedTuple):
    """Relative errors of what was cut, and after the fit."""

    before: float
    after: float


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """The moments of one layer.

    Attributes:
        fitted: those of the samples that are fitted.
        held_out: those of the others.
    """

    fitted: Moments
    held_out: Moments

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Sums:
        parts = (Moments.empty(groups, inputs, outputs) for _ in range(2))
        return cls(*parts)

    def add(
        self, rows: Array, targets: Array, held_out: NDArray[np.bool_]
    ) -> None:
        """Count in rows.

        Args:
            rows: `(groups, rows, inputs)`.
            targets: `(groups, rows, outputs)`.
            held_out: which of the rows are; bool, `(rows,)`.
        """
        self.fitted.add(rows[:, ~held_out], targets[:, ~held_out])
        self.held_out.add(rows[:, held_out], targets[:, held_out])

    @property
    def count(self) -> int:
        return self.fitted.count + self.held_out.count

    def finite(self) -> bool:
        """Whether no row holds NaN or infinity."""
        parts = (self.fitted, self.held_out)
        return all(
            np.isfinite(array).all()
            for part in parts
            for array in (part.inputs, part.cross, part.targets)
        )

    def relative(self, weights: Array) -> float:
        """The error of weights on what is held out, by its variation."""
        return self._share(weights, self.held_out.variation())

    def rounding(self, weights: Array) -> float:
        """The error on what is held out, by the size of the targets.

        A float of a size is no nearer than its resolution allows, however
        little it varies.
        """
        return self._share(weights, self.held_out.targets)

    def _share(self, weights: Array, squares: Array) -> float:
        """The error on what is held out, by the root of a sum of squares."""
        whole = squares.sum()
        wrong = self.held_out.error(weights).sum()
        if whole <= 0:
            return 0.0 if wrong <= 0 else float("inf")
        return float(np.sqrt(wrong / whole))


class Fit(NamedTuple):
    """What came of it.

    Attributes:
        weights: `(groups, inputs + 1, outputs)`, the intercepts last.
        errors: on what is held out, of a fit to the rest.
        ridge: the pull that was chosen; None where there was nothing to
            choose, or the weights are those of the cut.
        better: whether the errors became less.
    """

    weights: Array
    errors: Errors
    ridge: float | None
    better: bool


def fit(sums: Sums, start: Array, centred: bool, kernels: bool) -> Fit:
    """The best weights by what is held out, then fitted to all rows.

    Args:
        sums: the moments.
        start: the weights as they are.
        centred: whether the intercepts are chosen as well.
        kernels: whether anything but them is.
    """
    before = sums.relative(start)
    whole = sums.fitted + sums.held_out
    if not kernels:
        found = _moved(sums.fitted, start)
        after = sums.relative(found)
        if not after < before:
            return Fit(start, Errors(before, before), None, False)
        return Fit(_moved(whole, start), Errors(before, after), None, True)

    def error(ridge: float) -> float:
        return sums.relative(sums.fitted.solve(start, ridge, centred))

    best, after = _downhill(error)
    if not after < before:
        return Fit(start, Errors(before, before), None, False)
    found = whole.solve(start, best, centred)
    return Fit(found, Errors(before, after), best, True)


def _downhill(error: Callable[[float], float]) -> tuple[float, float]:
    """The ridge with the least error, and this; a wide layer's takes long.

    With more of a pull the error falls and then rises, so that it is enough to
    look at the neighbors of the best one so far.
    """
    known: dict[float, float] = {}
    at = RIDGES.index(_FIRST)
    known[_FIRST] = error(_FIRST)
    for step in (-1, 1):
        while 0 <= at + step < len(RIDGES):
            ridge = RIDGES[at + step]
            if ridge not in known:
                known[ridge] = error(ridge)
            if not known[ridge] < known[RIDGES[at]]:
                break
            at += step
    return RIDGES[at], known[RIDGES[at]]


def _moved(moments: Moments, start: Array) -> Array:
    """The same kernel with the intercepts that fit best."""
    found = start.copy()
    count = max(moments.count, 1)
    means = moments.inputs[:, -1, :-1] / count
    wanted = moments.cross[:, -1] / count
    found[:, -1] = wanted - np.einsum("gi,gio->go", means, start[:, :-1])
    return found
