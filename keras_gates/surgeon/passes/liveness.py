"""One pass backwards: what is demanded, who is there, what is read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import IDENTITY

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step


def backward(decision: Decision) -> None:
    """One pass from the outputs: who is there, and what it reads."""
    decision.reads = []
    decision.dropped = _dropped(decision)
    needed, called = set(), set()
    while True:
        decision.demand = {}
        decision.reads.clear()
        decision.recalls.clear()
        decision.present = set()
        decision.called = set()
        _walk(decision, needed, called)
        absent, uncalled = _elsewhere(decision)
        if absent <= needed and uncalled <= called:
            return
        # A nested model is rebuilt once: what one call needs, all have.
        needed |= absent
        called |= uncalled


def _elsewhere(decision: Decision) -> tuple[set[Any], set[Any]]:
    """What is there in one call of a nested model, but not in another.

    Returns:
        The keys of steps, and the sites of models that are nested in it.
    """
    keys = {s.key for s in decision.present}
    sites = {scope.site for scope in decision.called}
    absent, uncalled = set(), set()
    for step in decision.labelling.steps:
        if step.key in keys and step not in decision.present:
            absent.add(step.key)
        for scope in step.call.scopes:
            if scope.site in sites and scope not in decision.called:
                uncalled.add(scope.site)
    return absent, uncalled


def _walk(decision: Decision, needed: set[Any], called: set[Any]) -> None:
    """The steps that are there, from the last to the first.

    Args:
        decision: gathers them in `present`, and the calls of nested models
            in `called`.
        needed: keys of steps that are there in each call of their model.
        called: sites of nested models that are called in each call of the
            model round them.
    """
    graph = decision.labelling.graph
    present = set(graph.outputs)
    for tensor in graph.outputs:
        _demand(decision, tensor, np.True_)
    for step in reversed(decision.labelling.steps):
        inside = True
        for scope in step.call.scopes:
            here = scope in decision.called
            if not here and inside:
                used = any(t in present for t in scope.outputs)
                here = used or scope.site in called
                if here:
                    # A call passes all inputs and returns all outputs.
                    decision.called.add(scope)
                    present.update(scope.inputs, scope.outputs)
            inside = inside and here
        used = any(t in present for t in step.outputs)
        if used or (inside and step.key in needed):
            decision.present.add(step)
            present.update(_visit(decision, step))


def _demand(
    decision: Decision, tensor: Tensor, wanted: NDArray[np.bool_] | bool
) -> None:
    labels = decision.labelling.labels[tensor]
    wanted = lb.stretched(wanted, labels.shape) & ~decision.known(tensor)
    before = decision.demand.get(tensor)
    decision.demand[tensor] = wanted if before is None else before | wanted


def _visit(decision: Decision, step: Step) -> list[Tensor]:
    """Pass demand to the inputs of a step; return those it still uses."""
    flow = step.flow
    dropped = decision.dropped.get(step.key, ())
    live = any(
        t in decision.demand and decision.demand[t].any() for t in step.outputs
    )
    units = recalled(decision, step) if decision.exact else None
    if units is not None:
        decision.recalls.append((step, units))
    used = []
    for index, tensor in enumerate(step.inputs):
        if index in dropped:
            continue
        used.append(tensor)
        labels = decision.labelling.labels[tensor]
        wanted = np.bool_(flow.mixes and live)
        for number, output in enumerate(step.outputs):
            source = flow.sources[number][index]
            out = decision.demand.get(output)
            if source is None:
                continue
            if out is not None:
                wanted = wanted | _scatter(out, source, labels.shape)
            if index in flow.untied:
                _read_untied(decision, step, number, labels.ravel()[source])
        _demand(decision, tensor, wanted)
        if flow.mixes and live and index not in flow.states:
            _read_all(decision, step, index, tensor, labels)
    return used


def _read_untied(
    decision: Decision, step: Step, number: int, units: NDArray[np.int64]
) -> None:
    """What an output holds, its source must hold: but not for its own sake.

    Where the two are tied after all, by a layer that reads both, the units
    would keep themselves.
    """
    own = step.flow.labels[number]
    classes = decision.labelling.classes
    there = decision.mask(own) & (classes[units] != classes[own])
    _read(decision, step, units[there])


def recalled(decision: Decision, step: Step) -> None:
    """Units of a step's outputs that it reads itself, None if it has none.

    A recurrent layer reads its own state, whatever gates stand behind it;
    what a score closes is zero for the layer itself, too.
    """
    if not step.rule.recalling:
        return None
    demanded = [
        decision.demand.get(t, np.zeros(labels.shape, bool))
        for t, labels in zip(step.outputs, step.flow.labels, strict=True)
    ]
    closed = decision.closed.get(id(step.call.op))
    return step.rule.recalls(step.call, step.flow, demanded, closed)


def _scatter(
    out: NDArray[np.bool_],
    source: NDArray[np.int64] | str,
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Demand on the outputs, as demand on the coordinates they stem from."""
    if isinstance(source, str) and source == IDENTITY:
        return lb.stretched(out, shape)
    wanted = np.zeros(shape, bool).reshape(-1)
    picked = source[lb.stretched(out, source.shape)]
    wanted[picked[picked >= 0]] = True
    return wanted.reshape(shape)


