"""Notes on what is closed and removes nothing: how much, why, what to do."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.bars import Bars
from keras_gates.surgeon.solving.bars import Cause
from keras_gates.surgeon.solving.bars import few
from keras_gates.surgeon.solving.bars import remedies
from keras_gates.surgeon.solving.bars import sizes
from keras_gates.surgeon.solving.bars import weight_roles

if TYPE_CHECKING:
    from keras_gates.layers.branch_gate import BranchGate
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.solving.solve import Solution

# How many notes a plan has on this.
_MOST = 5


@dataclasses.dataclass(frozen=True)
class Futile:
    """Closed factors of one gate that remove nothing, for one reason.

    Attributes:
        gate: the name of the gate, or of the group of channels.
        count: how many of its factors these are.
        closed: how many of its factors are closed.
        scalar: whether it is one factor for a whole tensor.
        why: what keeps the channels.
        remedy: what to do about it.
        parameters: how many would go with the channels.
    """

    gate: str
    count: int
    closed: int
    scalar: bool
    why: str
    remedy: str
    parameters: int

    @property
    def what(self) -> str:
        if self.scalar:
            return f"'{self.gate}'"
        if self.count == self.closed:
            every = f"all {self.count} channels"
            many = "the channel" if self.count == 1 else every
            return f"{many} closed by '{self.gate}'"
        return f"{self.count} of {self.closed} channels closed by '{self.gate}'"


def notes(solution: Solution) -> list[str]:
    """A line for each reason for which closed channels remove nothing."""
    found = find(solution)
    said = collections.defaultdict(list)
    for one in found:
        said[one.why, one.remedy].append(one)
    weights = {
        key: sum(one.parameters for one in every) for key, every in said.items()
    }
    lines = []
    for key in sorted(said, key=lambda key: -weights[key]):
        what = few([one.what for one in said[key]])
        why, remedy = key
        verb = "removes" if _single(said[key]) else "remove"
        lines.append(f"{what} {verb} nothing: {why}. {remedy}".rstrip())
    more = len(lines) - _MOST
    if more > 0:
        rest = sorted(said, key=lambda key: -weights[key])[_MOST:]
        names = few([f"'{one.gate}'" for key in rest for one in said[key]])
        lines[_MOST:] = [f"{more} more such notes, on {names}"]
    return lines


def _single(every: list[Futile]) -> bool:
    return len(every) == 1 and every[0].count == 1


def warn(solution: Solution, name: str) -> None:
    """Warn of a prune that closes channels and removes no parameter.

    Warns:
        UserWarning: all parameters are left, those of gates aside.
    """
    shut = sum(int(mask.sum()) for mask in solution.closed.values())
    decision = solution.decision
    if not shut or removable.parameters(decision) < removable.parameters(
        decision, before=True
    ):
        return
    said = " ".join(f"{line}" for line in notes(solution))
    if said:
        warnings.warn(
            f"Nothing of '{name}' was removed, although {shut} factors are "
            f"closed: {said}",
            stacklevel=3,
        )


def find(solution: Solution) -> list[Futile]:
    """All that is closed for nothing, as `Futile`s."""
    vain = {
        name: mask
        for name, mask in removable.in_vain(solution).items()
        if mask.any()
    }
    found = []
    if vain:
        # By the channels alone, gathers that no longer pay are not seen.
        vain = removable.spared(
            solution.graph,
            solution.closed,
            list(vain),
            once=True,
            exact=solution.decision.exact,
        )
    if vain:
        finder = _Finder(solution, vain)
        for name in vain:
            found += finder.of(name)
    return found + _not_followed(solution) + _scalars(solution)


class _Finder:
    """Finds the reasons of the factors in `vain`, and the remedies."""

    def __init__(
        self, solution: Solution, vain: dict[str, NDArray[np.bool_]]
    ) -> None:
        self.solution, self.vain = solution, vain
        self.decision, self.labelling = solution.decision, solution.labelling
        self.bars = Bars(self.decision)
        self.sizes = sizes(self.labelling)
        self._hard = self.bars.certain()
        self.steps = collections.defaultdict(list)
        self._at = collections.defaultdict(list)
        for name, step, at, classes in removable.places(solution):
            self.steps[name].append(step)
            self._at[name].append((at, classes))

    def of(self, name: str) -> list[Futile]:
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
        at: NDArray[np.int64],
        classes: NDArray[np.int64],
        why: str,
        remedy: str,
    ) -> Futile:
        closed = int(self.solution.closed[name].sum())
        weight = int(self.sizes[classes].sum())
        count = len(np.unique(at))
        return Futile(name, count, closed, False, why, remedy, weight)

    def _certain(
        self, name: str, classes: NDArray[np.int64]
    ) -> tuple[str, str]:
        """Why these stay whatever else is closed."""
        bars = self.bars.of(classes)
        causes = {bar.cause for bar in bars}
        soft = causes & {Cause.TOGETHER, Cause.FEEDBACK}
        loose = bool(soft) and name in self._loose
        hints = remedies(bars, loose)
        if Cause.FEEDBACK in causes and name not in self.solution.graph.groups:
            names = {b.layer for b in bars if b.cause == Cause.FEEDBACK}
            if names & self._scorable:
                hints.insert(0, _BY_SCORES)
            elif not loose:
                hints.append(_NO_FEEDBACK)
        return few([str(bar) for bar in bars], "; "), " ".join(hints)

    @functools.cached_property
    def _loose(self) -> set[str]:
        """The gates for which `exact=False` helps."""
        if not self.decision.exact:
            return set()
        graph, closed = self.solution.graph, self.solution.closed
        other = solve.solve(graph, closed, exact=False, check=False)
        left = removable.in_vain(other)
        return {n for n, mask in self.vain.items() if (mask & ~left[n]).any()}

    @functools.cached_property
    def _scorable(self) -> set[str]:
        """The groups of channels that scores can remove."""
        model = self.solution.graph.model
        try:
            exact = self.decision.exact
            return set(removable.offered(expand.read(model), exact).groups)
        except ValueError:
            return set()

    def _open(self, name: str, classes: NDArray[np.int64]) -> tuple[str, str]:
        """Where else these channels are made or read, and left open."""
        join, read = self._join(classes), classes
        classes = self._across_gathers(classes)
        if self._left_open(name, name, classes):
            return (
                f"channels that '{name}' leaves open are coupled to them, and "
                "go only with them",
                "Close coupled channels together.",
            )
        gates = [
            other
            for other in self._gates(classes)
            if other != name and self._left_open(other, name, classes)
        ]
        others, again = self._makers(name, classes)
        if again:
            return (
                f"{_quoted(again)} makes them in other calls, too, where they "
                "are open",
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
            both = "Close the same channels there, or put" if gates else "Put"
            place = "on all of them" if join is None else f"after '{join}'"
            return f"{tie} {what}", f"{both} one gate {place} instead."
        return self._read(name, read)

    def _across_gathers(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same with what gathers make of them, and pick them from."""
        found = np.zeros(len(self.labelling.classes), bool)
        found[classes] = True
        links = solve.selections(self.labelling)
        for above, below in links:
            found[below[found[above] & self.decision.kept[below]]] = True
        for above, below in reversed(links):
            found[above[found[below]]] = True
        return np.flatnonzero(found)

    def _read(self, name: str, classes: NDArray[np.int64]) -> tuple[str, str]:
        bars = self.bars.of(classes)
        why = few([str(bar) for bar in bars], "; ")
        if Cause.CONSTANT in {bar.cause for bar in bars}:
            return why, "Pass exact=False, or put the gate right before it."
        uncut = self.decision.uncut
        if any(StepKey(s.site, 0) in uncut for s in self.steps[name]):
            why += "; a gather of the others would cost more than it saves"
        return why, "Put the gate before all that reads the channels."

    def _gates(self, classes: NDArray[np.int64]) -> list[str]:
        """The gates of the model that have any of these channels."""
        found = {}
        for step in self.labelling.steps:
            ids = step.flow.roles.get("channel")
            if ids is None or not step.is_gate or step.position is not None:
                continue
            if np.isin(self.labelling.classes[ids], classes).any():
                found[step.path] = None
        return [path for path in found if not path.endswith("_scored")]

    def _left_open(
        self, other: str, name: str, classes: NDArray[np.int64]
    ) -> bool:
        """Whether a gate has open factors on any of these channels."""
        shut = self.solution.closed.get(other)
        for step in self.labelling.steps:
            ids = step.flow.roles.get("channel")
            if ids is None or step.path != other or not step.is_gate:
                continue
            here = np.isin(self.labelling.classes[ids], classes)
            if shut is None or (here & ~shut.reshape(-1)).any():
                return here.any()
        return False

    def _makers(
        self, name: str, classes: NDArray[np.int64]
    ) -> tuple[list[str], list[Any]]:
        """Layers that make them too, and those of other calls.

        That is: not those whose output goes through the gate alone.
        """
        above = self._above(name)
        ops = {id(step.call.op) for step in above}
        others, again = {}, {}
        for step in self.labelling.steps:
            ids = step.flow.roles.get("out")
            if ids is None or step in above:
                continue
            if np.isin(self.labelling.classes[ids], classes).any():
                found = again if id(step.call.op) in ops else others
                found[step.path] = None
        return list(others), list(again)

    def _above(self, name: str) -> set[Step]:
        """The steps that lead to a gate, down to where channels are made."""
        producer = {t: s for s in self.labelling.steps for t in s.outputs}
        todo = [t for step in self.steps[name] for t in step.inputs]
        found = set()
        while todo:
            step = producer.get(todo.pop())
            if step is None or step in found:
                continue
            found.add(step)
            if not step.flow.mixes or "out" not in step.flow.roles:
                todo.extend(step.inputs)
        return found

    def _join(self, classes: NDArray[np.int64]) -> str | None:
        """The operation that ties these channels to others, or None."""
        for step in self.labelling.steps:
            if not step.rule.merging or len(step.inputs) < 2:
                continue
            labels = self.labelling.classes[step.flow.labels[0]]
            if np.isin(labels, classes).any():
                return step.path
        return None


