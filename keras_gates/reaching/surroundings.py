"""The weights around each factor: how large they are, and whether they move.

The size of a factor alone does not say what its channel is worth, since the
kernels around it can make up for it. Nor does a factor that stays where it is:
a channel that is constant on the data, such as a pixel in the corner or a
neuron that is never positive, has no gradient. Optimizers that make all steps
equally long move the factors of the others, at random or since their kernels
compensate, and by size, the dead ones would be the last to close. But neither
do the kernels around a dead channel move, other than shorter, by decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.scores.weights import Kernel
from keras_gates.surgeon.scores.weights import Mean
from keras_gates.surgeon.scores.weights import kernels
from keras_gates.surgeon.solving.round_to import vectors
from keras_gates.thresholds.rule import VECTORS

if TYPE_CHECKING:
    from keras_gates.reaching.live_factors import LiveFactors
    from keras_gates.surgeon.passes.label import Labelling


class Surroundings:
    """The kernels around the factors of a model.

    Attributes:
        moving: for each factor, how far the kernels around it moved when it was
            open last, relative to the median of its gate; from 0 to 1. It falls
            by halves, since nothing may have moved for a few steps.
    """

    def __init__(self, model: keras.Model, live: LiveFactors) -> None:
        self._model, self._live = model, live
        self.moving = np.ones(live.count)
        none = live.by_name(np.zeros(live.count, bool))
        kinds = zip(live.names, live.kinds, strict=True)
        self._vectors = {n: none[n] for n, kind in kinds if kind in VECTORS}
        self._before: list[Kernel] = []

    def importance(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The importance of each factor, besides its own size.

        The square root of the norm of the kernel slices that produce and read
        its channel, divided by the mean of the gate, times `moving`; 1 for
        factors without a channel. The norm itself would outweigh the trained
        factors.

        Args:
            sizes: the sizes of the factors; 0 for closed ones.
        """
        labelling, now = self.watch(sizes)
        norms = _means(labelling, now, [_norms(kernel) for kernel in now])
        found = self._by_factor(labelling, norms)
        for own in self._gates():
            mean = found[own].mean()
            usable = np.isfinite(found[own]).all() and mean > 0
            found[own] = np.sqrt(found[own] / mean) if usable else 1.0
        return found * self.moving

    def watch(
        self, sizes: NDArray[np.float64]
    ) -> tuple[Labelling, list[Kernel]]:
        """See how far the kernels moved since the last time, and return them.

        Args:
            sizes: the sizes of the factors; 0 for closed ones. Around these,
                nothing moves, and around small ones less, with SGD.
        """
        labelling = label(expand.read(self._model))
        now = list(kernels(labelling))
        before, self._before = self._before, _copies(now)
        shapes = [[kernel.array.shape for kernel in k] for k in (before, now)]
        if shapes[0] != shapes[1]:
            return labelling, now  # Nothing to compare with.
        moves = [_moved(*pair) for pair in zip(before, now, strict=True)]
        found = self._by_factor(labelling, _means(labelling, now, moves))
        for own in self._gates():
            own = own[sizes[own] > 0]
            usual = np.median(found[own]) if own.size else 0.0
            if np.isfinite(found[own]).all() and usual > 0:
                small = np.minimum(sizes[own] / np.median(sizes[own]), 1.0)
                share = np.minimum(found[own] / (usual * small), 1.0)
                self.moving[own] = np.maximum(share, self.moving[own] / 2)
        return labelling, now

    def _gates(self) -> list[NDArray[np.intp]]:
        """The factors of each gate."""
        parts = self._live.split(np.arange(self._live.count))
        return [part.ravel() for part in parts]

    def _by_factor(
        self, labelling: Labelling, of_classes: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """For each factor, the value of its channel's class; NaN without."""
        found = self._live.by_name(np.full(self._live.count, np.nan))
        for name, _, classes, places in vectors(labelling, self._vectors):
            found[name][places] = of_classes[classes]
        return self._live.flat(found.values())


def _means(
    labelling: Labelling,
    each: Sequence[Kernel],
    values: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """The mean over kernels, for each class of a labelling."""
    total = Mean(labelling)
    for kernel, own in zip(each, values, strict=True):
        total.add(kernel.units, own)
    return total.mean()


def _copies(each: Sequence[Kernel]) -> list[Kernel]:
    """The same with arrays that training does not change, as torch's would."""
    arrays = {id(kernel.array): kernel.array for kernel in each}
    copies = {key: array.copy() for key, array in arrays.items()}
    return [kernel._replace(array=copies[id(kernel.array)]) for kernel in each]


def _slices(kernel: Kernel) -> NDArray[np.float32]:
    """A row for each unit; float, `(units, weights)`."""
    rows = np.moveaxis(kernel.array, kernel.axis, 0)
    return rows.reshape(len(rows), -1).astype("float32", copy=False)


def _norms(kernel: Kernel) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(_slices(kernel), axis=1)
    return norms.astype("float64")


def _moved(before: Kernel, now: Kernel) -> NDArray[np.float64]:
    """How far each slice moved but along itself, relative to its size."""
    old, new = _slices(before), _slices(now)
    squares = np.einsum("ij,ij->i", old, old)
    along = np.einsum("ij,ij->i", old, new) / np.where(squares > 0, squares, 1)
    aside = np.linalg.norm(new - along[:, None] * old, axis=1)
    sizes = np.linalg.norm(new, axis=1)
    moved: NDArray[np.float64] = aside / np.where(sizes > 0, sizes, 1)
    return moved.astype("float64")