def _read(decision: Decision, step: Step, units: NDArray[np.int64]) -> None:
    decision.reads.append((step, units))


def _read_all(
    decision: Decision,
    step: Step,
    index: int,
    tensor: Tensor,
    labels: NDArray[np.int64],
) -> None:
    """A layer that mixes reads all inputs but those it can do without."""
    absorbing = decision.absorbing.get((id(step.call.op), index))
    value = decision.values.get(tensor)
    beside = index > 0 and index not in step.flow.reads
    if beside or value is None:
        _read(decision, step, labels.ravel())
        return
    if absorbing is not None:
        stays = np.isnan(absorbing.values)
        _read(decision, step, step.flow.read(index)[stays])
        return
    if step.rule.reading(step.call) == ALL:
        if not decision.exact and step.rule.approximates(step.call):
            _read(decision, step, labels[~decision.known(tensor)])
        else:
            _read(decision, step, labels.ravel())
        return
    zero = lb.stretched(value.plain(), labels.shape) == 0
    _read(decision, step, labels[~zero])


def _dropped(decision: Decision) -> dict[tuple[int, None], tuple[int]]:
    """Operands of merges that are constant wherever they are kept."""
    votes = {}
    for step in decision.labelling.steps:
        if len(step.inputs) < 2:
            continue
        if step.rule.merging:
            vote = _constant_operands(decision, step)
        elif step.flow.reason is None and not step.flow.mixes:
            vote = {
                index: b""
                for index, tensor in enumerate(step.inputs)
                if not decision.mask(decision.labelling.labels[tensor]).any()
            }
        else:
            vote = {}
        votes.setdefault(step.key, []).append(vote)
    dropped = {}
    for key, every in votes.items():
        first = every[0]
        agreed = [
            index
            for index in first
            if all(v.get(index) == first[index] for v in every)
        ]
        if agreed:
            dropped[key] = tuple(agreed)
    return dropped


def _constant_operands(decision: Decision, step: Step) -> dict[int, bytes]:
    """`{operand: its kept values as bytes}` of those that can be left out."""
    call, count = step.call, len(step.inputs)
    out_shape = call.outputs[0].shape
    constant, rest = {}, []
    for index, tensor in enumerate(step.inputs):
        labels = decision.labelling.labels[tensor]
        kept = decision.mask(labels)
        value = decision.values.get(tensor)
        if value is None:
            rest.append(index)
            continue
        array = np.where(kept, lb.stretched(value.plain(), labels.shape), 0.0)
        if np.isnan(array).any():
            rest.append(index)
        else:
            constant[index] = array
    whole = [i for i in rest if call.inputs[i].shape == out_shape]
    if not whole or not constant:
        return {}
    if step.rule.without_operands(constant, count) is None:
        return {}
    return {index: array.tobytes() for index, array in constant.items()}
