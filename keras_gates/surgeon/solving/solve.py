"""From closed gates to a decision: checks and iterations of `decide`."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.passes import decide
from keras_gates.surgeon.passes import fold
from keras_gates.surgeon.passes import influence
from keras_gates.surgeon.passes import worth
from keras_gates.surgeon.rules import inner_units as iu
from keras_gates.surgeon.rules.reach import VALUES
from keras_gates.surgeon.rules.virtual import VirtualGate
from keras_gates.surgeon.solving.round_to import reopened
from keras_gates.surgeon.solving.trials import Trials

if TYPE_CHECKING:
    from collections.abc import Mapping

    import keras

    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.gates.groups import Group
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.source import Source
    from keras_gates.surgeon.solving.returns import Return


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Everything that the rebuild and the report need.

    Attributes:
        graph: the `Graph` that was solved.
        closed: `{name of a gate or group: mask}` of the factors that are
            closed after all, bool, shaped like the factors.
        decision: what stays.
        trials: what it was solved with, for trials of others.
        returns: how layers that were seen through come back; those that are
            not named are written out.
    """

    graph: Graph
    closed: dict[str, NDArray[np.bool_]]
    decision: Decision
    trials: Trials
    returns: tuple[Return, ...] = ()

    @functools.cached_property
    def folds(self) -> Folds:
        """Where the factors of open gates go, by the weights as they are."""
        return fold.fold(self.decision)

    @property
    def gates(self) -> Mapping[str, Group | Source]:
        """The gates and groups of the graph, by name."""
        return self.trials.gates

    @property
    def labelling(self) -> Labelling:
        return self.decision.labelling


def solve(
    graph: Graph,
    closed: Mapping[str, NDArray[np.bool_]],
    exact: bool = True,
    round_to: int = 1,
    check: bool = True,
    trials: Trials | None = None,
    uncut: frozenset[StepKey] = frozenset(),
) -> Solution:
    """Find what stays when the gates in `closed` are zero.

    Args:
        graph: the `Graph` of the model.
        closed: `{gate name: boolean array}`.
        exact: whether to make only exact removals.
        round_to: a multiple that the channels of cut layers are kept to,
            by opening the largest of the closed gates again.
        check: whether to refuse what produces an output constant; a trial that
            builds nothing need not.
        trials: what remembers other trials of the graph, for a search.
        uncut: what is known not to be worth its cost, as in `Decision`.

    Returns:
        A `Solution`, whose `closed` says which gates are closed after all.

    Raises:
        ValueError: an output would no longer depend on the inputs.
    """
    closed = {name: mask.copy() for name, mask in closed.items()}
    trials = Trials(graph) if trials is None else trials
    decision = _settle(trials, closed, exact, check, uncut)
    while round_to > 1:  # each round opens a gate at least
        opened = reopened(decision, closed, round_to)
        if opened is None:
            break
        closed = opened
        decision = _settle(trials, closed, exact, check, uncut)
    return Solution(graph, closed, decision, trials)


def _settle(
    trials: Trials,
    closed: dict[str, NDArray[np.bool_]],
    exact: bool,
    check: bool = True,
    uncut: frozenset[StepKey] = frozenset(),
) -> Decision:
    """Decide, and do without what is not worth its cost."""
    by_op = trials.by_layer(closed)
    while True:
        labelling = trials.labelling(uncut)
        values = trials.constants(uncut, by_op, exact)
        if check and not uncut:
            _check_outputs(labelling, values, by_op)
        decision = decide.decide(labelling, values, exact, by_op, uncut)
        poor = worth.poor(decision) - uncut
        if not poor:
            return decision
        uncut |= poor


def _check_outputs(
    labelling: Labelling,
    values: dict[Tensor, Known],
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
) -> None:
    """Refuse to make an output constant, and name the gates that would.

    An output that its data no longer get to is taken for constant, whatever
    a mask still does to it.
    """
    if not any(mask.any() for mask in closed.values()):
        return
    now = influence.levels(labelling, values)
    graph = labelling.graph
    before = None
    for number, tensor in enumerate(graph.outputs):
        if influence.best(now, tensor) == VALUES:
            continue
        if before is None:
            before = influence.levels(labelling, {})
        level = influence.best(before, tensor)
        if influence.best(now, tensor) == level:
            continue
        varying = {t for t in now if influence.best(now, t) == level}
        gates = _culprits(labelling, varying, tensor, closed)
        name = graph.functional.output_names[number]
        floor = any(_has_floor(graph, each) for each in gates.items())
        scored = all(name in graph.groups for name in gates)
        # Of a group, those that are read elsewhere may be open.
        shut, around = "a completely closed gate:", "the gate"
        if gates and scored:
            shut, around = "closed channels of", "their layers"
        remedy = "pass keep_at_least=1 or more, " if floor else ""
        raise ValueError(
            f"With these thresholds output {number} ('{name}') no longer "
            f"depends on {_what(now, tensor)}: every path to it passes "
            f"through {shut} {', '.join(map(repr, sorted(gates)))}. Lower the "
            "threshold of one of them (thresholds takes a dict by name), "
            f"{remedy}or add a shortcut around {around}."
        )


def _has_floor(graph: Graph, each: tuple[str, Step]) -> bool:
    """Whether a floor for what has this name would keep a path open."""
    name, step = each
    op, group = step.call.op, graph.groups.get(name)
    if isinstance(op, VirtualGate) and group is not None:
        # A floor holds for all channels of a group, wherever they are read.
        return set(range(group.start, group.stop)) <= set(op.units.tolist())
    # Scalar gates have no channels to keep.
    inner = step.rule.inner_units(step.call)
    return "channel" in step.flow.roles or bool(inner)


def _what(now: dict[Tensor, NDArray[np.int64]], tensor: Tensor) -> str:
    """What an output is cut off from."""
    if influence.best(now, tensor):
        return (
            "the values of the model's inputs, only on masks, conditions or "
            "indices made of them"
        )
    return "the model's inputs"


def _names(graph: Graph, step: Step, shut: NDArray[np.bool_]) -> list[str]:
    """What closes a step: a gate, groups of channels, or units inside it."""
    if isinstance(step.call.op, VirtualGate):
        units = step.call.op.units
        return [
            name
            for name, group in graph.groups.items()
            if groups.members(group, units).mask.any()
        ]
    inner = step.rule.inner_units(step.call)
    each = iu.split(inner, step.flow.roles, shut)
    names = [
        f"{step.path}/{units.name}" for units in inner if each[units.role].all()
    ]
    return [name for name in names if name in graph.groups] or [step.path]


def _culprits(
    labelling: Labelling,
    varying: set[Tensor],
    tensor: Tensor,
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
) -> dict[str, Step]:
    """The closed gates at which the paths to `tensor` end, by path."""
    producer = {t: s for s in labelling.steps for t in s.outputs}
    found, todo, seen = {}, [tensor], set()
    while todo:
        tensor = todo.pop()
        step = producer.get(tensor)
        if step is None or tensor in seen or tensor in varying:
            continue
        seen.add(tensor)
        shut = closed.get(step.call.op) if step.position is None else None
        if shut is not None and shut.any() and step.inputs[0] in varying:
            for name in _names(labelling.graph, step, shut):
                found[name] = step
            continue
        todo.extend(step.inputs)
    return found
