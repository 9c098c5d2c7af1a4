"""What stays: liveness backwards, to a fixed point.

Three facts are kept apart. A coordinate may be *known* (its value is a
constant), *demanded* (something that varies depends on it), and *kept* (it
is physically there). What is kept follows from what is read; all of it is
computed anew in each round, from what was kept in the round before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decision import Decision
from keras_gates.surgeon.passes.decision import Reads
from keras_gates.surgeon.passes.liveness import backward
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import BIAS

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.known import Known

# A constant that others merge into must not be tiny beside them.
_SMALL = 1e-3
# What it costs to gather one value, in multiply-adds: 8 to 22 on a CPU (JAX,
# float32, 64 to 256 channels), and more where kernels run faster than memory.
GATHERING = 16
# Where sizes are unknown: the share of its channels it must save its reader.
_WORTH = 1 / 8


def decide(
    labelling: Labelling,
    values: dict[Tensor, Known],
    exact: bool = True,
    closed: dict[int, NDArray[np.bool_]] | None = None,
) -> Decision:
    """Find the smallest set of channels that computes the same.

    Args:
        labelling: the `Labelling`.
        values: what `analysis.constants` found for it.
        exact: whether only exact removals are made.
        closed: as in `analysis.constants`.

    Returns a `Decision` whose `kept` marks the classes that stay.
    """
    decision = Decision(labelling, values, exact, closed or {})
    decision.absorbing = _absorbing(labelling, values, exact)
    while True:
        _fixpoint(decision)
        missing = _missing(decision)
        if not missing:
            return decision
        _check_progress(decision, missing)
        decision.pins += [units for _, units in missing]


def _absorbing(
    labelling: Labelling, values: dict[Tensor, Known], exact: bool
) -> dict[tuple[int, int], Reads]:
    """For each layer that mixes inputs: which known ones may go, and how."""
    steps_of = {}
    for step in labelling.steps:
        for index in step.flow.reads if step.flow.mixes else ():
            if step.flow.read(index) is not None:
                key = id(step.call.op), index
                steps_of.setdefault(key, []).append(step)
    found = {}
    for (op, index), steps in steps_of.items():
        known = [values.get(step.inputs[index]) for step in steps]
        if any(value is None for value in known):
            continue
        rule, call = steps[0].rule, steps[0].call
        if rule.reading(call) == ALL:
            continue
        axis = rule.input_axis(call)
        each = [channel_values(v.values, axis) for v in known]
        agreed = np.where((each == each[0]).all(axis=0), each[0], np.nan)
        border = any(v.border for v in known)
        mode = "bias"
        if border or any(s.rule.reading(s.call) != BIAS for s in steps):
            mode = "merge" if rule.merges(call) else "none"
            if not exact and rule.approximates(call):
                mode = "approximate"
        if mode == "none":
            agreed = np.where(agreed == 0, 0.0, np.nan)
        found[op, index] = Reads(agreed, mode)
    return found


def _check_progress(decision: Decision, missing: Any) -> None:
    """Refuse to pin what is kept already: that would go on for ever."""
    if all(decision.mask(units).all() for _, units in missing):
        raise _stuck(missing[0][0].path, "what is missing there is kept")


def _stuck(path: Any, why: Any) -> Any:
    return RuntimeError(
        f"keras_gates: the decision comes to no end at '{path}': {why}. "
        "Please report this model."
    )


def _fixpoint(decision: Decision) -> None:
    classes = decision.labelling.classes
    pins = decision.labelling.units.pins
    pinned = np.zeros(len(classes), bool)
    pinned[classes[lb.FIXED]] = True
    for units in [ids for ids, _ in pins] + decision.pins:
        pinned[classes[units]] = True
    decision.kept = np.ones(len(classes), bool)
    # Each round but the last lets go of a class at least.
    for _ in range(len(classes) + 1):
        backward(decision)
        kept = pinned.copy()
        for _, units in decision.reads + decision.recalls:
            kept[classes[units]] = True
        if (kept == decision.kept).all():
            return
        changed = np.flatnonzero(kept != decision.kept)
        decision.kept = kept
    raise _stuck(_reader(decision, changed), "its inputs come and go")


def _reader(decision: Decision, changed: Any) -> Any:
    """The path of a step that reads one of these classes."""
    classes = decision.labelling.classes
    for step, units in decision.reads + decision.recalls:
        if np.isin(classes[units], changed).any():
            return step.path
    return decision.labelling.steps[-1].path


def _missing(decision: Decision) -> list[Any]:
    """What to pin: a tensor left empty, or a merge without a target.

    A tensor of size 0 was empty before, and has nothing that could be kept.

    Returns:
        Pairs of the step that lacks them and the units.
    """
    found = []
    for step in decision.labelling.steps:
        if step not in decision.present:
            continue
        dropped = decision.dropped.get(step.key, ())
        tensors = [t for i, t in enumerate(step.inputs) if i not in dropped]
        for tensor in tensors + step.outputs:
            labels = decision.labelling.labels[tensor]
            if labels.size and not decision.mask(labels).any():
                found.append((step, labels.ravel()[:1]))
    if found:
        return found
    for step in decision.present:
        for index in step.flow.reads:
            target = merge_target(decision, step, index)
            if target is not None and not decision.mask(target[0]).all():
                found.append((step, target[0]))
    return found


def merge_target(
    decision: Decision, step: Step, index: int
) -> tuple[NDArray[np.int64], int] | None:
    """Where the removed constants of an input go, if they must merge.

    Returns:
        None if nothing merges, else `(units, position)`: the unit that
        must stay (an array of one) and its place along the channels.
    """
    absorbing = decision.absorbing.get((id(step.call.op), index))
    if absorbing is None or absorbing.mode != "merge":
        return None
    ids = step.flow.read(index)
    if not step.flow.mixes or ids is None:
        return None
    kept = decision.mask(ids)
    values = np.where(np.isnan(absorbing.values), 0.0, absorbing.values)
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
    return ids[position : position + 1], position


def poor_selections(decision: Decision) -> set[Any]:
    """Keys of gathers that cost more than they save their readers.

    Without one, a closed channel goes on to the kernels that read it, which
    take it for the constant that it is.
    """
    poor, price = set(), None
    for step in decision.present:
        if step.position is None:
            continue
        labels = decision.labelling.labels[step.inputs[0]]
        if not lb.varying(labels):
            continue
        before = int(decision.mask(labels).sum())
        after = int(decision.mask(step.flow.labels[0]).sum())
        if before > after:
            price = _reading_prices(decision) if price is None else price
            if before - after < _worth(decision, step, after, price):
                poor.add(step.key)
    return poor


def _worth(
    decision: Decision, selection: Step, after: int, price: NDArray[np.float64]
) -> float:
    """How many channels a gather of `after` must save to pay."""
    channels = selection.flow.labels[0]
    saved = price[decision.labelling.classes[channels]].mean()
    shape = selection.inputs[0].shape[1:]
    if None in shape or np.isnan(saved) or not saved:
        return _WORTH * after
    places = math.prod(shape) / channels.size
    return GATHERING * places * after / saved


def _reading_prices(decision: Decision) -> NDArray[np.float64]:
    """For each class, the multiply-adds of all kernels that read it.

    NaN where they depend on sizes that are unknown.
    """
    classes = decision.labelling.classes
    price = np.zeros(len(classes))
    for step in decision.present:
        if step.flow.mixes and "in" in step.flow.roles:
            own = classes[step.flow.roles["in"]]
            np.add.at(price, own, _price(decision, step))
    return price


def _price(decision: Decision, step: Step) -> int:
    """The multiply-adds of a call for one channel that it reads."""
    call, rule = step.call, step.rule
    kept = {
        role: int(decision.mask(ids).sum())
        for role, ids in step.flow.roles.items()
    }
    shapes = costs.cut_weight_shapes(call, rule, {**kept, "in": 1})
    try:
        return costs.call_macs(call, rule, shapes, costs.recorded(call)) or 0
    except ValueError:
        return np.nan
