"""What stays: liveness backwards, to a fixed point.

Three facts are kept apart. A coordinate may be *known* (its value is a
constant), *demanded* (something that varies depends on it), and *kept* (it
is physically there). What is kept follows from what is read; all of it is
computed anew in each round, from what was kept in the round before.
"""

import dataclasses

import numpy as np

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.merge import Merge
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import IDENTITY

# A constant that others merge into must not be tiny beside them.
_SMALL = 1e-3
# A gather is worth its copy if it saves its reader this share of channels.
_WORTH = 1 / 8


@dataclasses.dataclass
class Reads:
    """How a layer that mixes its inputs can do without some of them.

    `values` are the known inputs along its axis that may go; `mode` says
    how: as a bias, or merged into one that stays.
    """

    values: np.ndarray
    mode: str  # "bias", "merge" or "approximate"


@dataclasses.dataclass
class Decision:
    """The outcome for one labelling and one set of closed gates."""

    labelling: object
    values: dict
    exact: bool = True
    kept: np.ndarray = None
    present: set = dataclasses.field(default_factory=set)
    called: set = dataclasses.field(default_factory=set)
    dropped: dict = dataclasses.field(default_factory=dict)
    demand: dict = dataclasses.field(default_factory=dict)
    reads: list = dataclasses.field(default_factory=list)
    recalls: list = dataclasses.field(default_factory=list)
    absorbing: dict = dataclasses.field(default_factory=dict)
    pins: list = dataclasses.field(default_factory=list)

    def mask(self, labels):
        """Which coordinates of a label array are kept."""
        return self.kept[self.labelling.classes[labels]]

    def masks(self, labels):
        """One mask for each axis; their product is what is kept."""
        masks = lb.axis_masks(self.mask(labels))
        if masks is None:
            raise RuntimeError(
                "keras_gates: the kept channels of a tensor form no box. "
                "Please report this model."
            )
        return masks

    def known(self, tensor):
        """Which coordinates have a known value, shaped like the labels."""
        value = self.values.get(tensor)
        labels = self.labelling.labels[tensor]
        if value is None:
            return np.zeros(labels.shape, bool)
        return ~np.isnan(np.broadcast_to(value.values, labels.shape))


def decide(labelling, values, exact=True):
    """Find the smallest set of channels that computes the same.

    Returns a `Decision` whose `kept` marks the classes that stay.
    """
    decision = Decision(labelling, values, exact)
    decision.absorbing = _absorbing(labelling, values, exact)
    while True:
        _fixpoint(decision)
        missing = _missing(decision)
        if not missing:
            return decision
        decision.pins += missing


def _absorbing(labelling, values, exact):
    """For each layer that mixes inputs: which known ones may go, and how."""
    steps_of = {}
    for step in labelling.steps:
        if step.flow.mixes and "in" in step.flow.roles:
            steps_of.setdefault(id(step.call.op), []).append(step)
    found = {}
    for op, steps in steps_of.items():
        known = [values.get(step.inputs[0]) for step in steps]
        if any(value is None for value in known):
            continue
        rule, call = steps[0].rule, steps[0].call
        if rule.reading(call) == ALL:
            continue
        axis = rule.axis(call)
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
        found[op] = Reads(agreed, mode)
    return found


def _fixpoint(decision):
    classes = decision.labelling.classes
    pins = decision.labelling.units.pins
    pinned = np.zeros(len(classes), bool)
    pinned[classes[lb.FIXED]] = True
    for units in [ids for ids, _ in pins] + decision.pins:
        pinned[classes[units]] = True
    decision.kept = np.ones(len(classes), bool)
    while True:
        _backward(decision)
        kept = pinned.copy()
        for _, units in decision.reads + decision.recalls:
            kept[classes[units]] = True
        if (kept == decision.kept).all():
            return
        decision.kept = kept


def _backward(decision):
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


def _elsewhere(decision):
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


def _walk(decision, needed, called):
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
        _demand(decision, tensor, True)
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


def _demand(decision, tensor, wanted):
    labels = decision.labelling.labels[tensor]
    wanted = np.broadcast_to(wanted, labels.shape)
    wanted = wanted & ~decision.known(tensor)
    before = decision.demand.get(tensor)
    decision.demand[tensor] = wanted if before is None else before | wanted


