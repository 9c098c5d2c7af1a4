"""Sums of products, from which any least-squares fit can be made.

For rows x (with a 1 at their end, for the intercept) and targets y, the sums of
`x x^T`, `x y^T` and `y y^T` are all that a fit needs, and all that its error
on them needs. They are as large as the layer is wide, however many rows there
were.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_gates.surgeon.repair.forms import Array

# How many rows are multiplied at a time.
_BLOCK = 4096


@dataclasses.dataclass(eq=False)
class Moments:
    """The sums over some rows, for each group.

    Attributes:
        inputs: `x x^T`, `(groups, inputs + 1, inputs + 1)`.
        cross: `x y^T`, `(groups, inputs + 1, outputs)`.
        targets: `y^2`, `(groups, outputs)`.
        count: how many rows there were.
    """

    inputs: Array
    cross: Array
    targets: Array
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Moments:
        width = inputs + 1
        return cls(
            np.zeros((groups, width, width)),
            np.zeros((groups, width, outputs)),
            np.zeros((groups, outputs)),
        )

    def add(self, rows: Array, targets: Array) -> None:
        """Count in rows.

        Args:
            rows: `(groups, rows, inputs)`.
            targets: `(groups, rows, outputs)`.
        """
        for start in range(0, rows.shape[1], _BLOCK):
            x = rows[:, start : start + _BLOCK]
            y = targets[:, start : start + _BLOCK]
            x = np.concatenate([x, np.ones((*x.shape[:2], 1))], -1)
            turned = x.transpose(0, 2, 1)
            self.inputs += turned @ x
            self.cross += turned @ y
            self.targets += np.einsum("gno,gno->go", y, y)
            self.count += x.shape[1]

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.inputs + other.inputs,
            self.cross + other.cross,
            self.targets + other.targets,
            self.count + other.count,
        )

    def error(self, weights: Array) -> Array:
        """The sums of squared errors, `(groups, outputs)`.

        Args:
            weights: `(groups, inputs + 1, outputs)`, the intercepts last.
        """
        read = self.inputs @ weights
        crossed = np.einsum("gio,gio->go", weights, read - 2 * self.cross)
        return np.asarray(np.maximum(self.targets + crossed, 0.0))

    def variation(self) -> Array:
        """The sums of squares about the means, `(groups, outputs)`."""
        means = self.cross[:, -1] ** 2 / max(self.count, 1)
        return np.maximum(self.targets - means, 0.0)

    def solve(self, start: Array, ridge: float, centred: bool) -> Array:
        """The weights with the least error, plus a pull to where they start.

        Args:
            start: `(groups, inputs + 1, outputs)`.
            ridge: the pull, by the mean variance of the inputs.
            centred: whether there is an intercept to be chosen; it is not
                pulled. Otherwise those of `start` stay.
        """
        wanted = self.cross - self.inputs @ start
        inputs = self.inputs[:, :-1, :-1]
        means: Array = np.zeros_like(self.inputs[:, :-1, -1])
        if centred:
            means = self.inputs[:, :-1, -1] / float(max(self.count, 1))
            inputs = inputs - means[:, :, None] * self.inputs[:, -1:, :-1]
            cross = wanted[:, :-1] - means[:, :, None] * wanted[:, -1:]
        else:
            cross = wanted[:, :-1]
        step = _ridge(inputs, cross, ridge)
        found = start.copy()
        found[:, :-1] += step
        if centred:
            rest = wanted[:, -1] / max(self.count, 1)
            found[:, -1] += rest - np.einsum("gi,gio->go", means, step)
        return found


def _ridge(inputs: Array, cross: Array, ridge: float) -> Array:
    """`(inputs + ridge * mean variance * 1)^-1 cross`, group by group."""
    width = inputs.shape[-1]
    scale: Array = np.einsum("gii->g", inputs) / max(width, 1)
    # A group that never varies has no scale: any will do, since the cross
    # products are zeros, too.
    pull: Array = np.where(scale > 0, ridge * scale, 1.0)
    regular: Array = inputs + pull[:, None, None] * np.eye(width)
    return np.asarray(np.linalg.solve(regular, cross), "float64")
