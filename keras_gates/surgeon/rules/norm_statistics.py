"""The statistics of a normalization after some channels are removed.

With `m` the mean of what is left of a group,

    mu = share * m + shift
    var = weight * mean((x - mu)^2) + pull * (mu - center)^2 + rest

A layer as it was has `mu = m` and `var = mean((x - m)^2) + epsilon`. Of n
channels k go, constants c of mean `c0`: with `r = (n - k) / n` the mean of
those that stay counts r times, and `mean((x - mu)^2)` is r times that of these,
and `k / n * ((mu - c0)^2 + mean((c - c0)^2))`. That is of the same form, so
channels may go again and again.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """The numbers above, `(groups,)` each.

    Attributes:
        share: how much the mean of what is left counts.
        shift: what is added to that.
        weight: how much its mean square counts.
        pull: how much the square counts that `mu` is off `center`.
        center: a mean of channels that have gone.
        rest: the epsilon, and the spread of channels that have gone.
        centers: whether `mu` is taken off x before it is divided.
    """

    share: Vector
    shift: Vector
    weight: Vector
    pull: Vector
    center: Vector
    rest: Vector
    centers: bool = True

    @property
    def groups(self) -> int:
        return len(self.rest)

    @property
    def has_mean(self) -> bool:
        """Whether any channel bears on `mu`."""
        return bool(self.share.any() or self.shift.any())

    def among(self, used: NDArray[np.bool_]) -> Statistics:
        """The same as some of several groups; the others have no channels."""
        names = [f.name for f in dataclasses.fields(self)][:-1]
        # Nothing is divided by zero there.
        every = {name: np.ones(len(used)) for name in names}
        for name, values in every.items():
            values[used] = getattr(self, name)
        return Statistics(**every, centers=self.centers)

    def without(
        self, removed: Vector, group_of: NDArray[np.intp]
    ) -> Statistics:
        """The same when some channels have gone.

        Args:
            removed: their constants, NaN for those that stay; `(channels,)`.
            group_of: the group of each channel, likewise.
        """
        gone = ~np.isnan(removed)

        def total(values: NDArray[np.generic]) -> Vector:
            return np.bincount(
                group_of, values.astype("float64"), self.groups
            ).astype("float64")

        size, count = total(np.ones(len(removed))), total(gone)
        size = np.maximum(size, 1)
        constants = np.where(gone, removed, 0.0)
        mean = total(constants) / np.maximum(count, 1)
        off = np.where(gone, constants - mean[group_of], 0.0)
        apart = self.weight * count / size
        pull = self.pull + apart
        center = _ratio(self.pull * self.center + apart * mean, pull)
        rest = self.rest + self.weight * total(off**2) / size
        rest = rest + self.pull * (self.center - center) ** 2
        rest = rest + apart * (mean - center) ** 2
        stays = 1 - count / size
        return Statistics(
            self.share * stays,
            self.shift + self.share * count / size * mean,
            self.weight * stays,
            pull,
            center,
            rest,
            self.centers,
        )


def of_layer(
    epsilon: float, groups: int = 1, centers: bool = True
) -> Statistics:
    """Those of a layer that has all of its channels."""
    one, zero = np.ones(groups), np.zeros(groups)
    return Statistics(
        one, zero, one, zero, zero, np.full(groups, epsilon), centers
    )


def from_polynomials(
    mean: tuple[Vector, Vector] | None,
    variance: tuple[Vector, Vector, Vector, Vector],
) -> Statistics | None:
    """The `Statistics` of a normalization that was written by hand.

    Args:
        mean: `(share, shift)` of what is taken off x; None for nothing.
        variance: the factors of `mean(x^2)`, `m^2`, `m` and 1 in what it
            divides by the root of.

    Returns:
        None where there are no such.
    """
    weight, squared, linear, constant = variance
    if not (weight > 0).all():
        return None
    centers = mean is not None
    share, shift = _own_mean(weight, squared, linear) if mean is None else mean
    # What is left when the mean square round `mu` is taken off.
    squared = squared - weight * (share**2 - 2 * share)
    linear = linear - weight * 2 * shift * (share - 1)
    rest = constant - weight * shift**2
    pull = _ratio(squared, share**2)
    small = 1e-9 * weight
    pull = np.where(np.abs(pull) <= small, 0.0, pull)
    lost = np.abs(linear) > small * (1 + np.abs(shift))
    if (pull < 0).any() or (lost & (pull == 0)).any():
        return None
    if (np.abs(squared) > small)[pull == 0].any():
        return None
    center = np.where(pull > 0, shift - _ratio(linear, 2 * pull * share), 0.0)
    rest = rest - pull * (shift - center) ** 2
    if not (rest >= 0).all():
        return None
    return Statistics(share, shift, weight, pull, center, rest, centers)


def _own_mean(
    weight: Vector, squared: Vector, linear: Vector
) -> tuple[Vector, Vector]:
    """What a variance is taken round, of x that is not centered itself."""
    inside = np.maximum(1 + squared / weight, 0.0)
    share = 1 - np.sqrt(inside)
    shift = _ratio(linear, 2 * weight * (share - 1))
    return share, shift


def _ratio(over: Vector, under: Vector) -> Vector:
    """A quotient, 0 where there is nothing to divide by."""
    there = under != 0
    return np.where(there, over / np.where(there, under, 1.0), 0.0)
