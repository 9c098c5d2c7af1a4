"""Why closed channels remove nothing, and what to do about it."""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.report.by_class import ByClass
from keras_gates.surgeon.report.futile_factors import Futile
from keras_gates.surgeon.rules.virtual import VirtualGate
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import round_to
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.bars import Bars
from keras_gates.surgeon.solving.bars import Cause
from keras_gates.surgeon.solving.bars import few
from keras_gates.surgeon.solving.bars import remedies
from keras_gates.surgeon.solving.bars import sizes

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.solving.solve import Solution

_IN_LOOP = (
    "A gate after the layer does not stop the feedback. Gate the units "
    "inside the loop, as insert_gates does (keras_gates.GatedRecurrent), or "
    "close units by scores (keras_gates.surgeon.score): these are removed "
    "with their feedback."
)
_NO_FEEDBACK = (
    "A gate after the layer does not stop the feedback: gate other layers."
)
_STATES = (
    "Its states are read without the gate: read its output instead, or, for "
    "the state h, pass gate_states=True to GatedRecurrent."
)

_WHOLE = "the tensor that it gates is kept whole"
_BEHIND = "Put the gate right after the layer that produces its channels."


class Answer(NamedTuple):
    """What is said of closed channels that stay.

    Attributes:
        why: what keeps them, to follow a colon.
        remedy: what to do about it, as sentences.
    """

    why: str
    remedy: str


