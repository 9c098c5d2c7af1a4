"""The decision on a labelling, as plain data."""

from __future__ import annotations

import dataclasses
import enum
import functools
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
    STATISTICS = "statistics"  # what is left of the operation counts them


@dataclasses.dataclass(frozen=True, eq=False)
class Carried:
    """Coordinates that are combinations of others of the same tensor.

    That is `sum of factors * carriers + offset`, of one or two carriers,
    whatever the model's inputs are.

    Attributes:
        places: the carriers of each coordinate, by their flat places; int,
            `(2, ...)`, -1 where there is none.
        factors: what they are multiplied by; float64, `(2, ...)`.
        offset: what is added; float64, `(...)`.
    """

    places: NDArray[np.intp]
    factors: NDArray[np.float64]
    offset: NDArray[np.float64]

    def along(self, axis: int) -> Carried | None:
        """The same along one axis, by the positions along it, if that is all.

        None where the coordinates vary along others.
        """
        shape = self.offset.shape
        if shape[axis] != self.offset.size:
            return None
        return Carried(
            self.places.reshape(2, -1),
            self.factors.reshape(2, -1),
            self.offset.reshape(-1),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class AbsorbableInputs:
    """Which inputs a layer that mixes them can do without, and how.

    Attributes:
        values: the constant of each channel along the axis that a kernel
            reads, NaN where it has to be read; float, `(channels,)`.
        how: what becomes of the constants that go.
        carried: channels that may go since others stay, of which they are
            combinations; or None.
    """

    values: NDArray[np.float64]
    how: Absorption
    carried: Carried | None = None

    def needed(self) -> NDArray[np.bool_]:
        """Which channels have to be read, `(channels,)`."""
        needed: NDArray[np.bool_] = np.isnan(self.values)
        if self.carried is not None:
            needed &= self.carried.places[0] < 0
        return needed


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
        exact: whether to make only exact removals.
        closed: layer -> what is closed of it; bool, shaped like its factors,
            or like its `Rule.inner_units`, one role after the other.
        uncut: keys of the selections that are left out, since a gather would
            cost more than it saves; and of what would be written out to count
            what goes, for as much.
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

    def removed(self, step: Step, index: int) -> NDArray[np.float64] | None:
        """The constants that go of an input that a kernel reads.

        Returns:
            `(channels,)`, NaN for those that stay; None where nothing goes
            that is known.
        """
        absorbable, ids = self.absorbable(step, index), step.flow.read(index)
        if absorbable is None or ids is None or self.mask(ids).all():
            return None
        values = np.nan_to_num(absorbable.values)
        return np.where(self.mask(ids), np.nan, values)

    def written_out(self, step: Step) -> bool:
        """Whether a step becomes other operations, to count what goes."""
        absorbable = self.absorbable(step, 0)
        if absorbable is None or absorbable.how is not Absorption.STATISTICS:
            return False
        gone = self.removed(step, 0) is not None
        return gone and step.rule.writes_out(step.call)

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
        values, kept = absorbable.values, self.mask(ids)
        gone = np.where(kept | np.isnan(values), 0.0, values)
        carried = self.carried(step, index)
        if carried is not None:
            gone = gone + np.where(carried.places[0] < 0, 0.0, carried.offset)
        return gone if gone.any() else None

    def carried(self, step: Step, index: int) -> Carried | None:
        """What a layer loses that others stand for; see `Carried`.

        Returns:
            With -1 for all that stays, or that is a constant; None where
            there is nothing else.
        """
        absorbable, ids = self.absorbable(step, index), step.flow.read(index)
        if absorbable is None or absorbable.carried is None or ids is None:
            return None
        found = absorbable.carried
        lost = (found.places[0] >= 0) & np.isnan(absorbable.values)
        lost &= ~self.mask(ids)
        places = np.where(lost, found.places, -1)
        return dataclasses.replace(found, places=places) if lost.any() else None


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

    @functools.cached_property
    def carriers(self) -> NDArray[np.bool_]:
        """Marks the classes that carry what others are, which have gone."""
        classes = self.labelling.classes
        found = np.zeros(len(classes), bool)
        for step in self.steps():
            for index in step.flow.reads if step.flow.mixes else ():
                carried, ids = self.carried(step, index), step.flow.read(index)
                if carried is not None and ids is not None:
                    places = carried.places[carried.places >= 0]
                    found[classes[ids[places]]] = True
        return found

    def steps(self) -> Iterator[Step]:
        """The steps that are still there, in order."""
        return (s for s in self.labelling.steps if s in self.present)