_BY_SCORES = (
    "Close its units by scores instead (keras_gates.surgeon.score): those go "
    "with their feedback."
)
_NO_FEEDBACK = (
    "A gate behind the layer does not stop the feedback: gate other layers."
)


_WHOLE = "what the gate is on is kept whole"
_BEHIND = "Put the gate right behind the layer that makes its channels."


def _quoted(names: list[str]) -> str:
    return few([f"'{name}'" for name in names])


def _not_followed(solution: Solution) -> list[Any]:
    """Closed channels of gates that stand where none can be followed."""
    found, sources = [], gates_of(solution.graph)
    for name, mask in solution.closed.items():
        if not mask.ndim or not mask.any() or name in solution.graph.groups:
            continue
        layer = sources[name].layer
        steps = [
            step
            for step in solution.labelling.steps
            if step.call.op is layer and step.is_gate
        ]
        followed = any("channel" in step.flow.roles for step in steps)
        present = solution.decision.present
        if followed or not any(step in present for step in steps):
            continue
        reasons = [s.flow.reason for s in steps if s.flow.reason]
        why = f"'{name}' keeps them whole: {reasons[0]}" if reasons else _WHOLE
        count = int(mask.sum())
        found.append(Futile(name, count, count, False, why, _BEHIND, 0))
    return found


