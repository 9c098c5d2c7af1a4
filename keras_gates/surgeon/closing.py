"""From thresholds to closed gates; a budget is counted on the way."""

import warnings

import numpy as np

from keras_gates import thresholds as th
from keras_gates.surgeon import analysis
from keras_gates.surgeon import budget as bg
from keras_gates.surgeon import essential
from keras_gates.surgeon import latency
from keras_gates.surgeon import report
from keras_gates.surgeon import sizes
from keras_gates.surgeon import solve
from keras_gates.surgeon.rebuild import rebuild

# How many analyses a search may make: it takes some 0.5 ms for each call of
# the model, and 60 are enough where not all steps are large.
_ANALYSES, _MOST, _CALLS = 60, 240, 5000


def close(graph, gates, thresholds, keep_at_least=0, **options):
    """Decide which factors are closed.

    Args:
        graph: the `Graph` of the model.
        gates: the `Factors` that thresholds may speak of.
        thresholds: as in `plan`.
        keep_at_least: as in `plan`.
        **options: `exact` and `round_to`, as in `solve`.

    Returns:
        `(closed, notes)`: `{gate name: mask}`, and lines for the plan.

    Raises:
        TypeError, ValueError: as `plan`.
    """
    fixed, budget, members = th.part_budget(thresholds, gates)
    closed = th.resolve(fixed, gates, keep_at_least)
    wanted = th.resolve(fixed, gates)
    idle = {}
    if budget is not None:
        names = {gate.name for gate in members}
        others = {n: mask for n, mask in closed.items() if n not in names}
        floors = th.resolve(th.Quantile(1.0), gates, keep_at_least)
        held = {name: ~floors[name] for name in names}
        search = _Search(graph, budget, members, others, options)
        held, chosen, reached = search.find(held)
        idle = search.idle(chosen)
        closed |= {n: mask & ~idle[n] for n, mask in chosen.items()}
        wanted |= {n: mask & held[n] for n, mask in reached.items()}
    return closed, [
        *_notes("held open by keep_at_least", wanted, closed),
        *_notes("left open, since closing them removes nothing", idle, {}),
    ]