def _visit(decision, step):
    """Pass demand to the inputs of a step; return those it still uses."""
    flow = step.flow
    dropped = decision.dropped.get(step.key, ())
    live = any(
        t in decision.demand and decision.demand[t].any()
        for t in step.outputs
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
        wanted = np.full(labels.shape, flow.mixes and live)
        for number, output in enumerate(step.outputs):
            source = flow.sources[number][index]
            out = decision.demand.get(output)
            if source is None:
                continue
            if out is not None:
                wanted |= _scatter(out, source, labels.shape)
            if index in flow.untied:
                there = decision.mask(flow.labels[number])
                _read(decision, step, labels.ravel()[source[there]])
        _demand(decision, tensor, wanted)
        if flow.mixes and live:
            _read_all(decision, step, index, tensor, labels)
    return used


def recalled(decision, step):
    """Units of a step's outputs that it reads itself, None if it has none.

    A recurrent layer reads its own state, whatever stands behind it.
    """
    demanded = [
        decision.demand.get(t, np.zeros(labels.shape, bool))
        for t, labels in zip(step.outputs, step.flow.labels, strict=True)
    ]
    return step.rule.recalls(step.call, step.flow, demanded)


def _scatter(out, source, shape):
    """Demand on the outputs, as demand on the coordinates they stem from."""
    if isinstance(source, str) and source == IDENTITY:
        return np.broadcast_to(out, shape)
    wanted = np.zeros(shape, bool).reshape(-1)
    picked = source[np.broadcast_to(out, source.shape)]
    wanted[picked[picked >= 0]] = True
    return wanted.reshape(shape)


def _read(decision, step, units):
    decision.reads.append((step, units))


def _read_all(decision, step, index, tensor, labels):
    """A layer that mixes reads all inputs but those it can do without."""
    absorbing = decision.absorbing.get(id(step.call.op))
    value = decision.values.get(tensor)
    if index > 0 or value is None:
        _read(decision, step, labels.ravel())
        return
    if absorbing is not None:
        stays = np.isnan(absorbing.values)
        _read(decision, step, step.flow.roles["in"][stays])
        return
    if step.rule.reading(step.call) == ALL:
        if not decision.exact and step.rule.approximates(step.call):
            _read(decision, step, labels[~decision.known(tensor)])
        else:
            _read(decision, step, labels.ravel())
        return
    zero = np.broadcast_to(value.plain(), labels.shape) == 0
    _read(decision, step, labels[~zero])


def _dropped(decision):
    """Operands of merges that are constant wherever they are kept."""
    votes = {}
    for step in decision.labelling.steps:
        if len(step.inputs) < 2:
            continue
        if isinstance(step.rule, Merge):
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


def _constant_operands(decision, step):
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
        array = np.where(
            kept, np.broadcast_to(value.plain(), labels.shape), 0.0
        )
        if np.isnan(array).any():
            rest.append(index)
        else:
            constant[index] = array
    whole = [i for i in rest if call.inputs[i].shape == out_shape]
    if not whole or not constant:
        return {}
    if step.rule.without(constant, count) is None:
        return {}
    return {index: array.tobytes() for index, array in constant.items()}


def _missing(decision):
    """Units to pin: a tensor left empty, or a merge without a target."""
    found = []
    for step in decision.labelling.steps:
        if step not in decision.present:
            continue
        dropped = decision.dropped.get(step.key, ())
        tensors = [t for i, t in enumerate(step.inputs) if i not in dropped]
        for tensor in tensors + step.outputs:
            labels = decision.labelling.labels[tensor]
            if not decision.mask(labels).any():
                found.append(labels.ravel()[:1])
    if found:
        return found
    for step in decision.present:
        target = merge_target(decision, step)
        if target is not None and not decision.mask(target[0]).all():
            found.append(target[0])
    return found


def merge_target(decision, step):
    """Where the removed constants of a layer go, if they must merge.

    Returns:
        None if nothing merges, else `(units, position)`: the unit that
        must stay (an array of one) and its place along the channels.
    """
    absorbing = decision.absorbing.get(id(step.call.op))
    if absorbing is None or absorbing.mode != "merge":
        return None
    if not step.flow.mixes or "in" not in step.flow.roles:
        return None
    ids = step.flow.roles["in"]
    kept = decision.mask(ids)
    values = np.where(np.isnan(absorbing.values), 0.0, absorbing.values)
    size = np.abs(values)
    if not size[~kept].any():
        return None
    largest = size[~kept].max()
    fit = np.where(kept & (size >= _SMALL * largest), size, 0.0)
    position = int(fit.argmax()) if fit.any() else int(
        np.where(kept, 0.0, size).argmax()
    )
    return ids[position : position + 1], position


def poor_selections(decision):
    """Keys of gathers that save their readers too little."""
    poor = set()
    for step in decision.present:
        if step.position is None:
            continue
        labels = decision.labelling.labels[step.inputs[0]]
        if not lb.varying(labels):
            continue
        before = int(decision.mask(labels).sum())
        after = int(decision.mask(step.flow.labels[0]).sum())
        if 0 < before - after < _WORTH * after:
            poor.add(step.key)
    return poor


def depends(labelling, values):
    """The tensors that vary with the model's inputs."""
    found = set(labelling.graph.inputs)
    for step in labelling.steps:
        if not any(t in found for t in step.inputs):
            continue
        for tensor in step.outputs:
            value = values.get(tensor)
            if value is None or np.isnan(value.values).any():
                found.add(tensor)
    return found
