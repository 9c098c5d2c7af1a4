"""From thresholds to closed gates, including budgets."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import thresholds as th
from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.build.rebuild import rebuild
from keras_gates.surgeon.closing import latency
from keras_gates.surgeon.closing import ranking as bg
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.report import table
from keras_gates.surgeon.report.row_memo import RowMemo
from keras_gates.surgeon.solving import essential
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.round_to import vectors
from keras_gates.surgeon.solving.trials import Trials
from keras_gates.thresholds.resolve import part_budget
from keras_gates.thresholds.resolve import resolve
from keras_gates.thresholds.rule import KINDS

if TYPE_CHECKING:
    from typing import TypeAlias

    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.closing.options import Floors
    from keras_gates.surgeon.closing.options import Options
    from keras_gates.surgeon.closing.options import Thresholds
    from keras_gates.surgeon.solving.solve import Solution
    from keras_gates.thresholds.budget import Budget
    from keras_gates.thresholds.rule import Factors

    Mask: TypeAlias = NDArray[np.bool_]
    Masks: TypeAlias = dict[str, Mask]
    Ask: TypeAlias = Callable[[bg.Ranking], NDArray[np.intp]]

# How many analyses a search may make: it takes some 0.5 ms for each call of
# the model, and 60 are enough where not all steps are large.
_ANALYSES, _MOST, _CALLS = 60, 240, 5000


def close(
    graph: Graph,
    gates: list[Factors],
    thresholds: Thresholds,
    keep_at_least: Floors,
    options: Options,
) -> tuple[Masks, list[str]]:
    """Decide which factors are closed.

    Args:
        graph: the `Graph` of the model.
        gates: the `Factors` that thresholds may apply to.
        thresholds: as in `plan`.
        keep_at_least: as in `plan`.
        options: the `Options`; `exact` and `round_to` matter here.

    Returns:
        `(closed, notes)`: `{gate name: mask}`, and lines for the plan.

    Raises:
        TypeError, ValueError: as `plan`.
    """
    fixed, budget, members = part_budget(thresholds, gates)
    closed = resolve(fixed, gates, keep_at_least)
    wanted = resolve(fixed, gates)
    unused = _unused(thresholds, gates)
    if budget is None:
        return closed, [*unused, *_notes(wanted, closed)]
    names = {gate.name for gate in members}
    others = {n: mask for n, mask in closed.items() if n not in names}
    floors = resolve(th.Quantile(1.0), gates, keep_at_least)
    search = _Search(graph, budget, members, others, options)
    trials = search.trials
    vain = removable.never(graph, names, others, options.exact, trials=trials)
    held = {name: _either(~floors[name], vain.get(name)) for name in names}
    chosen = search.find(held)
    closed |= chosen.closed
    wanted |= {
        name: mask & chosen.held[name] | chosen.closed[name]
        for name, mask in chosen.reached.items()
    }
    spared = removable.spared(
        graph,
        closed,
        names,
        exact=options.exact,
        round_to=options.round_to,
        trials=trials,
    )
    closed |= {name: closed[name] & ~spared[name] for name in spared}
    for name, mask in vain.items():
        spared[name] = _either(mask, spared.get(name))
    which = "keep_at_least or " * bool(keep_at_least) + "keep_essential"
    notes = _budget_notes(wanted, closed, spared, which)
    return closed, [*unused, *search.notes, *notes]


def _either(mask: Mask, other: Mask | None) -> Mask:
    return mask if other is None else mask | other


class Chosen(NamedTuple):
    """The factors that a budget closes, as masks by gate name.

    Attributes:
        held: what always stays open.
        closed: what is closed.
        reached: what would be closed if nothing were held.
    """

    held: Masks
    closed: Masks
    reached: Masks


class _Search:
    """What a budget closes, in addition to other closed gates."""

    def __init__(
        self,
        graph: Graph,
        budget: Budget,
        members: list[Factors],
        others: Masks,
        options: Options,
    ) -> None:
        self.graph = graph
        self.budget = budget
        self.members = members
        self.others = others
        self.options = options
        self.shapes = shapes_of(graph, budget.sizes)
        self.trials = Trials(graph)
        self.rows = RowMemo()
        self.notes: list[str] = []  # for the plan, on what was found

    def solved(self, masks: Masks) -> Solution:
        """The `Solution` with these closed, too."""
        return self._solve({**self.others, **masks})

    def _solve(self, closed: Masks, check: bool = True) -> Solution:
        options = self.options
        return solve.solve(
            self.graph,
            closed,
            options.exact,
            options.round_to,
            check=check,
            trials=self.trials,
        )

    def totals(self, masks: Masks) -> dict[str, tuple[int, int]]:
        # What must stay open does; and what is chosen is checked.
        solution = self._solve({**self.others, **masks}, check=False)
        return table.totals(solution, self.shapes, self.rows)

    def find(self, held: Masks) -> Chosen:
        """What to close, and what to hold open besides `held`."""
        meet = (
            self._timed if self.budget.resource == "latency" else self._counted
        )
        ask = meet()
        exact = self.options.exact
        severs = essential.Severing(self.graph, exact, self.others, self.trials)
        floor = self.budget.keep_essential
        needed = essential.held_open(self.members, self.others, floor, severs)
        held = {n: _either(mask, needed.get(n)) for n, mask in held.items()}
        ranking = bg.Ranking.from_gates(
            self.members, held, self.budget.normalize, self._ties()
        )
        chosen = ask(ranking)
        return Chosen(held, ranking.closing(chosen), ranking.reached(chosen))

    def _ties(self) -> dict[str, NDArray[np.intp]]:
        """For each gate with channels, the units that its factors close."""
        labelling = label(self.graph, selections=False)
        none = {g.name: np.zeros(g.values.shape, bool) for g in self.members}
        found: dict[str, NDArray[np.intp]] = {}
        for name, _, classes, places in vectors(labelling, none):
            ties = found.setdefault(name, np.zeros(none[name].shape, np.intp))
            ties[places] = classes
        return found

    def _counted(self) -> Ask:
        """A function from a ranking to what is closed, by counts."""
        of, solution = self.budget.resource, self.solved({})
        whole = table.totals(solution, self.shapes, self.rows)[of][0]
        unknown: list[str] = []
        if of == "macs":
            unknown = table.uncounted(solution, self.shapes)
        if not whole:
            raise ValueError(_nothing_counted(self.graph, of, unknown))
        if unknown:
            warnings.warn(_not_counted(self.budget, unknown), stacklevel=2)
        trials = _CALLS // max(1, len(self.graph.calls))
        trials = min(max(trials, _ANALYSES), _MOST)

        def cost(masks: Masks) -> int:
            return self.totals(masks)[of][1]

        return lambda ranking: bg.meet(
            self.budget, ranking, whole, cost, trials
        )

    def _timed(self) -> Ask:
        """The same by measurements of rebuilt models."""
        budget = self.budget

        def built(solution: Solution) -> keras.Model:
            return rebuild(solution.graph, solution.decision, solution.folds)

        whole = built(self._solve({}))
        clock = latency.clock(
            whole, budget.batch_size, budget.measure, budget.sizes
        )

        def ratio(masks: Masks) -> float:
            return clock.ratio(built(self.solved(masks)))

        def ask(ranking: bg.Ranking) -> NDArray[np.intp]:
            chosen = bg.meet_time(budget, ranking, clock, ratio)
            before, after = self.totals(ranking.closing(chosen))["macs"]
            allowed = budget.limit(clock.whole) / clock.whole
            share, less = after / (before or 1), min(allowed, 1.0)
            told = _more_macs(budget, share, allowed)
            if share < bg.BELOW * less:
                self.notes.append(told)
            if share < bg.FAR_BELOW * less:
                warnings.warn(told, stacklevel=2)
            return chosen

        return ask


def _nothing_counted(graph: Graph, of: str, unknown: list[str]) -> str:
    names = ", ".join(map(repr, unknown[:8])) or "no layer has a kernel"
    return (
        f"Model '{graph.model.name}' has no {bg.UNITS[of]} that can be "
        f"counted: {names}. Pass Budget(..., sizes=...) if the size of an "
        "input is unknown, register a rule with `costs` or `counts` for "
        "layers without one, or set a budget of params."
    )


def _not_counted(budget: Budget, unknown: list[str]) -> str:
    names = ", ".join(map(repr, unknown[:8])) + ", ..." * (len(unknown) > 8)
    return (
        f"Budget({budget.resource}={budget.amount!r}) does not count "
        f"{len(unknown)} layers or operations: {names}. Only the rest of the "
        "model is counted. If the size of an input is unknown, pass it with "
        "Budget(..., sizes=...); if there is no rule, register one with "
        "`costs` or `counts`, or set a budget of params."
    )


def _more_macs(budget: Budget, share: float, allowed: float) -> str:
    return (
        f"Budget(latency={budget.amount!r}) leaves {share:.1%} of the MACs "
        f"for {allowed:.1%} of the time: time hardly depends on MACs here, "
        "probably because of the overhead of calls. Try a larger batch_size, "
        "or a budget of macs."
    )


def _budget_notes(
    wanted: Masks, closed: Masks, spared: Masks, floors: str
) -> list[str]:
    """Notes on what floors hold open, and what is left open as useless."""
    kept = {n: wanted[n] & spared[n] & ~closed[n] for n in spared}
    asked = {n: m & ~kept[n] if n in kept else m for n, m in wanted.items()}
    why = "closing these removes nothing, so the budget leaves them open"
    return [*_notes(asked, closed, floors), *_listed(why, kept)]


def _unused(thresholds: Thresholds, gates: list[Factors]) -> list[str]:
    """Notes on kinds in `thresholds` that no gate is of."""
    keys = thresholds if isinstance(thresholds, dict) else {}
    kinds = {gate.kind for gate in gates}
    return [
        f"thresholds[{key!r}] closes nothing: the model has no gates of this "
        "kind"
        for key in keys
        if key in KINDS and key not in kinds
    ]


def _notes(
    wanted: Masks, closed: Masks, floors: str = "keep_at_least"
) -> list[str]:
    """Factors that would be closed without floors."""
    kept = {name: wanted[name] & ~closed[name] for name in closed}
    return _listed(f"held open by {floors}", kept)


def _listed(what: str, masks: Masks) -> list[str]:
    """A note with the gates that have a factor in `masks`, if any."""
    parts = [
        f"'{name}' ({np.count_nonzero(mask):,} of {mask.size:,})"
        for name, mask in masks.items()
        if mask.any()
    ]
    return [f"{what}: {', '.join(parts)}"] * bool(parts)
