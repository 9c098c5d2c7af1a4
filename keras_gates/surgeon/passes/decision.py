"""What was decided of one labelling: plain data."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Scope
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known


class Absorption(enum.Enum):
    """What becomes of the constant inputs that a layer loses."""

    BIAS = "bias"  # what they add goes into a bias, whatever they are
    MERGE = "merge"  # one of them stays, with the kernel slices of all
    APPROXIMATE = "approximate"  # a bias, which a zero border makes inexact
    NOTHING = "nothing"  # they are zeros, which add nothing


@dataclasses.dataclass(frozen=True, eq=False)
class AbsorbableInputs:
    """Which inputs a layer that mixes them can do without, and how.

    Attributes:
        values: the constant of each channel along the axis that a kernel
            reads, NaN where it has to be read; float, `(channels,)`.
        how: what becomes of the constants that go.
    """

    values: NDArray[np.float64]
    how: Absorption


class Read(NamedTuple):
    """Units that a step needs.

    Attributes:
        step: the `Step`.
        ids: the units; int, `(units,)`, some of them more than once.
    """

    step: Step
    ids: NDArray[np.intp]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A set of classes that may be enough to keep, and what is known.

    Attributes:
        labelling: the `Labelling`.
        values: tensor -> its known values, for those that have any.
        exact: whether only exact removals are made.
        closed: layer -> what is closed of it; bool, shaped like its factors,
            or like its `Rule.inner_units`, one role after the other.
        uncut: keys of the selections that are left out, since a gather would
            cost more than it saves.
        absorbable_by_layer: layer -> number of an input that a kernel of it
            reads -> what of it may go. See `absorbable`.
        kept: whether the units of each class are kept; bool, `(classes,)`.
    """

    labelling: Labelling
    values: Mapping[Tensor, Known]
    exact: bool
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]]
    uncut: frozenset[StepKey]
    absorbable_by_layer: IdentityDict[
        keras.Operation, dict[int, AbsorbableInputs]
    ]
    kept: NDArray[np.bool_]

    def mask(self, labels: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which coordinates of a label array are kept, shaped like it."""
        return self.kept[self.labelling.classes[labels]]

    def masks(self, labels: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
        """One mask for each axis; their product is what is kept."""
        masks = lb.axis_masks(self.mask(labels))
        if masks is None:
            raise RuntimeError(
                "keras_gates: the kept channels of a tensor form no box. "
                "Please report this model."
            )
        return masks

    def known(self, tensor: Tensor) -> NDArray[np.bool_]:
        """Which coordinates have a known value, shaped like the labels."""
        value = self.values.get(tensor)
        labels = self.labelling.labels[tensor]
        if value is None:
            return np.zeros(labels.shape, bool)
        return ~np.isnan(lb.stretched(value.values, labels.shape))

    def absorbable(self, step: Step, index: int) -> AbsorbableInputs | None:
        """What a step's layer can do without of an input; None: nothing."""
        of_layer = self.absorbable_by_layer.get(step.call.op)
        return None if of_layer is None else of_layer.get(index)

    def absorbed(self, step: Step) -> dict[int, NDArray[np.float64]]:
        """The constants that a layer loses, by input.

        Each is an array `(channels,)`, 0 for what stays.
        """
        found = {i: self._absorbed_from(step, i) for i in step.flow.reads}
        return {i: gone for i, gone in found.items() if gone is not None}

    def _absorbed_from(
        self, step: Step, index: int
    ) -> NDArray[np.float64] | None:
        absorbable = self.absorbable(step, index)
        ids = step.flow.read(index)
        if absorbable is None or ids is None:
            return None
        values = absorbable.values
        gone = np.where(self.mask(ids) | np.isnan(values), 0.0, values)
        return gone if gone.any() else None


@dataclasses.dataclass(frozen=True, eq=False)
class Decision(Candidate):
    """A `Candidate`, with what is there and read when its classes are kept.

    Attributes:
        present: the steps that are still there.
        called: the calls of nested models that are still made.
        dropped: key of a step -> the numbers of its inputs that are left out,
            since what is kept of them is constant; only for steps that have
            any.
        demand: tensor -> whether something that varies depends on each of its
            coordinates; bool, shaped like its labels.
        reads: for each step, the units that it needs of its inputs. With
            `recalls` and what is pinned, they are all that is kept.
        recalls: units inside it that a step needs, as a recurrent layer its
            state, and attention its heads.
    """

    present: frozenset[Step]
    called: frozenset[Scope]
    dropped: Mapping[StepKey, tuple[int, ...]]
    demand: Mapping[Tensor, NDArray[np.bool_]]
    reads: tuple[Read, ...]
    recalls: tuple[Read, ...]

    def steps(self) -> Iterator[Step]:
        """The steps that are still there, in order."""
        return (s for s in self.labelling.steps if s in self.present)
