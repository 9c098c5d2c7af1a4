"""One pass backwards: what is demanded, present, and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decision import Decision
from keras_gates.surgeon.passes.decision import Read
from keras_gates.surgeon.passes.label import blends
from keras_gates.surgeon.rules.modes import Reading
from keras_gates.surgeon.rules.rule import ALL

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Scope
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.identity import IdentityDict
    from keras_gates.surgeon.passes.decision import Candidate
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey


def backward(candidate: Candidate) -> Decision:
    """One pass from the outputs: who is there, and what it reads.

    Args:
        candidate: says what is kept, and so which operands are constant.
    """
    dropped = _dropped(candidate)
    needed: set[StepKey] = set()
    called: set[Site] = set()
    while True:
        walk = _Walk(candidate, dropped)
        walk.run(needed, called)
        absent, uncalled = walk.elsewhere()
        if absent <= needed and uncalled <= called:
            return walk.decision()
        # A nested model is rebuilt once: what one call needs, all have.
        needed |= absent
        called |= uncalled


class _Walk:
    """A `Decision` in the making: its fields, as far as the walk has got."""

    def __init__(
        self,
        candidate: Candidate,
        dropped: Mapping[StepKey, tuple[int, ...]],
    ) -> None:
        self.candidate = candidate
        self.labelling = candidate.labelling
        self.dropped = dropped
        self.present: set[Step] = set()
        self.called: set[Scope] = set()
        self.demand: dict[Tensor, NDArray[np.bool_]] = {}
        self.reads: list[Read] = []
        self.recalls: list[Read] = []

    def run(self, needed: set[StepKey], called: set[Site]) -> None:
        """Find the steps that are there, from the last to the first.

        Args:
            needed: keys of steps that are there in each call of their model.
            called: sites of nested models that are called in each call of
                the model around them.
        """
        graph = self.labelling.graph
        used = set(graph.outputs)
        for tensor in graph.outputs:
            self._demand(tensor, np.True_)
        for step in reversed(self.labelling.steps):
            inside = True
            for scope in step.call.scopes:
                here = scope in self.called
                if not here and inside:
                    read = any(tensor in used for tensor in scope.outputs)
                    here = read or scope.site in called
                    if here:
                        # A call passes all inputs and returns all outputs.
                        self.called.add(scope)
                        used.update(scope.inputs, scope.outputs)
                inside = inside and here
            read = any(tensor in used for tensor in step.outputs)
            if read or (inside and step.key in needed):
                self.present.add(step)
                used.update(self._visit(step))

    def elsewhere(self) -> tuple[set[StepKey], set[Site]]:
        """What is there in one call of a nested model, but not in another.

        Returns:
            The keys of steps, and the sites of models that are nested in it.
        """
        keys = {step.key for step in self.present}
        sites = {scope.site for scope in self.called}
        absent, uncalled = set(), set()
        for step in self.labelling.steps:
            if step.key in keys and step not in self.present:
                absent.add(step.key)
            for scope in step.call.scopes:
                if scope.site in sites and scope not in self.called:
                    uncalled.add(scope.site)
        return absent, uncalled

    def decision(self) -> Decision:
        given = self.candidate
        return Decision(
            labelling=given.labelling,
            values=given.values,
            exact=given.exact,
            closed=given.closed,
            uncut=given.uncut,
            absorbable_by_layer=given.absorbable_by_layer,
            kept=given.kept,
            present=frozenset(self.present),
            called=frozenset(self.called),
            dropped=self.dropped,
            demand=self.demand,
            reads=tuple(self.reads),
            recalls=tuple(self.recalls),
        )

    def _demand(
        self, tensor: Tensor, wanted: NDArray[np.bool_] | np.bool_
    ) -> None:
        shape = self.labelling.labels[tensor].shape
        wanted = lb.stretched(wanted, shape)
        if tensor in self.candidate.values:
            wanted = wanted & ~self.candidate.known(tensor)
        before = self.demand.get(tensor)
        self.demand[tensor] = wanted if before is None else before | wanted

    def _visit(self, step: Step) -> list[Tensor]:
        """Pass demand to the inputs of a step; return those it still uses."""
        flow = step.flow
        dropped = self.dropped.get(step.key, ())
        live = any(
            tensor in self.demand and self.demand[tensor].any()
            for tensor in step.outputs
        )
        ids: NDArray[np.intp] | None = None
        if self.candidate.exact or not step.rule.feeds_back:
            ids = recalled(step, self.demand, self.candidate.closed)
            if ids is not None:
                self.recalls.append(Read(step, ids))
        used = []
        for index, tensor in enumerate(step.inputs):
            if index in dropped:
                continue
            used.append(tensor)
            wanted = self._wanted(step, index, live)
            if ids is not None and index in flow.states:
                # A unit that the layer has no use for starts with any state.
                classes = self.labelling.classes
                own = classes[self.labelling.labels[tensor]]
                wanted = np.isin(own, classes[ids])
            self._demand(tensor, wanted)
            if index in flow.untied:
                self._read_untied(step, index)
            apart = index in flow.states or index in flow.multiplied
            if flow.mixes and live and not apart:
                self._read_all(step, index)
        return used

    def _wanted(
        self, step: Step, index: int, live: bool
    ) -> NDArray[np.bool_] | np.bool_:
        """What the demand on a step's outputs means for one of its inputs."""
        if step.rule.multiplies:
            return self._of_product(step, index)
        shape = self.labelling.labels[step.inputs[index]].shape
        wanted: NDArray[np.bool_] | np.bool_ = np.bool_(
            step.flow.mixes and live
        )
        for number, output in enumerate(step.outputs):
            source = step.flow.sources[number][index]
            demand = self.demand.get(output)
            if source is not None and demand is not None:
                asked = _scatter(demand, source, shape)
                if blends(step, number, index, self.labelling):
                    units = self.labelling.labels[step.inputs[index]]
                    asked = np.isin(units, units[asked])
                wanted = wanted | asked
        return wanted

    def _of_product(self, step: Step, index: int) -> NDArray[np.bool_]:
        """The same for a product of tensors."""
        labels = self.labelling.labels
        zeros = [self._zero(tensor) for tensor in step.inputs]
        wanted = [
            self.demand.get(tensor, np.zeros(labels[tensor].shape, bool))
            for tensor in step.outputs
        ]
        asked = step.rule.demanded(step.call, step.flow, index, wanted, zeros)
        if index in step.flow.multiplied:
            ids = labels[step.inputs[index]][asked & ~zeros[index]]
            self.reads.append(Read(step, ids))
        return asked

    def _zero(self, tensor: Tensor) -> NDArray[np.bool_]:
        """Which coordinates are zero, like the labels."""
        value = self.candidate.values.get(tensor)
        shape = self.labelling.labels[tensor].shape
        if value is None:
            return np.zeros(shape, bool)
        return np.asarray(lb.stretched(value.plain(), shape) == 0)

    def _read_untied(self, step: Step, index: int) -> None:
        """What an output holds, its source must hold: but not for its own sake.

        Where the two are tied after all, by a layer that reads both, the
        units would keep themselves.
        """
        classes = self.labelling.classes
        labels = self.labelling.labels[step.inputs[index]].ravel()
        for number, own in enumerate(step.flow.labels):
            source = step.flow.sources[number][index]
            if not isinstance(source, np.ndarray):
                continue  # IDENTITY: its labels are the output's own
            ids = labels[source]
            there = self.candidate.mask(own) & (classes[ids] != classes[own])
            self.reads.append(Read(step, ids[there]))

    def _read_all(self, step: Step, index: int) -> None:
        """A layer that mixes reads all inputs but those it can do without."""
        tensor, candidate = step.inputs[index], self.candidate
        labels = self.labelling.labels[tensor]
        value = candidate.values.get(tensor)
        absorbable = candidate.absorbable(step, index)
        read = step.flow.read(index)
        beside = index > 0 and index not in step.flow.reads
        if beside:
            ids = labels.ravel()
        elif absorbable is not None and read is not None:
            ids = read[absorbable.needed()]
        elif value is None:
            ids = labels.ravel()
        elif step.rule.reading(step.call) == ALL:
            guessed = not candidate.exact and step.rule.approximates(step.call)
            ids = (
                labels[~candidate.known(tensor)] if guessed else labels.ravel()
            )
        elif Reading(step.rule.reading(step.call)).drops_zeros:
            zero = lb.stretched(value.plain(), labels.shape) == 0
            ids = labels[~zero]
        else:
            ids = labels.ravel()
        self.reads.append(Read(step, ids))


