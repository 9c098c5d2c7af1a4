"""What stays: liveness backwards, to a fixed point.

Three facts are kept apart. A coordinate may be *known* (its value is a
constant), *demanded* (something that varies depends on it), and *kept* (it
is physically there). What is kept follows from what is read; each round
computes all of it again, from what was kept in the round before.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decision import AbsorbableInputs
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.decision import Candidate
from keras_gates.surgeon.passes.decision import Read
from keras_gates.surgeon.passes.label import picks
from keras_gates.surgeon.passes.liveness import backward
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import BIAS

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known

# A constant that others merge into must not be tiny beside them.
_SMALL = 1e-3
# What it costs to gather one value, in multiply-adds: 8 to 22 on a CPU (JAX,
# float32, 64 to 256 channels), and more where kernels run faster than memory.
GATHERING = 16
# Where sizes are unknown: the share of its channels it must save its reader.
_WORTH = 1 / 8


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
        exact: whether only exact removals are made.
        closed: as in `label.constants`.
        uncut: as in `label.label`.

    Returns a `Decision` whose `kept` marks the classes that stay.
    """
    everything = Candidate(
        labelling=labelling,
        values=values,
        exact=exact,
        closed=IdentityDict() if closed is None else closed,
        uncut=uncut,
        absorbable_by_layer=absorbable_by_layer(labelling, values, exact),
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
    labelling: Labelling, values: dict[Tensor, Known], exact: bool
) -> IdentityDict[keras.Operation, dict[int, AbsorbableInputs]]:
    """For each layer that mixes inputs: which known ones may go, and how."""
    steps_of: IdentityDict[keras.Operation, dict[int, list[Step]]]
    steps_of = IdentityDict()
    for step in labelling.steps:
        for index in step.flow.reads if step.flow.mixes else ():
            if step.flow.read(index) is not None:
                by_index = steps_of.setdefault(step.call.op, {})
                by_index.setdefault(index, []).append(step)
    found: IdentityDict[keras.Operation, dict[int, AbsorbableInputs]]
    found = IdentityDict()
    for op, by_index in steps_of.items():
        for index, steps in by_index.items():
            known = [values.get(step.inputs[index]) for step in steps]
            every = [value for value in known if value is not None]
            reads_all = steps[0].rule.reading(steps[0].call) == ALL
            if len(every) == len(known) and not reads_all:
                inputs = _absorbable_inputs(steps, every, exact)
                found.setdefault(op, {})[index] = inputs
    return found


def _absorbable_inputs(
    steps: list[Step], known: list[Known], exact: bool
) -> AbsorbableInputs:
    """What the calls of one layer can do without, given what each reads."""
    rule, call = steps[0].rule, steps[0].call
    axis = rule.axis_read(call, steps[0].flow)
    each = np.stack([channel_values(value.values, axis) for value in known])
    # A layer has one kernel, so all of its calls must read the same constant.
    agreed = np.where((each == each[0]).all(axis=0), each[0], np.nan)
    border = any(value.border for value in known)
    if not border and all(s.rule.reading(s.call) == BIAS for s in steps):
        return AbsorbableInputs(agreed, Absorption.BIAS)
    if not exact and rule.approximates(call):
        return AbsorbableInputs(agreed, Absorption.APPROXIMATE)
    if rule.merges(call):
        return AbsorbableInputs(agreed, Absorption.MERGE)
    zeros = np.where(agreed == 0, 0.0, np.nan)
    return AbsorbableInputs(zeros, Absorption.NOTHING)


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
    """Keep what is read, until that is what is kept.

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
    """What to force: a tensor left empty, or a merge without a target.

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


def poor_selections(decision: Decision) -> set[StepKey]:
    """Keys of gathers that cost more than they save their readers.

    Without one, a closed channel goes on to the kernels that read it, which
    take it for the constant that it is.
    """
    poor, prices = set(), None
    for step in decision.steps():
        if not step.is_selection:
            continue
        labels = decision.labelling.labels[step.inputs[0]]
        if not lb.varying(labels):
            continue
        before = int(decision.mask(labels).sum())
        after = int(decision.mask(step.flow.labels[0]).sum())
        if before > after:
            prices = _reading_prices(decision) if prices is None else prices
            if before - after < _worth(decision, step, after, prices):
                poor.add(step.key)
    return poor


def _worth(
    decision: Decision,
    selection: Step,
    after: int,
    prices: NDArray[np.float64],
) -> float:
    """How many channels a gather of `after` must save to pay."""
    channels = selection.flow.labels[0]
    saved = float(prices[decision.labelling.classes[channels]].mean())
    shape = selection.inputs[0].shape[1:]
    sizes = [size for size in shape if size is not None]
    if len(sizes) < len(shape) or math.isnan(saved) or not saved:
        return _WORTH * after
    places = math.prod(sizes) / channels.size
    return GATHERING * places * after / saved


def _reading_prices(decision: Decision) -> NDArray[np.float64]:
    """For each class, the multiply-adds of all kernels that read it.

    NaN where they depend on sizes that are unknown.
    """
    classes = decision.labelling.classes
    prices = np.zeros(len(classes))
    for step in decision.steps():
        if step.flow.mixes and "in" in step.flow.roles:
            own = classes[step.flow.roles["in"]]
            np.add.at(prices, own, _price(decision, step))
    return prices


def _price(decision: Decision, step: Step) -> float:
    """The multiply-adds of a call for one channel that it reads."""
    call, rule = step.call, step.rule
    kept = {
        role: int(decision.mask(ids).sum())
        for role, ids in step.flow.roles.items()
    }
    shapes = costs.cut_weight_shapes(call, rule, {**kept, "in": 1})
    try:
        macs = costs.call_macs(call, rule, shapes, costs.recorded(call))
    except ValueError:
        return math.nan
    return macs or 0