class _Search:
    """What a budget closes of its gates, beside others that are closed."""

    def __init__(self, graph, budget, members, others, options):
        self.graph = graph
        self.budget = budget
        self.members = members
        self.others = others
        self.options = options
        self.shapes = sizes.of(graph, budget.sizes)

    def solved(self, masks):
        """The `Solution` with these closed, too."""
        closed = {**self.others, **masks}
        return solve.solve(self.graph, closed, **self.options)

    def totals(self, masks):
        return report.totals(self.solved(masks), self.shapes)

    def find(self, held):
        """`(held, closed, wanted)`, masks by gate name.

        They are what stays open, what is closed, and what would be if
        nothing were held.
        """
        meet = self._timed if self.budget.of == "latency" else self._counted
        ask = meet()
        exact = self.options["exact"]
        severs = essential.severing(self.graph, exact, self.others)
        floor = self.budget.keep_at_least
        needed = essential.held_open(self.members, self.others, floor, severs)
        held = {name: m | needed.get(name, False) for name, m in held.items()}
        ranking = bg.Ranking.of(
            self.members, held, self.budget.normalize, self._ties()
        )
        chosen = ask(ranking)
        return held, ranking.closing(chosen), ranking.reached(chosen)

    def _ties(self):
        """For each gate with channels, the units that its factors close."""
        labelling = analysis.label(self.graph, selections=False)
        none = {g.name: np.zeros(g.values.shape, bool) for g in self.members}
        found = {}
        for name, _, own, at in solve.vectors(labelling, none):
            ties = found.setdefault(name, np.zeros(none[name].shape, int))
            ties[at] = own
        return found

    def _counted(self):
        """A function from a ranking to what is closed, by counts."""
        of, solution = self.budget.of, self.solved({})
        whole = report.totals(solution, self.shapes)[of][0]
        unknown = []
        if of == "macs":
            unknown = report.uncounted(solution, self.shapes)
        if not whole:
            raise ValueError(_nothing_counted(self.graph, of, unknown))
        if unknown:
            warnings.warn(_not_counted(self.budget, unknown), stacklevel=2)
        trials = _CALLS // max(1, len(self.graph.calls))
        trials = min(max(trials, _ANALYSES), _MOST)

        def cost(masks):
            return self.totals(masks)[of][1]

        return lambda ranking: bg.meet(
            self.budget, ranking, whole, cost, trials
        )

    def _timed(self):
        """The same by measurements of rebuilt models."""
        budget = self.budget

        def built(solution):
            return rebuild(solution.graph, solution.decision, solution.folds)

        whole = built(solve.solve(self.graph, {}, **self.options))
        clock = latency.clock(
            whole, budget.batch_size, budget.measure, budget.sizes
        )

        def ratio(masks):
            return clock.ratio(built(self.solved(masks)))

        def ask(ranking):
            chosen = bg.meet_time(budget, ranking, clock, ratio)
            before, after = self.totals(ranking.closing(chosen))["macs"]
            allowed = budget.limit(clock.whole) / clock.whole
            if after < bg.FAR_BELOW * min(allowed, 1.0) * before:
                share = after / before
                warnings.warn(_more_macs(budget, share, allowed), stacklevel=2)
            return chosen

        return ask

    def idle(self, closed):
        """Which of the closed factors remove nothing: `{name: mask}`."""
        before = self.solved(closed)
        counts = report.totals(before, self.shapes)
        idle = essential.idle(before, closed)
        if not any(mask.any() for mask in idle.values()):
            return {name: np.zeros_like(mask) for name, mask in closed.items()}

        def same(some):
            masks = {n: m & ~some.get(n, False) for n, m in closed.items()}
            return self.totals(masks) == counts

        if not same(idle):
            names = [n for n, mask in idle.items() if mask.any()]
            one_by_one = {n: idle[n] for n in names[:_ANALYSES]}
            idle = {n: m for n, m in one_by_one.items() if same({n: m})}
            idle = idle if same(idle) else {}
        return {
            name: idle.get(name, np.zeros_like(mask))
            for name, mask in closed.items()
        }


def _nothing_counted(graph, of, unknown):
    names = ", ".join(map(repr, unknown[:8])) or "no layer has a kernel"
    return (
        f"Model '{graph.model.name}' has no {bg.UNITS[of]} that can be "
        f"counted: {names}. Pass Budget(..., sizes=...) if the size of an "
        "input is unknown, register a rule with `costs` or `counts` for "
        "layers without one, or set a budget of params."
    )


def _not_counted(budget, unknown):
    names = ", ".join(map(repr, unknown[:8])) + ", ..." * (len(unknown) > 8)
    return (
        f"Budget({budget.of}={budget.amount!r}) counts nothing for "
        f"{len(unknown)} layers or operations: {names}. It is met by the rest "
        "of the model alone. If the size of an input is unknown, pass one to "
        "count at, as Budget(..., sizes=...); if they have no rule, register "
        "one with `costs` or `counts`, or set a budget of params."
    )


def _more_macs(budget, share, allowed):
    return (
        f"Budget(latency={budget.amount!r}) leaves {share:.1%} of the MACs to "
        f"come to {allowed:.1%} of the time: time hardly follows MACs here. "
        "What takes it may be the overhead of calls, not the channels; try a "
        "larger batch_size, or a budget of macs."
    )


def _notes(text, wanted, closed):
    """What is open although it is in `wanted`, by gate."""
    kept = {name: m & ~closed.get(name, False) for name, m in wanted.items()}
    parts = [
        f"'{name}' ({np.count_nonzero(mask)} of {mask.size})"
        for name, mask in kept.items()
        if mask.any()
    ]
    return [f"{text}: {', '.join(parts)}"] * bool(parts)