def _scalars(solution: Solution) -> list[Any]:
    """Closed gates of one factor whose branch stays all the same."""
    found = []
    sources = gates_of(solution.graph)
    for name, mask in solution.closed.items():
        if mask.ndim or not mask.any() or name not in sources:
            continue
        reader = _kept_branch(solution, sources[name].layer)
        if reader is None:
            continue
        closed = {**solution.closed, name: np.zeros_like(mask)}
        exact = solution.decision.exact
        other = solve.solve(solution.graph, closed, exact=exact, check=False)
        left = [removable.parameters(s.decision) for s in (solution, other)]
        if left[0] == left[1]:
            found.append(Futile(name, 1, 1, True, *reader, 0))
    return found


def _kept_branch(solution: Solution, layer: BranchGate) -> None:
    """Why the branch of a scalar gate stays, and a remedy; None if it goes."""
    decision, labelling = solution.decision, solution.labelling
    producer = {t: s for s in labelling.steps for t in s.outputs}
    steps = [s for s in labelling.steps if s.call.op is layer]
    todo, makers, readers = [t for s in steps for t in s.inputs], {}, {}
    while todo:
        tensor = todo.pop()
        if tensor in labelling.graph.outputs:
            readers["the model's outputs"] = None
        for call in tensor.consumers:
            if call.op is not layer:
                readers[f"'{call.path}'"] = None
        step = producer.get(tensor)
        if step is None:
            continue
        if weight_roles(step):
            makers[step] = None
        else:
            todo.extend(step.inputs)
    if not makers:
        return "no layer with weights is on its branch", ""
    if not all(step in decision.present for step in makers):
        return None
    names = few([f"'{step.path}'" for step in makers])
    whom = few(readers) or "other layers"
    return (
        f"{names} stays for {whom}",
        "Gate a branch of which nothing else is read.",
    )
