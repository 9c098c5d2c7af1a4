"""Finds what costs more than it saves: gathers and written-out layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import costs

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey

    Shapes = dict[Tensor, tuple[int | None, ...]]

# What it costs to gather one value, in multiply-adds: 8 to 22 on a CPU (JAX,
# float32, 64 to 256 channels), and more where kernels run faster than memory.
GATHERING = 16
# Where sizes are unknown: the share of its channels it must save its reader.
_WORTH = 1 / 8
# What it costs more to normalize one value by operations that are written
# out, in multiply-adds on a CPU: nothing where they are compiled together
# (JAX), 75 to 350 one by one (torch, TensorFlow). What it saves is mostly
# many times that, and parameters besides.
WRITING_OUT = 16


def poor(decision: Decision) -> set[StepKey]:
    """Keys of what is not worth its cost; see `Candidate.uncut`."""
    return poor_selections(decision) | poor_statistics(decision)


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


def _price(
    decision: Decision,
    step: Step,
    role: str = "in",
    sizes: Shapes | None = None,
) -> float:
    """The multiply-adds of a call for one unit along a role of its weights."""
    call, rule = step.call, step.rule
    kept = {
        role: int(decision.mask(ids).sum())
        for role, ids in step.flow.roles.items()
    }
    shapes = costs.cut_weight_shapes(call, rule, {**kept, role: 1})
    sizes = costs.recorded(call) if sizes is None else sizes
    try:
        macs = costs.call_macs(call, rule, shapes, sizes)
    except ValueError:
        return math.nan
    return macs or 0


def poor_statistics(decision: Decision) -> set[StepKey]:
    """Keys of what is written out to count channels that do not pay for it.

    What shares channels that go is judged together: they go for all or none.
    """
    found: set[StepKey] = set()
    for steps, classes in _together(decision):
        cost = sum(_writing(decision, step) for step in steps)
        if _saved(decision, classes) < cost:
            found.update(step.key for step in steps)
    return found


def _together(
    decision: Decision,
) -> list[tuple[list[Step], NDArray[np.intp]]]:
    """Steps that are written out, with the classes that go for them."""
    groups: list[tuple[list[Step], NDArray[np.intp]]] = []
    for step in decision.steps():
        ids = step.flow.read(0)
        if ids is None or not decision.written_out(step):
            continue
        classes = np.unique(
            decision.labelling.classes[ids[~decision.mask(ids)]]
        )
        steps, apart = [step], []
        for others, own in groups:
            if np.isin(own, classes).any():
                steps = others + steps
                classes = np.union1d(own, classes)
            else:
                apart.append((others, own))
        groups = [*apart, (steps, classes)]
    return groups


def _writing(decision: Decision, step: Step) -> float:
    """What a step costs more where it is written out."""
    if step.rule.writes_again:
        return 0.0
    masks = decision.masks(step.flow.labels[0])
    shape = lb.cut_shape(step.call.inputs[0].shape, masks)
    return WRITING_OUT * math.prod(size or 1 for size in shape[1:])


def _saved(decision: Decision, gone: NDArray[np.intp]) -> float:
    """The multiply-adds of kernels for classes that go.

    Along axes of unknown sizes, at one position each, as in `_writing`.
    """
    saved = 0.0
    for step in decision.steps():
        if not step.flow.mixes or step.is_selection:
            continue
        for role, ids in step.flow.roles.items():
            here = np.isin(decision.labelling.classes[ids], gone)
            count = int((here & ~decision.mask(ids)).sum())
            if count:
                sizes: Shapes = {
                    t: tuple(size or 1 for size in shape)
                    for t, shape in costs.recorded(step.call).items()
                }
                price = _price(decision, step, role, sizes)
                saved += count * price
    return saved