def recalled(
    step: Step,
    demand: Mapping[Tensor, NDArray[np.bool_]],
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
) -> NDArray[np.intp] | None:
    """Units inside a step that it reads itself, None if it has none.

    A recurrent layer reads its own state, whatever gates come after it, and
    attention its heads; what is closed inside is zero there.

    Args:
        step: the step.
        demand: what is demanded of each tensor, as in `Decision`.
        closed: what is closed of each layer, as in `Decision`.
    """
    if not step.rule.inner_units(step.call):
        return None
    demanded = [
        demand.get(tensor, np.zeros(labels.shape, bool))
        for tensor, labels in zip(step.outputs, step.flow.labels, strict=True)
    ]
    shut = closed.get(step.call.op)
    return step.rule.recalls(step.call, step.flow, demanded, shut)


def _scatter(
    demand: NDArray[np.bool_],
    source: NDArray[np.intp] | str,
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Demand on the outputs, as demand on the coordinates they stem from."""
    if not isinstance(source, np.ndarray):  # IDENTITY
        return lb.stretched(demand, shape)
    wanted = np.zeros(shape, bool).reshape(-1)
    picked = source[lb.stretched(demand, source.shape)]
    wanted[picked[picked >= 0]] = True
    return wanted.reshape(shape)


def _dropped(candidate: Candidate) -> dict[StepKey, tuple[int, ...]]:
    """Operands of merges that are constant wherever they are kept."""
    votes: dict[StepKey, list[dict[int, bytes]]] = {}
    for step in candidate.labelling.steps:
        if len(step.inputs) < 2:
            continue
        vote = {}
        if step.rule.merging:
            vote = _constant_operands(candidate, step)
        elif step.flow.reason is None and not step.flow.mixes:
            labels = [candidate.labelling.labels[t] for t in step.inputs]
            empty = [not candidate.mask(each).any() for each in labels]
            vote = {index: b"" for index, gone in enumerate(empty) if gone}
        votes.setdefault(step.key, []).append(vote)
    dropped = {}
    for key, every in votes.items():
        first = every[0]
        agreed = [
            index
            for index in first
            if all(vote.get(index) == first[index] for vote in every)
        ]
        if agreed:
            dropped[key] = tuple(agreed)
    return dropped


def _constant_operands(candidate: Candidate, step: Step) -> dict[int, bytes]:
    """`{operand: its kept values as bytes}` of those that can be left out."""
    call, count = step.call, len(step.inputs)
    out_shape = call.outputs[0].shape
    constant, rest = {}, []
    for index, tensor in enumerate(step.inputs):
        labels = candidate.labelling.labels[tensor]
        kept = candidate.mask(labels)
        value = candidate.values.get(tensor)
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
    if step.rule.without(constant, count) is None:
        return {}
    return {index: array.tobytes() for index, array in constant.items()}
