"""To what degree each class of units is kept, given partly open gates.

What `passes.decide` decides for closed gates, as numbers from 0 to 1, in one
pass forwards (what varies) and one backwards (what is demanded, who is there,
what is read). At the corners, where every gate is open or closed, they are the
passes' own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.expected import feedback
from keras_gates.surgeon.expected.arithmetic import any_of
from keras_gates.surgeon.expected.arithmetic import constant
from keras_gates.surgeon.expected.arithmetic import either
from keras_gates.surgeon.expected.arithmetic import grouped
from keras_gates.surgeon.expected.arithmetic import picked
from keras_gates.surgeon.expected.carrying import Carrying
from keras_gates.surgeon.expected.varying import Output
from keras_gates.surgeon.expected.varying import outputs_of
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes.decide import absorbable_by_layer
from keras_gates.surgeon.passes.decision import AbsorbableInputs
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.decision import Decision
from keras_gates.surgeon.passes.label import constants
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.passes.worth import poor
from keras_gates.surgeon.rules import modes
from keras_gates.surgeon.solving.trials import Trials

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known

# At a corner every number is 0 or 1, to rounding.
_HALF = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What a step reads of an input.

    Attributes:
        step: the step.
        tensor: the input.
        places: the coordinates of the input that are one thing read; int,
            `(things, most)`.
        classes: the class of each; int, `(things,)`.
        always: 1 where a constant is read, too; float, `(things,)`.
        index: the number of the input.
        merged: the things whose constants merge into one that stays, the
            largest first; int, empty where none do.
        factors: what the things are multiplied with, one by one: where that
            is zero, they are not read.
    """

    step: Step
    tensor: Tensor
    places: NDArray[np.intp]
    classes: NDArray[np.intp]
    always: NDArray[np.float64]
    merged: NDArray[np.intp]
    index: int
    factors: tuple[Reading, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What remains, from 0 to 1.

    Attributes:
        classes: how far each class is; `(..., classes)`.
        steps: how far each step is there; `(...)`.
        factors: how far each factor is open; `(..., factors)`.
    """

    classes: Any
    steps: dict[Step, Any]
    factors: Any


class Circuit:
    """The passes of one labelling, with numbers.

    Attributes:
        labelling: the `Labelling`.
        uncut: keys of the selections that are no gathers.
        names: the gates, in the order of their factors.
        shapes: those of their factors, by name.
        starts: the number of each gate's first factor, by name.
        count: how many factors there are.
        counting: the steps that count what goes of their input.
    """

    def __init__(
        self,
        graph: Graph,
        names: Sequence[str],
        uncut: frozenset[StepKey] = frozenset(),
        exact: bool = True,
    ) -> None:
        """Read a graph.

        Args:
            graph: the `Graph` of a model, as `expand.read` returns it.
            names: those of the gates that may close.
            uncut: keys of the selections that are no gathers.
            exact: as in `plan`.
        """
        self.uncut = uncut
        self.labelling = label(graph, uncut)
        sources = gates_of(graph)
        self.names = list(names)
        self.shapes = {name: sources[name].shape for name in self.names}
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        ends = np.cumsum(sizes).tolist()
        self.starts = dict(zip(self.names, [0, *ends[:-1]], strict=False))
        self.count = sum(sizes)
        every = {n: np.ones(s, bool) for n, s in self.shapes.items()}
        self._trials = Trials(graph)
        closed = self._trials.by_layer(every)
        self._exact = exact
        values = constants(self.labelling, closed, exact)
        first = {id(sources[n].layer): self.starts[n] for n in self.names}
        self._first = first
        steps = self.labelling.steps
        self._outputs: dict[Step, list[Output]] = {
            step: outputs_of(step, self.labelling, values, first, self.count)
            for step in steps
        }
        known = absorbable_by_layer(
            self.labelling, values, exact, uncut, closed
        )
        # What was closed when it was last asked which channels carry others.
        self._carrying = Carrying(self.labelling, known, closed)
        self.counting = self._carrying.counting
        self._readings = {
            step: _readings(
                step, self.labelling, values, known.get(step.call.op, {})
            )
            for step in steps
        }
        self._feedback = feedback.find(graph, self.labelling, first, self.count)
        self._pinned = _pinned(self.labelling)
        # What is read is told in the same order every time.
        self._read: NDArray[np.intp] | None = None
        self._merging: NDArray[np.intp] | None = None
        self._links = self._find_links()

    def start_of(self, op: keras.Operation) -> int | None:
        """The number of a layer's first factor, or None if it has none."""
        return self._first.get(id(op))

    def settle(self, closed: Mapping[str, NDArray[np.bool_]]) -> None:
        """Find which channels carry others when these factors are closed.

        Args:
            closed: name of a gate -> its closed factors.
        """
        if not self.counting:
            return
        shut = self._trials.by_layer(closed)
        values = constants(self.labelling, shut, self._exact)
        known = absorbable_by_layer(
            self.labelling, values, self._exact, self.uncut, shut
        )
        self._carrying = Carrying(self.labelling, known, shut)

    def kept(self, xp: Any, factors: Any) -> Kept:
        """What remains for partly open factors.

        Args:
            xp: `numpy` or `keras.ops`.
            factors: from 0 to 1, `(..., factors)`.
        """
        values = self._forwards(xp, factors)
        steps, read = self._backwards(xp, values, factors)
        classes = self._classes(xp, read, factors)
        classes = self._merged(xp, classes, steps, values)
        return Kept(self._sources(xp, classes), steps, factors)

    def poor(self, kept: Kept) -> set[StepKey]:
        """Keys of the gathers that cost more than they save, at a corner."""
        decision = Decision(
            labelling=self.labelling,
            values={},
            exact=True,
            closed=IdentityDict(),
            uncut=self.uncut,
            absorbable_by_layer=self._carrying.known,
            kept=kept.classes > _HALF,
            present=frozenset(s for s, x in kept.steps.items() if x > _HALF),
            called=frozenset(),
            dropped={},
            demand={},
            reads=(),
            recalls=(),
        )
        return poor(decision) - self.uncut

    def _forwards(self, xp: Any, factors: Any) -> dict[Tensor, Any]:
        labels = self.labelling.labels
        one = xp.ones_like(factors[..., :1])
        values = {
            tensor: one * constant(xp, np.ones(labels[tensor].size))
            for tensor in self.labelling.graph.inputs
        }
        for step in self.labelling.steps:
            for output in self._outputs[step]:
                values[output.tensor] = output.varies(xp, values, factors)
        return values

    def _backwards(
        self, xp: Any, values: dict[Tensor, Any], factors: Any
    ) -> tuple[dict[Step, Any], list[tuple[NDArray[np.intp], Any]]]:
        """How far each step is there, and `(classes, how far read)`."""
        wanted: dict[Tensor, list[Any]] = {}
        for tensor in self.labelling.graph.outputs:
            wanted.setdefault(tensor, []).append(values[tensor])
        steps: dict[Step, Any] = {}
        read: list[tuple[NDArray[np.intp], Any]] = []
        nobody = xp.zeros_like(factors[..., 0])
        of_its_own = self._carrying.own(xp, values)
        for step in reversed(self.labelling.steps):
            demand = {
                output.tensor: either(wanted[output.tensor])
                for output in self._outputs[step]
                if output.tensor in wanted
            }
            each = [any_of(xp, one) for one in demand.values()]
            live = either(each) if each else nobody
            steps[step] = live
            if not each:
                continue
            looped = self._feedback.get(step)
            fed = looped and looped.read(xp, demand, live, factors)
            self._hand_on(xp, step, demand, live, values, wanted, fed)
            for reading in self._readings[step]:
                own = live[..., None] * _there(xp, reading, values)
                stays = self._carrying.read(step, reading.index)
                if stays is not None and reading.tensor in of_its_own:
                    more = picked(
                        xp, of_its_own[reading.tensor], reading.places
                    )
                    own = own * (more + (1 - more) * constant(xp, stays))
                for factor in reading.factors:
                    own = own * _there(xp, factor, values)
                read.append((reading.classes, own))
            if looped is not None:
                read.append((looped.classes, fed))
                continue
            for recalled, numbers in self._recalled(step):
                own = constant(xp, np.ones(recalled.size))
                if numbers is not None:
                    own = xp.take(factors, numbers, axis=-1)
                read.append((recalled, live[..., None] * own))
        return steps, read

    def _hand_on(
        self,
        xp: Any,
        step: Step,
        demand: dict[Tensor, Any],
        live: Any,
        values: dict[Tensor, Any],
        wanted: dict[Tensor, list[Any]],
        fed: Any,
    ) -> None:
        """Pass the demand on the outputs of a step to its inputs."""
        if step.flow.mixes:
            states = {} if fed is None else self._feedback[step].states
            for tensor in step.inputs:
                own = live[..., None]
                if tensor in states:
                    own = picked(xp, fed, states[tensor])
                own = own * values[tensor]
                wanted.setdefault(tensor, []).append(own)
            return
        for output in self._outputs[step]:
            if output.tensor not in demand:
                continue
            for origin in output.origins:
                own = picked(xp, demand[output.tensor], origin.readers)
                own = own * values[origin.tensor]
                wanted.setdefault(origin.tensor, []).append(own)

    def _recalled(
        self, step: Step
    ) -> list[tuple[NDArray[np.intp], NDArray[np.intp] | None]]:
        """The classes inside a step that it reads itself.

        With the numbers of the factors that open them, where a gate inside
        the layer has some.
        """
        inner = step.rule.inner_units(step.call)
        if not inner:
            return []
        demanded = [np.ones(x.shape, bool) for x in step.flow.labels]
        ids = step.rule.recalls(step.call, step.flow, demanded, None)
        if ids is None:
            return []
        classes = self.labelling.classes
        start = self.start_of(step.call.op)
        if start is None:
            return [(classes[ids].ravel(), None)]
        gated = step.flow.roles[inner[0].role]
        numbers = np.flatnonzero(np.isin(gated, ids))
        rest = ids[~np.isin(ids, gated)]
        return [
            (classes[gated[numbers]].ravel(), numbers + start),
            (classes[rest].ravel(), None),
        ]

    def _classes(
        self,
        xp: Any,
        read: list[tuple[NDArray[np.intp], Any]],
        factors: Any,
    ) -> Any:
        """How far each class is read."""
        count = len(self.labelling.classes)
        pinned = xp.ones_like(factors[..., :1]) * constant(
            xp, np.ones(self._pinned.size)
        )
        every = xp.concatenate([pinned, *(own for _, own in read)], axis=-1)
        if self._read is None:
            owners = [self._pinned, *(each for each, _ in read)]
            self._read = _by_owner(np.concatenate(owners), count)
        return picked(xp, every, self._read)

    def _merged(
        self,
        xp: Any,
        classes: Any,
        steps: dict[Step, Any],
        values: dict[Tensor, Any],
    ) -> Any:
        """The same with the channels that constants merge into."""
        found = []
        for step in self.labelling.steps:
            for reading in self._readings[step]:
                if not reading.merged.size:
                    continue
                own = picked(xp, values[reading.tensor], reading.places)
                varies = xp.take(own, reading.merged, axis=-1)
                at = reading.classes[reading.merged]
                there = xp.take(classes, at, axis=-1)
                # One that is there anyway will do.
                lacking = 1 - any_of(xp, (1 - varies) * there)
                before = xp.cumprod(varies, axis=-1)
                ones = xp.ones_like(varies[..., :1])
                before = xp.concatenate([ones, before[..., :-1]], axis=-1)
                extra = (1 - varies) * before
                extra = extra * (lacking * steps[step])[..., None]
                found.append((at, extra))
        if not found:
            return classes
        every = xp.concatenate([classes, *(one for _, one in found)], axis=-1)
        if self._merging is None:
            count = len(self.labelling.classes)
            owners = [np.arange(count), *(at for at, _ in found)]
            self._merging = _by_owner(np.concatenate(owners), count)
        return picked(xp, every, self._merging)

    def _sources(self, xp: Any, kept: Any) -> Any:
        """The same with what the kept ones are picked from."""
        for places in self._links:
            kept = picked(xp, kept, places)
        return kept

    def _find_links(self) -> list[NDArray[np.intp]]:
        """By class, itself and those picked from it; last steps first."""
        classes, labels = self.labelling.classes, self.labelling.labels
        count, found = len(classes), []
        for step in reversed(self.labelling.steps):
            for index in step.flow.untied:
                above = classes[labels[step.inputs[index]]].ravel()
                for number, own in enumerate(step.flow.labels):
                    source = step.flow.sources[number][index]
                    if not isinstance(source, np.ndarray):
                        continue
                    source = lb.stretched(source, own.shape).ravel()
                    pairs = np.stack([above[source], classes[own].ravel()])
                    pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
                    own_ones = np.arange(count)
                    owners = np.concatenate([own_ones, pairs[0]])
                    members = np.concatenate([own_ones, pairs[1]])
                    if pairs.size:
                        links = grouped(owners, members, count, count)
                        found.append(links)
        return found


def _by_owner(owners: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The places of each owner, as rows."""
    return grouped(owners, np.arange(len(owners)), count, len(owners))


def _pinned(labelling: Labelling) -> NDArray[np.intp]:
    """The classes that stay whatever is closed."""
    ids = [np.array([lb.FIXED]), *(pin.ids for pin in labelling.pinned)]
    return np.unique(labelling.classes[np.concatenate(ids)])


def _there(xp: Any, reading: Reading, values: Mapping[Tensor, Any]) -> Any:
    """How far each read thing varies, or is a constant other than 0."""
    always = constant(xp, reading.always)
    own = picked(xp, values[reading.tensor], reading.places)
    return own + (1 - own) * always


def _readings(
    step: Step,
    labelling: Labelling,
    values: Mapping[Tensor, Known],
    absorbed: Mapping[int, AbsorbableInputs],
) -> list[Reading]:
    """What a step reads of its inputs; nothing, unless it mixes."""
    if not step.flow.mixes:
        return []
    multiplied = [
        _factor(step, index, labelling, values)
        for index in step.flow.multiplied
    ]
    return [
        *_as_factors(multiplied),
        *(
            _reading(step, index, labelling, values, absorbed.get(index))
            for index in range(len(step.inputs))
            if index not in (*step.flow.states, *step.flow.multiplied)
        ),
    ]


def _as_factors(multiplied: list[Reading]) -> list[Reading]:
    """Inputs that are multiplied with each other, each with the others."""
    return [
        dataclasses.replace(
            one, factors=tuple(x for x in multiplied if x is not one)
        )
        for one in multiplied
    ]


def _factor(
    step: Step, index: int, labelling: Labelling, values: Mapping[Tensor, Known]
) -> Reading:
    """What a product of tensors reads of an input, along what it sums over."""
    tensor = step.inputs[index]
    labels = labelling.labels[tensor]
    (axis,) = lb.varying(lb.collapse(labels))
    numbers = np.arange(labels.size).reshape(labels.shape)
    places = np.moveaxis(numbers, axis, -1).reshape(-1, labels.shape[axis]).T
    known = values.get(tensor)
    zero = np.zeros(labels.size, bool)
    if known is not None:
        zero = (lb.stretched(known.plain(), labels.shape) == 0).ravel()
    return Reading(
        step,
        tensor,
        places,
        labelling.classes[labels.ravel()[places[:, 0]]],
        (~zero[places].all(axis=1)).astype("float64"),
        np.zeros(0, np.intp),
        index,
    )


def _reading(
    step: Step,
    index: int,
    labelling: Labelling,
    values: Mapping[Tensor, Known],
    absorbed: AbsorbableInputs | None,
) -> Reading:
    """As `liveness` has it, for a step that mixes."""
    tensor, flow = step.inputs[index], step.flow
    labels = labelling.labels[tensor]
    value, ids = values.get(tensor), flow.read(index)
    places = np.arange(labels.size)[:, None]
    merged = np.zeros(0, np.intp)
    beside = index > 0 and index not in flow.reads
    some = value is not None or (absorbed and absorbed.carried is not None)
    if not beside and some and absorbed and ids is not None:
        axis = step.rule.axis_read(step.call, flow)
        places = np.moveaxis(places.reshape(labels.shape), axis, -1)
        places = places.reshape(-1, len(ids)).T
        always = np.isnan(absorbed.values)
        if absorbed.how is Absorption.MERGE:
            size = np.abs(np.where(always, 0.0, absorbed.values))
            order = np.argsort(-size, kind="stable")
            merged = order[size[order] > 0]
    else:
        ids = labels.ravel()
        always = np.ones(ids.shape, bool)
        reading = modes.Reading(step.rule.reading(step.call))
        some = not beside and reading.drops_zeros
        if some and value is not None:
            zero = lb.stretched(value.plain(), labels.shape) == 0
            always = ~zero.ravel()
    classes = labelling.classes[ids]
    return Reading(
        step, tensor, places, classes, always.astype("float64"), merged, index
    )