class Finder:
    """Finds the reasons of the factors in `vain`, and the remedies."""

    def __init__(
        self, solution: Solution, vain: dict[str, NDArray[np.bool_]]
    ) -> None:
        self.solution, self.vain = solution, vain
        self.decision, self.labelling = solution.decision, solution.labelling
        self.bars = Bars(self.decision)
        self.sizes = sizes(self.labelling)
        self._hard = self.bars.certain()
        # By the name of a gate: the steps that close its channels, and for
        # each the places among its factors and the classes, `(channels,)`.
        self.steps: dict[str, list[Step]] = collections.defaultdict(list)
        self._at: dict[str, list[tuple[NDArray[np.intp], NDArray[np.intp]]]]
        self._at = collections.defaultdict(list)
        for name, step, at, classes in removable.places(solution):
            self.steps[name].append(step)
            self._at[name].append((at, classes))

    def futile(self, name: str) -> list[Futile]:
        """The `Futile`s of one gate: one for each reason."""
        pairs = self._at[name] or [(np.zeros(0, int), np.zeros(0, int))]
        at = np.concatenate([places for places, _ in pairs])
        classes = np.concatenate([own for _, own in pairs])
        wanted = self.vain[name].reshape(-1)[at]
        at, classes = at[wanted], classes[wanted]
        hard = self._hard[classes]
        found = []
        for part, say in ((hard, self._certain), (~hard, self._open)):
            if part.any():
                own = np.unique(classes[part])
                why, remedy = say(name, own)
                found.append(self._futile(name, at[part], own, why, remedy))
        return found

    def _futile(
        self,
        name: str,
        at: NDArray[np.intp],
        classes: NDArray[np.intp],
        why: str,
        remedy: str,
    ) -> Futile:
        closed = int(self.solution.closed[name].sum())
        weight = int(self.sizes[classes].sum())
        count = len(np.unique(at))
        return Futile(name, count, closed, False, why, remedy, weight)

    def _certain(self, name: str, classes: NDArray[np.intp]) -> Answer:
        """Why these stay whatever else is closed."""
        bars = self.bars.on(classes)
        causes = {bar.cause for bar in bars}
        soft = causes & {Cause.TOGETHER, Cause.FEEDBACK}
        loose = bool(soft) and name in self._loose
        hints = remedies(bars, loose)
        if Cause.FEEDBACK in causes and name not in self.solution.graph.groups:
            names = {b.layer for b in bars if b.cause == Cause.FEEDBACK}
            if names & self._scorable:
                hints.insert(0, _IN_LOOP)
            elif not loose:
                hints.append(_NO_FEEDBACK)
        why = few([str(bar) for bar in bars], "; ")
        return Answer(why, " ".join(hints))

    @functools.cached_property
    def _loose(self) -> set[str]:
        """The gates for which `exact=False` helps."""
        if not self.decision.exact:
            return set()
        graph, closed = self.solution.graph, self.solution.closed
        trials = self.solution.trials
        other = solve.solve(
            graph, closed, exact=False, check=False, trials=trials
        )
        left = removable.in_vain(other)
        return {n for n, mask in self.vain.items() if (mask & ~left[n]).any()}

    @functools.cached_property
    def _scorable(self) -> set[str]:
        """The groups of channels that scores can remove."""
        graph, exact = self.solution.graph, self.decision.exact
        try:
            again = expand.read(graph.model, like=graph)
            return set(removable.offered(again, exact).groups)
        except ValueError:
            return set()

    def _open(self, name: str, classes: NDArray[np.intp]) -> Answer:
        """Where else these channels are made or read, and left open."""
        join, read = self._join(classes), classes
        classes = self._across_gathers(classes)
        if self._left_open(name, classes):
            return Answer(
                f"channels that '{name}' leaves open are coupled to them, and "
                "can only be removed together with them",
                "Close coupled channels together.",
            )
        beside = [other for other in self._gates(classes) if other != name]
        gates = [o for o in beside if self._left_open(o, classes)]
        closing = [name, *(o for o in beside if o not in gates)]
        others, again = self._makers(closing, classes)
        if again:
            return Answer(
                f"{_quoted(again)} also produces them in other calls, where "
                "they are open",
                "Close the same channels at each of its calls.",
            )
        if gates or others:
            leave = "leaves" if len(gates) == 1 else "leave"
            what = f"that {_quoted(gates)} {leave} open"
            if not gates:
                what = f"of {_quoted(others)}, which no gate closes"
            what = f"channels {what}"
            tie = (
                "they are tied to" if join is None else f"'{join}' ties them to"
            )
            if gates and self._in_loop([name, *gates]):
                return Answer(f"{tie} {what}", "Close the same channels there.")
            both = "Close the same channels there, or put" if gates else "Put"
            place = "on all of them" if join is None else f"after '{join}'"
            return Answer(f"{tie} {what}", f"{both} one gate {place} instead.")
        return self._read(name, read)

    def _across_gathers(self, classes: NDArray[np.intp]) -> NDArray[np.intp]:
        """The same with what gathers make of them, and pick them from."""
        found = np.zeros(len(self.labelling.classes), bool)
        kept = self.decision.kept
        todo = classes
        while todo.size:
            found[todo] = True
            news = [
                below[found[above] & kept[below] & ~found[below]]
                for above, below in self._links[0].of(todo)
            ]
            todo = np.unique(np.concatenate([todo[:0], *news]))
        todo = np.flatnonzero(found)
        while todo.size:
            found[todo] = True
            news = [
                above[found[below] & ~found[above]]
                for above, below in self._links[1].of(todo)
            ]
            todo = np.unique(np.concatenate([todo[:0], *news]))
        return np.flatnonzero(found)

    @functools.cached_property
    def _links(self) -> tuple[ByClass[round_to.Link], ByClass[round_to.Link]]:
        """The gathers, by what they pick from, and by what they make."""
        links = round_to.selections(self.labelling)
        return (
            ByClass([(link, link.above) for link in links]),
            ByClass([(link, link.below) for link in links]),
        )

    def _with_role(self, role: str) -> list[tuple[Step, NDArray[np.intp]]]:
        """The steps with such a role, and the classes that have it there."""
        classes = self.labelling.classes
        return [
            (step, classes[step.flow.roles[role]])
            for step in self.labelling.steps
            if role in step.flow.roles
        ]

    @functools.cached_property
    def _by_gate(self) -> ByClass[Step]:
        """The gates of the model, by their channels."""
        return ByClass(
            [
                (step, classes)
                for step, classes in self._with_role("channel")
                if step.is_gate
                and step.position is None
                and not isinstance(step.call.op, VirtualGate)
            ]
        )

    @functools.cached_property
    def _by_maker(self) -> ByClass[Step]:
        """The steps that make channels, by these."""
        return ByClass(self._with_role("out"))

    @functools.cached_property
    def _by_merge(self) -> ByClass[Step]:
        """The steps that merge tensors, by the channels of their output."""
        return ByClass(
            [
                (step, self.labelling.classes[step.flow.labels[0]])
                for step in self.labelling.steps
                if step.rule.merging and len(step.inputs) > 1
            ]
        )

    @functools.cached_property
    def _producer(self) -> dict[Tensor, Step]:
        return {t: s for s in self.labelling.steps for t in s.outputs}

    def _read(self, name: str, classes: NDArray[np.intp]) -> Answer:
        """Who reads these channels, which all is closed of that makes them."""
        bars = self.bars.on(classes)
        why = few([str(bar) for bar in bars], "; ") or self._picking(classes)
        if Cause.CONSTANT in {bar.cause for bar in bars}:
            return Answer(
                why, "Pass exact=False, or put the gate right before it."
            )
        if self._in_loop([name]):
            return Answer(why, _STATES)
        uncut = self.decision.uncut
        if any(StepKey(s.site, 0) in uncut for s in self.steps[name]):
            why += "; a gather of the others would cost more than it saves"
        return Answer(
            why, "Put the gate before everything that reads the channels."
        )

    def _in_loop(self, names: list[str]) -> bool:
        """Whether any of some gates is inside a loop."""
        return any(
            step.rule.closes_loop
            for step in self.labelling.steps
            if step.path in names
        )

    def _picking(self, classes: NDArray[np.intp]) -> str:
        """Which gathers need the channels that they do not pick as well."""
        paths = [
            step.path
            for step, ids in self.decision.reads
            if step.is_selection
            and np.isin(self.labelling.classes[ids], classes).any()
        ]
        named = _quoted(list(dict.fromkeys(paths))) or "what follows"
        return f"a nested model needs the full width before {named}"

    def _gates(self, classes: NDArray[np.intp]) -> list[str]:
        """The gates of the model that have any of these channels."""
        return list(dict.fromkeys(s.path for s in self._by_gate.of(classes)))

    def _left_open(self, name: str, classes: NDArray[np.intp]) -> bool:
        """Whether a gate has open factors on any of these channels."""
        shut = self.solution.closed.get(name)
        for step in self._named[name]:
            ids = step.flow.roles.get("channel")
            if ids is None or not step.is_gate:
                continue
            here = np.isin(self.labelling.classes[ids], classes)
            if shut is None or (here & ~shut.reshape(-1)).any():
                return bool(here.any())
        return False

    @functools.cached_property
    def _named(self) -> dict[str, list[Step]]:
        """The steps by their path."""
        found: dict[str, list[Step]] = collections.defaultdict(list)
        for step in self.labelling.steps:
            found[step.path].append(step)
        return found

    def _makers(
        self, gates: list[str], classes: NDArray[np.intp]
    ) -> tuple[list[str], list[str]]:
        """Layers that make them too, and those of other calls.

        That is: not those whose output goes through these gates alone.
        """
        above = {step for name in gates for step in self._above(name)}
        ops = {id(step.call.op) for step in above}
        others: dict[str, None] = {}
        again: dict[str, None] = {}
        for step in self._by_maker.of(classes):
            if step not in above:
                found = again if id(step.call.op) in ops else others
                found[step.path] = None
        return list(others), list(again)

    def _above(self, name: str) -> set[Step]:
        """The steps that lead to a gate, down to where channels are made."""
        todo = [t for step in self.steps[name] for t in step.inputs]
        found: set[Step] = set()
        while todo:
            step = self._producer.get(todo.pop())
            if step is None or step in found:
                continue
            found.add(step)
            if not step.flow.mixes or "out" not in step.flow.roles:
                todo.extend(step.inputs)
        return found

    def _join(self, classes: NDArray[np.intp]) -> str | None:
        """The operation that ties these channels to others, or None."""
        found = self._by_merge.of(classes)
        return found[0].path if found else None


