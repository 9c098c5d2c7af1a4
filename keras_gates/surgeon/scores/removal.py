"""What a linear reader loses, and goes on with, without some of its inputs.

Of a reader with the kernel W and inputs of covariance H, removing the inputs S
costs `tr(W_S^T ([H^-1]_SS)^-1 W_S)` of squared error, if the kernel is fitted
again to what is left. What is left has the inverse

`H^-1 - H^-1_:S ([H^-1]_SS)^-1 H^-1_S:`,

so that units that go in turn are the block columns of a Cholesky decomposition
of `H^-1`, and who goes next is its pivot. Only these columns are made, and the
blocks of each unit that is left; `H^-1` itself stays as it was.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.surgeon.repair.forms import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A kernel that reads units, and what it needs to do without some.

    Attributes:
        inverse: `H^-1` of its inputs, `(inputs, inputs)`.
        weights: the kernel, `(inputs, outputs)`, by the deviation of each
            output and the share of the loss that depends on it.
        units: for each input, the class of the unit that it is.
    """

    inverse: Array
    weights: Array
    units: NDArray[np.intp]


@dataclasses.dataclass(eq=False)
class _Alike:
    """Units of as many inputs each: of a 3x3 convolution nine.

    Attributes:
        numbers: their places among all units, `(units,)`.
        at: the inputs that are each of them, `(units, inputs)`.
        blocks: `[H^-1]_SS` of each, without what has gone so far,
            `(units, inputs, inputs)`.
    """

    numbers: NDArray[np.intp]
    at: NDArray[np.intp]
    blocks: Array

    def only(self, stays: NDArray[np.bool_]) -> _Alike:
        return _Alike(self.numbers[stays], self.at[stays], self.blocks[stays])


class Removal:
    """A `Reading` while its inputs go.

    Args:
        reading: what there is before any of them goes.
        units: the classes of the units that may go, `(units,)`.
    """

    def __init__(self, reading: Reading, units: NDArray[np.intp]) -> None:
        self.inverse = reading.inverse
        # The inputs that are left.
        self.rows: NDArray[np.intp] = np.arange(len(reading.units))
        self.weights = reading.weights.copy()
        # Columns of the decomposition, one for each input that has gone.
        self.columns: Array = np.zeros((len(self.rows), 0))
        self.alike = list(_alike(reading, units))
        self.count = len(units)

    def costs(self) -> Array:
        """What is lost with each unit, one at a time; 0 for those gone."""
        found = np.zeros(self.count)
        for each in self.alike:
            own = self.weights[self._places(each.at)]
            squares = own @ own.transpose(0, 2, 1)
            inverse = np.linalg.inv(each.blocks)
            found[each.numbers] = np.einsum("uij,uij->u", inverse, squares)
        return found

    def remove(self, numbers: NDArray[np.intp]) -> None:
        """Do without some units, by their places among all."""
        goes = [np.isin(each.numbers, numbers) for each in self.alike]
        gone = [e.at[g].ravel() for e, g in zip(self.alike, goes, strict=True)]
        at = np.concatenate([np.zeros(0, int), *gone])
        if not len(at):
            return
        places = self._places(at)
        across = self.inverse[np.ix_(self.rows, at)]
        across -= self.columns @ self.columns[places].T
        root = np.linalg.cholesky(across[places])
        new = np.linalg.solve(root, across.T).T
        self.weights -= new @ np.linalg.solve(root, self.weights[places])
        stays = np.ones(len(self.rows), bool)
        stays[places] = False
        self.rows, self.weights = self.rows[stays], self.weights[stays]
        self.columns = np.hstack([self.columns, new])[stays]
        self.alike = [
            each.only(~g) for each, g in zip(self.alike, goes, strict=True)
        ]
        for each in self.alike:
            own = self.columns[self._places(each.at), -len(at) :]
            each.blocks -= own @ own.transpose(0, 2, 1)

    def _places(self, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where inputs are among those that are left."""
        return np.searchsorted(self.rows, at)


def _alike(reading: Reading, units: NDArray[np.intp]) -> list[_Alike]:
    order = np.argsort(reading.units, kind="stable")
    first = np.searchsorted(reading.units, units, "left", sorter=order)
    counts = np.searchsorted(reading.units, units, "right", sorter=order)
    counts -= first
    found = []
    for count in np.unique(counts[counts > 0]):
        numbers = np.flatnonzero(counts == count)
        at = order[first[numbers, None] + np.arange(count)]
        blocks = reading.inverse[at[:, :, None], at[:, None, :]]
        found.append(_Alike(numbers, at, blocks))
    return found
