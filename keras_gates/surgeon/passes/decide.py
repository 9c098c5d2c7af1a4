"""Decides what stays: liveness backwards, to a fixed point.

Three facts are kept apart. A coordinate may be *known* (its value is a
constant), *demanded* (something that varies depends on it), and *kept* (it
is physically there). What is kept follows from what is read; each round
computes all of it again, from what was kept in the round before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes import carriers
from keras_gates.surgeon.passes.decision import AbsorbableInputs
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.decision import Candidate
from keras_gates.surgeon.passes.decision import Read
from keras_gates.surgeon.passes.label import picks
from keras_gates.surgeon.passes.liveness import backward
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import STATISTICS

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Carried
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known

    Closed = IdentityDict[keras.Operation, NDArray[np.bool_]]

# A constant that others merge into must not be tiny beside them.
_SMALL = 1e-3


class MergeTarget(NamedTuple):
    """The channel that constants merge into.

    Attributes:
        ids: its unit; int, `(1,)`.
        position: its place among the channels that the kernel reads.
    """

    ids: NDArray[np.intp]
    position: int


def decide(
    labelling: Labelling,
    values: dict[Tensor, Known],
    exact: bool = True,
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]] | None = None,
    uncut: frozenset[StepKey] = frozenset(),
) -> Decision:
    """Find the smallest set of channels that computes the same.

    Args:
        labelling: the `Labelling`.
        values: what `label.constants` found for it.
        exact: whether to make only exact removals.
        closed: as in `label.constants`.
        uncut: as in `Candidate`.

    Returns a `Decision` whose `kept` marks the classes that stay.
    """
    shut: Closed = IdentityDict() if closed is None else closed
    everything = Candidate(
        labelling=labelling,
        values=values,
        exact=exact,
        closed=shut,
        uncut=uncut,
        absorbable_by_layer=absorbable_by_layer(
            labelling, values, exact, uncut, shut
        ),
        kept=np.ones(len(labelling.classes), bool),
    )
    # No tensor may be left empty, and constants need one to merge into.
    forced: list[NDArray[np.intp]] = []
    while True:
        decision = _fixpoint(everything, forced)
        missing = _missing(decision)
        if not missing:
            return decision
        _check_progress(decision, missing)
        forced += [ids for _, ids in missing]


def absorbable_by_layer(
    labelling: Labelling,
    values: Mapping[Tensor, Known],
    exact: bool,
    uncut: frozenset[StepKey] = frozenset(),
    closed: Closed | None = None,
) -> IdentityDict[keras.Operation, dict[int, AbsorbableInputs]]:
    """For each layer that mixes inputs: which of them may go, and how.

    Args:
        labelling: the `Labelling`.
        values: what is known of each tensor.
        exact: whether to make only exact removals.
        uncut: as in `Candidate`.
        closed: as in `label.constants`.
    """
    readings = _readings(labelling, uncut)
    found: IdentityDict[keras.Operation, dict[int, AbsorbableInputs]]
    found = IdentityDict()
    for op, number, steps in readings:
        known = [values.get(step.inputs[number]) for step in steps]
        every = [value for value in known if value is not None]
        if len(every) == len(known) and _counts(steps[0]):
            inputs = _counted_inputs(steps, number, every, exact)
            found.setdefault(op, {})[number] = inputs
    shut: Closed = IdentityDict() if closed is None else closed
    carried = carriers.find(labelling, found, shut) if found else {}
    for op, number, steps in readings:
        tensors = [step.inputs[number] for step in steps]
        if _counts(steps[0]) or not all(
            tensor in values or tensor in carried for tensor in tensors
        ):
            continue
        known = [values.get(tensor) for tensor in tensors]
        inputs = _absorbable_inputs(steps, number, known, exact)
        if any(tensor in carried for tensor in tensors):
            through = [carried.get(tensor) for tensor in tensors]
            inputs = _with_carried(inputs, steps[0], through)
        found.setdefault(op, {})[number] = inputs
    return found


class _Reading(NamedTuple):
    """All steps in which a layer reads one of its inputs, and not as a whole.

    Attributes:
        op: the layer.
        number: that of the input.
        steps: one for each call.
    """

    op: keras.Operation
    number: int
    steps: list[Step]


def _readings(
    labelling: Labelling, uncut: frozenset[StepKey]
) -> list[_Reading]:
    steps_of: IdentityDict[keras.Operation, dict[int, list[Step]]]
    steps_of = IdentityDict()
    for step in labelling.steps:
        for index in step.flow.reads if step.flow.mixes else ():
            if step.flow.read(index) is not None:
                by_index = steps_of.setdefault(step.call.op, {})
                by_index.setdefault(index, []).append(step)
    return [
        _Reading(op, index, steps)
        for op, by_index in steps_of.items()
        for index, steps in by_index.items()
        if steps[0].rule.reading(steps[0].call) != ALL
        and not any(step.key in uncut for step in steps)
    ]


def _counts(step: Step) -> bool:
    """Whether a step counts the constants that go of what it reads."""
    return step.rule.reading(step.call) == STATISTICS


def _agreed(
    step: Step, index: int, arrays: Sequence[NDArray[np.float64] | None]
) -> NDArray[np.float64]:
    """What all calls of a layer read alike, NaN elsewhere; `(channels,)`."""
    ids = step.flow.read(index)
    axis = step.rule.axis_read(step.call, step.flow)
    unknown = np.full(0 if ids is None else len(ids), np.nan)
    each = np.stack(
        [
            unknown if array is None else channel_values(array, axis)
            for array in arrays
        ]
    )
    return np.where((each == each[0]).all(axis=0), each[0], np.nan)


def _counted_inputs(
    steps: list[Step], index: int, known: list[Known], exact: bool
) -> AbsorbableInputs:
    """What the calls of a normalization can do without."""
    rule, call = steps[0].rule, steps[0].call
    agreed = _agreed(steps[0], index, [value.plain() for value in known])
    loose = not exact and rule.approximates(call) and rule.writes_out(call)
    how = Absorption.APPROXIMATE if loose else Absorption.STATISTICS
    return AbsorbableInputs(agreed, how)


def _absorbable_inputs(
    steps: list[Step], index: int, known: list[Known | None], exact: bool
) -> AbsorbableInputs:
    """What the calls of one layer can do without, given what each reads."""
    rule, call = steps[0].rule, steps[0].call
    # A layer has one kernel, so all of its calls must read the same constant.
    arrays = [None if value is None else value.values for value in known]
    agreed = _agreed(steps[0], index, arrays)
    border = any(value is not None and value.border for value in known)
    if not border and all(s.rule.reading(s.call) == BIAS for s in steps):
        return AbsorbableInputs(agreed, Absorption.BIAS)
    if not exact and rule.approximates(call):
        return AbsorbableInputs(agreed, Absorption.APPROXIMATE)
    if rule.merges(call):
        return AbsorbableInputs(agreed, Absorption.MERGE)
    zeros = np.where(agreed == 0, 0.0, np.nan)
    return AbsorbableInputs(zeros, Absorption.NOTHING)


def _with_carried(
    inputs: AbsorbableInputs, step: Step, carried: list[Carried | None]
) -> AbsorbableInputs:
    """The same with the channels that others stand for, in all calls alike."""
    if not step.rule.merges(step.call) or any(c is None for c in carried):
        return inputs
    axis = step.rule.axis_read(step.call, step.flow)
    every = [each.along(axis) for each in carried if each is not None]
    if any(each is None for each in every):
        return inputs
    first, *rest = [each for each in every if each is not None]
    fit = np.ones(len(first.offset), bool)
    for other in rest:
        fit &= (first.places == other.places).all(axis=0)
        fit &= (first.factors == other.factors).all(axis=0)
        fit &= first.offset == other.offset
    if inputs.how is not Absorption.BIAS:
        fit &= first.offset == 0
    places = np.where(fit, first.places, -1)
    return dataclasses.replace(
        inputs, carried=dataclasses.replace(first, places=places)
    )


def _check_progress(decision: Decision, missing: list[Read]) -> None:
    """Refuse to force what is kept already: that would go on for ever."""
    if all(decision.mask(ids).all() for _, ids in missing):
        raise _stuck(missing[0].step.path, "what is missing there is kept")


def _stuck(path: str, why: str) -> RuntimeError:
    return RuntimeError(
        f"keras_gates: the decision comes to no end at '{path}': {why}. "
        "Please report this model."
    )


def _fixpoint(candidate: Candidate, forced: list[NDArray[np.intp]]) -> Decision:
    """Keep what is read, until a fixed point.

    Args:
        candidate: the first one, which keeps everything.
        forced: units that stay although nothing reads them.
    """
    classes = candidate.labelling.classes
    always = np.zeros(len(classes), bool)
    always[classes[lb.FIXED]] = True
    pinned = [pin.ids for pin in candidate.labelling.pinned]
    for ids in pinned + forced:
        always[classes[ids]] = True
    # Each round but the last lets go of a class at least.
    for _ in range(len(classes) + 1):
        decision = backward(candidate)
        kept = always.copy()
        for _, ids in decision.reads + decision.recalls:
            kept[classes[ids]] = True
        changed = np.flatnonzero(kept != candidate.kept)
        if not changed.size:
            return decision
        candidate = dataclasses.replace(candidate, kept=kept)
    raise _stuck(_reader(decision, changed), "its inputs come and go")


def _reader(decision: Decision, changed: NDArray[np.intp]) -> str:
    """The path of a step that reads one of these classes."""
    classes = decision.labelling.classes
    for step, ids in decision.reads + decision.recalls:
        if np.isin(classes[ids], changed).any():
            return step.path
    return decision.labelling.steps[-1].path


def _missing(decision: Decision) -> list[Read]:
    """The units to force: for an empty tensor, or a merge without a target.

    A tensor of size 0 was empty before, and has nothing that could be kept.
    """
    found: list[Read] = []
    for step in decision.steps():
        dropped = decision.dropped.get(step.key, ())
        left = [t for i, t in enumerate(step.inputs) if i not in dropped]
        for tensor in [*left, *step.outputs]:
            labels = decision.labelling.labels[tensor]
            if labels.size and not decision.mask(labels).any():
                found.append(Read(step, _one_of(decision, step, labels)))
    if found:
        # What follows a gather has its channels: the choice is made there.
        return [read for read in found if read.step.is_selection] or found
    for step in decision.steps():
        for index in step.flow.reads:
            target = merge_target(decision, step, index)
            if target is not None and not decision.mask(target.ids).all():
                found.append(Read(step, target.ids))
    return found


def _one_of(
    decision: Decision, step: Step, labels: NDArray[np.intp]
) -> NDArray[np.intp]:
    """The one channel that an empty tensor keeps, `(1,)`.

    A gather picks one that is there anyway, if any is: any other would have
    to be kept for it alone.
    """
    first = 0
    if step.is_selection:
        source = decision.mask(decision.labelling.labels[step.inputs[0]])
        first = int(source.ravel()[picks(step.flow)].ravel().argmax())
    return labels.ravel()[first : first + 1]


def merge_target(
    decision: Decision, step: Step, index: int
) -> MergeTarget | None:
    """Where the removed constants of an input go; None if nothing merges."""
    absorbable = decision.absorbable(step, index)
    if absorbable is None or absorbable.how is not Absorption.MERGE:
        return None
    ids = step.flow.read(index)
    if not step.flow.mixes or ids is None:
        return None
    kept = decision.mask(ids)
    values = np.where(np.isnan(absorbable.values), 0.0, absorbable.values)
    size = np.abs(values)
    if not size[~kept].any():
        return None
    largest = size[~kept].max()
    fit = np.where(kept & (size >= _SMALL * largest), size, 0.0)
    position = (
        int(fit.argmax())
        if fit.any()
        else int(np.where(kept, 0.0, size).argmax())
    )
    return MergeTarget(ids[position : position + 1], position)
