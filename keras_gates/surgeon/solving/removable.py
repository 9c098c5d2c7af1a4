"""Closed channels that remove nothing, in one solution or in any."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.rules.virtual import VirtualGate
from keras_gates.surgeon.solving import essential
from keras_gates.surgeon.solving import round_to
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.bars import Bars
from keras_gates.surgeon.solving.bars import Cause
from keras_gates.surgeon.solving.bars import few
from keras_gates.surgeon.solving.bars import remedies
from keras_gates.surgeon.solving.bars import sizes
from keras_gates.surgeon.solving.bars import weight_roles
from keras_gates.surgeon.solving.plain import reads_plainly
from keras_gates.surgeon.solving.trials import Trials
from keras_gates.thresholds import Factors

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.solving.bars import Bar
    from keras_gates.surgeon.solving.solve import Solution

# How many trial solutions a search for factors to spare may take.
_TRIES = 24
# What is closed, or in vain, or may be opened, by the names of gates.
Masks = dict[str, NDArray[np.bool_]]


class FactorPlaces(NamedTuple):
    """Where the channels of a vector of factors are, at one step.

    Attributes:
        name: the gate, or the group of channels.
        step: the gate's step, or that of a virtual gate of the group.
        at: the place of each channel among the factors; int, `(channels,)`.
        classes: the class of its unit; int, `(channels,)`.
    """

    name: str
    step: Step
    at: NDArray[np.intp]
    classes: NDArray[np.intp]


def in_vain(solution: Solution) -> Masks:
    """The closed factors of each vector of factors that remove nothing.

    A channel that stays as the constant of those that went, or to carry what
    they are after a normalization, does not count: it is what they cost.

    Returns:
        `{name: mask}` of the gates and groups in `solution.closed` whose
        factors are one for each channel.
    """
    useful = _useful(solution.decision)
    found: Masks = {}
    for name, step, at, classes in places(solution):
        shut = solution.closed[name]
        vain = found.setdefault(name, shut.reshape(-1).copy())
        if step in solution.decision.present:
            at = at[useful[classes]]
        vain[at] = False
    return {
        name: mask.reshape(solution.closed[name].shape)
        for name, mask in found.items()
    }


def _useful(decision: Decision) -> NDArray[np.bool_]:
    """Marks the classes that are gone, for one reader at least."""
    labelling = decision.labelling
    classes = labelling.classes
    held = np.zeros(len(classes), bool)
    held[classes[lb.FIXED]] = True
    for pin in labelling.pinned:
        held[classes[pin.ids]] = True
    for _, ids in decision.reads + decision.recalls:
        held[classes[ids]] = True
    useful = ~decision.kept | ~held | decision.carriers
    # After a gather a channel has a class of its own.
    gathers = [step for step in labelling.steps if step.is_selection]
    links = zip(gathers, round_to.selections(labelling), strict=True)
    for step, (above, below) in reversed(list(links)):
        if not _is_idle(decision, step):
            np.logical_or.at(useful, above, useful[below])
    return useful


def _is_idle(decision: Decision, step: Step) -> bool:
    """Whether a step is there, and nothing depends on what it puts out.

    That is an output of a nested model of which no call is read: its channels
    are not kept whatever is closed.
    """
    demand = [decision.demand.get(tensor) for tensor in step.outputs]
    read = any(mask is not None and mask.any() for mask in demand)
    return step in decision.present and not read


def places(solution: Solution) -> Iterator[FactorPlaces]:
    """The `FactorPlaces` of all that is closed channel by channel."""
    graph, labelling = solution.graph, solution.labelling
    sources = solution.gates
    names: IdentityDict[keras.Operation, str] = IdentityDict(
        (sources[name].layer, name)
        for name in solution.closed
        if name in sources and name not in graph.groups
    )
    grouped = [name for name in graph.groups if name in solution.closed]
    holder = _holders(graph, grouped)
    for step in labelling.steps:
        if step.is_selection:
            continue
        gate = names.get(step.call.op)
        yield from _inside(solution, step, gate, grouped)
        ids = step.flow.roles.get("channel")
        if ids is None:
            continue
        own = labelling.classes[ids]
        if gate is not None and own.size == solution.closed[gate].size:
            yield FactorPlaces(gate, step, np.arange(own.size), own)
        if not isinstance(step.call.op, VirtualGate):
            continue
        units = step.call.op.units
        holders = np.where(units < 0, -1, holder[units])
        for number in np.unique(holders[holders >= 0]):
            here, name = holders == number, grouped[number]
            at = units[here] - graph.groups[name].start
            yield FactorPlaces(name, step, at, own[here])


def _inside(
    solution: Solution, step: Step, gate: str | None, grouped: list[str]
) -> Iterator[FactorPlaces]:
    """The `FactorPlaces` of what is closed inside a layer, as heads are."""
    classes, roles = solution.labelling.classes, step.flow.roles
    inner = step.rule.inner_units(step.call)
    if gate is not None and inner:
        own = classes[roles[inner[0].role]]
        yield FactorPlaces(gate, step, np.arange(own.size), own)
    for name, at, own in groups.inner_places(
        solution.graph, step, classes, grouped
    ):
        yield FactorPlaces(name, step, at, own)


def _holders(graph: Graph, names: list[str]) -> NDArray[np.intp]:
    """For each unit of a graph, which of these groups it is in; -1 for none."""
    found = np.full(groups.size(graph) + 1, -1)
    for number, name in enumerate(names):
        group = graph.groups[name]
        found[group.start : group.start + group.units.size] = number
    return found


def never(
    graph: Graph,
    names: Iterable[str],
    closed: Mapping[str, NDArray[np.bool_]] | None = None,
    exact: bool = True,
    wholly: bool = False,
    trials: Trials | None = None,
) -> Masks:
    """The factors that remove nothing, whatever else is closed.

    All gates are closed but for one factor of each, so that everything goes
    that ever can; then again with other ones left open, since what is left
    open keeps what it is tied to; and then with whole gates closed.

    Args:
        graph: the `Graph` of a model, with virtual gates where names speak
            of groups.
        names: the gates and groups that may be closed.
        closed: `{name: mask}` of others that are closed anyway.
        exact: as in `solve`.
        wholly: whether to ask only for those of which no factor removes
            anything; fewer trials can tell.
        trials: what remembers other trials of the graph, for a search.

    Returns:
        `{name: mask}` of those in `names` with more than one factor.
    """
    search = Trials(graph) if trials is None else trials
    shapes = {name: search.gates[name].shape for name in names}
    vectors = {n: s for n, s in shapes.items() if len(s) == 1 and s[0] > 1}
    found = {name: np.ones(shape, bool) for name, shape in vectors.items()}
    drawn = _trials(search, vectors, closed or {}, exact)
    for number, masks in enumerate(drawn):
        every = {**(closed or {}), **masks}
        solution = solve.solve(
            graph, every, exact=exact, check=False, trials=search
        )
        for name, vain in in_vain(solution).items():
            if name not in found or not found[name].any():
                continue
            if number < _ALONE or _goes_by(search, every, name, solution):
                found[name] &= vain | ~masks[name]
        # Further trials can only clear more factors.
        settled = np.all if wholly else np.any
        if not any(settled(vain) for vain in found.values()):
            break
    return found


def _goes_by(
    search: Trials,
    closed: Mapping[str, NDArray[np.bool_]],
    name: str,
    solution: Solution,
) -> bool:
    """Whether a gate removes anything where all others are closed as well.

    There, all of a branch may go, whatever this gate does.
    """
    opened = {**closed, name: np.zeros_like(closed[name])}
    other = solve.solve(
        search.graph,
        opened,
        exact=solution.decision.exact,
        check=False,
        trials=search,
    )
    least = parameters(solution.decision)
    return parameters(other.decision) > least


# Before this trial one factor of each gate is open.
_ALONE = 2


def _trials(
    search: Trials,
    shapes: Mapping[str, tuple[int, ...]],
    closed: Mapping[str, NDArray[np.bool_]],
    exact: bool,
) -> Iterator[Masks]:
    """`{name: mask}`, three times: what is closed of all vectors of factors.

    One factor of each stays open, then another one; and then none but what
    the outputs can't do without, since a branch may go as a whole alone.
    """
    for left_open in (0, -1):
        masks = {name: np.ones(shape, bool) for name, shape in shapes.items()}
        for mask in masks.values():
            mask[left_open] = False
        yield masks
    gates = [
        Factors(name, "filter", np.ones(shape))
        for name, shape in shapes.items()
    ]
    severs = essential.Severing(search.graph, exact, closed, search)
    held = essential.held_open(gates, closed, 1, severs)
    yield {
        name: ~held.get(name, np.zeros(shape, bool))
        for name, shape in shapes.items()
    }


def reasons(
    graph: Graph, names: Collection[str], exact: bool = True
) -> dict[str, str]:
    """What bars the channels of some gates that remove nothing, in words.

    Args:
        graph: as in `never`.
        names: the gates, or groups, in question.
        exact: as in `solve`.

    Returns:
        `{name: text}`.
    """
    if not names:
        return {}
    sources = gates_of(graph)
    closed = {name: np.arange(sources[name].shape[0]) > 0 for name in names}
    solution = solve.solve(graph, closed, exact=exact, check=False)
    bars = Bars(solution.decision)
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    for name, _, at, classes in places(solution):
        kept = np.unique(classes[closed[name][at]])
        found[name] |= dict.fromkeys(map(str, bars.on(kept)))
    return {name: few(texts, "; ") for name, texts in found.items()}


def parameters(decision: Decision, before: bool = False) -> int:
    """How many parameters are left (or were before), gates aside."""
    total = 0
    seen: IdentityDict[keras.Operation, None] = IdentityDict()
    for step in decision.labelling.steps:
        here = before or step in decision.present
        if step.call.op in seen or step.is_selection or not here:
            continue
        seen[step.call.op] = None
        kept = {
            role: len(ids) if before else int(decision.mask(ids).sum())
            for role, ids in step.flow.roles.items()
        }
        for shape, roles in weight_roles(step):
            sizes = list(shape)
            for axis, role in enumerate(roles, len(shape) - len(roles)):
                if role is not None:
                    sizes[axis] = kept.get(role, sizes[axis])
            total += math.prod(sizes)
    return total


def is_smaller(decision: Decision) -> bool:
    """Whether any parameter is gone, those of gates aside."""
    for step in decision.steps():
        units = step.flow.roles.items()
        cut = {role for role, ids in units if not decision.mask(ids).all()}
        if cut and any(cut & set(roles) for _, roles in weight_roles(step)):
            return True
    return parameters(decision) < parameters(decision, before=True)


def offered(graph: Graph, exact: bool = True) -> Groups:
    """The `Groups` of a graph without those whose closing removes nothing.

    Args:
        graph: the `Graph` of a model, freshly read. It gets virtual gates,
            where the closing has to be tried.
        exact: as in `solve`.

    Raises:
        ValueError: there is no other group; it names what bars.
    """
    every = groups.find(graph, exact)
    if every.groups and reads_plainly(every.labelling, exact):
        return every
    groups.insert(graph, every)
    vain = never(graph, graph.groups, exact=exact, wholly=True)
    left = {
        name: group
        for name, group in every.groups.items()
        if not vain.get(name, np.zeros(1, bool)).all()
    }
    if not left:
        raise ValueError(no_channel(graph, exact))
    return dataclasses.replace(every, groups=left)


def _any_goes(graph: Graph) -> bool:
    """Whether `exact=False` removes any group of a freshly read graph."""
    groups.insert(graph, groups.find(graph, exact=False))
    vain = never(graph, graph.groups, exact=False, wholly=True)
    return any(
        not vain.get(name, np.zeros(1, bool)).all() for name in graph.groups
    )


def barriers(graph: Graph, exact: bool = True) -> dict[Bar, int]:
    """What keeps channels although all that can be closed is closed.

    Args:
        graph: a `Graph` with its gates, virtual ones included.
        exact: as in `solve`.

    Returns:
        `{Bar: parameters that it keeps}`, the most first, outputs last.
    """
    closed = {
        name: np.ones(s.shape, bool) for name, s in gates_of(graph).items()
    }
    for mask in closed.values():
        mask.reshape(-1)[:1] = False
    solution = solve.solve(graph, closed, exact=exact, check=False)
    decision, labelling = solution.decision, solution.labelling
    bars, weighs = Bars(decision), sizes(labelling)
    useful = _useful(decision)
    found: collections.Counter[Bar] = collections.Counter()
    for step in labelling.steps:
        ids = step.flow.roles.get("out")
        whole = bars.of_step(step)
        if whole is not None:
            found[whole] += _own(step)
        if ids is None:
            continue
        own = np.unique(labelling.classes[ids])
        own = own[~useful[own]]
        for bar in bars.on(own) if own.size else ():
            found[bar] += int(weighs[own].sum())
    last = {Cause.OUTPUT: 1}
    order = sorted(found, key=lambda b: (last.get(b.cause, 0), -found[b]))
    return {bar: found[bar] for bar in order}


def _own(step: Step) -> int:
    """The parameters of a step's own layer."""
    if not isinstance(step.call.op, keras.Layer):
        return 0
    return sum(math.prod(w.shape) for w in step.call.op.weights)