def not_followed(solution: Solution) -> list[Futile]:
    """Closed channels of gates that stand where none can be followed."""
    found: list[Futile] = []
    sources = solution.gates
    calls_of: IdentityDict[keras.Operation, list[Step]] = IdentityDict()
    for step in solution.labelling.steps:
        if step.is_gate:
            calls_of.setdefault(step.call.op, []).append(step)
    for name, mask in solution.closed.items():
        if not mask.ndim or not mask.any() or name in solution.graph.groups:
            continue
        steps = calls_of.get(sources[name].layer, [])
        followed = any("channel" in step.flow.roles for step in steps)
        present = solution.decision.present
        if followed or not any(step in present for step in steps):
            continue
        inside = _inside_units(solution, steps)
        why, remedy = inside or Answer(_kept(name, steps), _BEHIND)
        count = int(mask.sum())
        found.append(Futile(name, count, count, False, why, remedy, 0))
    return found


def _kept(name: str, steps: list[Step]) -> str:
    """Why nothing can be followed where a gate is."""
    reasons = [s.flow.reason for s in steps if s.flow.reason]
    return f"'{name}' keeps them whole: {reasons[0]}" if reasons else _WHOLE


def _inside_units(solution: Solution, steps: list[Step]) -> Answer | None:
    """What is said of a gate on what units hold, as on sizes of heads.

    Where queries, keys and values are made by one layer and reshaped at once,
    they have as many heads of the same size. The heads go.
    """
    labelling = solution.labelling
    for step in steps:
        labels = labelling.classes[labelling.labels[step.inputs[0]]]
        axes = lb.varying(lb.collapse(labels))
        closed = step.rule.axis(step.call) % labels.ndim
        if axes and closed not in axes and step.rule.along_axis(step.call):
            return Answer(
                f"along axis {axes[0]} there are units, such as heads, that "
                f"are removed as a whole, and axis {closed} is inside them",
                "Close whole units: a gate on that axis "
                f"(keras_gates.HeadGate(axis={axes[0]})), or heads by scores. "
                "Sizes inside heads can be removed if queries, keys and "
                "values have a layer each.",
            )
    return None


def _quoted(names: list[str]) -> str:
    return few([f"'{name}'" for name in names])