def no_channel(graph: Graph, exact: bool) -> str:
    """Why no channel of a model can be removed, in words."""
    found = barriers(graph, exact)
    name = graph.model.name
    inside = [bar for bar in found if bar.cause != Cause.OUTPUT]
    if not found:
        return (
            f"No channel of '{name}' can be removed: none of its layers has "
            "channels of its own, as Dense layers and convolutions have."
        )
    if not inside:
        outputs = few([f"'{bar.layer}' ({bar.kind})" for bar in found])
        return (
            f"No channel of '{name}' can be removed: the channels of "
            f"{outputs} are outputs of the model, and stay; no other layer "
            "has channels of its own. Put a layer before it whose channels "
            "may go."
        )
    loose = exact and _any_goes(expand.read(graph.model, like=graph))
    said = few([str(bar) for bar in inside], "; ")
    return (
        f"No channel of '{name}' can be removed. What prevents it, most "
        f"parameters first: {said}. {' '.join(remedies(inside, loose))}"
    ).rstrip()


def spared(
    graph: Graph,
    closed: Mapping[str, NDArray[np.bool_]],
    names: Collection[str],
    once: bool = False,
    trials: Trials | None = None,
    solution: Solution | None = None,
    **options: Any,
) -> Masks:
    """Closed factors that may as well stay open: nothing more is left then.

    A channel that is tied to an open one goes with it alone. Closing it by
    itself changes the function and saves nothing.

    Args:
        graph: the `Graph` of a model.
        closed: `{name: mask}` of all that is closed.
        names: the gates that may be opened again.
        once: whether to leave it at what is in vain now; else also what is
            once that is open.
        trials: what remembers other trials of the graph, for a search.
        solution: that of `closed`, if it is known.
        **options: as in `solve`.

    Returns:
        `{name: mask}` of those in `names` that have any. They are looked for
        together, then in halves: which gathers pay depends on all of them.
    """
    spare: Masks = {name: np.zeros_like(closed[name]) for name in names}
    search = Trials(graph) if trials is None else trials
    tries = _TRIES

    def solved(
        masks: Masks, uncut: frozenset[StepKey] = frozenset()
    ) -> Solution:
        return solve.solve(
            graph, masks, check=False, trials=search, uncut=uncut, **options
        )

    while tries:
        opened = _without(closed, spare)
        if solution is None:
            solution = solved(opened)
        vain = in_vain(solution)
        found = {n: vain[n] for n in names if n in vain and vain[n].any()}
        least, todo = parameters(solution.decision), [found]
        # A gather that was not worth its cost is not with more channels open.
        uncut, solution = solution.decision.uncut, None
        more: Masks = {}
        while found and todo and tries:
            part, tries = todo.pop(), tries - 1
            both = _united(more, part)
            trial = _without(opened, both)
            other = solved(trial, uncut)
            if parameters(other.decision) <= least:
                more = both
            else:
                todo += _halves(part)
        spare = _united(spare, more)
        if once or not any(mask.any() for mask in more.values()):
            break
    return {name: mask for name, mask in spare.items() if mask.any()}


def _without(
    closed: Mapping[str, NDArray[np.bool_]],
    opened: Mapping[str, NDArray[np.bool_]],
) -> Masks:
    return {
        name: mask & ~opened[name] if name in opened else mask
        for name, mask in closed.items()
    }


def _united(masks: Masks, others: Masks) -> Masks:
    """What either of two has."""
    found = masks | others
    for name in masks.keys() & others.keys():
        found[name] = masks[name] | others[name]
    return found


def _halves(masks: Masks) -> list[Masks]:
    """Two parts of some masks; none where there is but one factor left."""
    marks = [(n, i) for n, mask in masks.items() for i in np.flatnonzero(mask)]
    if len(marks) < 2:
        return []
    parts = []
    for some in (marks[len(marks) // 2 :], marks[: len(marks) // 2]):
        part = {name: np.zeros_like(mask) for name, mask in masks.items()}
        for name, place in some:
            part[name].reshape(-1)[place] = True
        parts.append(part)
    return parts
