"""From thresholds to closed gates; a budget is counted on the way."""

import numpy as np

from keras_gates import thresholds as th
from keras_gates.surgeon import budget as bg
from keras_gates.surgeon import essential
from keras_gates.surgeon import latency
from keras_gates.surgeon import removable
from keras_gates.surgeon import report
from keras_gates.surgeon import solve
from keras_gates.surgeon.rebuild import rebuild


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
    if budget is not None:
        names = {gate.name for gate in members}
        others = {n: mask for n, mask in closed.items() if n not in names}
        floors = th.resolve(th.Quantile(1.0), gates, keep_at_least)
        held = {name: ~floors[name] for name in names}
        vain = removable.never(graph, names, others, options["exact"])
        free = {name: held[name] | vain.get(name, False) for name in held}
        ranking, chosen = _within(graph, budget, members, others, free, options)
        closed |= ranking.closing(chosen)
        wanted |= ranking.reached(chosen)
        spared = removable.spared(graph, closed, names, **options)
        closed |= {name: closed[name] & ~spared[name] for name in spared}
        for name, mask in vain.items():
            spared[name] = spared.get(name, False) | mask
        return closed, _budget_notes(wanted, closed, spared)
    return closed, _notes(wanted, closed)


def _within(graph, budget, members, others, held, options):
    """The ranking of a budget's gates, and what of it is closed."""
    price = _measured if budget.of == "latency" else _counted
    whole, cost = price(graph, budget, others, options)
    severs = essential.severing(graph, options["exact"])
    needed = essential.held_open(members, others, budget.keep_at_least, severs)
    held = {name: mask | needed.get(name, False) for name, mask in held.items()}
    ranking = bg.Ranking.of(members, held, budget.normalize)
    return ranking, bg.meet(budget, ranking, whole, cost)


def _counted(graph, budget, others, options):
    """What the model costs, and a function from masks to what is left."""

    def counts(masks):
        solution = solve.solve(graph, {**others, **masks}, **options)
        return report.totals(solution)[budget.of]

    whole, _ = counts({})
    if not whole:
        raise ValueError(
            f"Model '{graph.model.name}' has no {bg.UNITS[budget.of]} that "
            "can be counted: no layer has a kernel, or the size of an input "
            "is unknown. Give sizes in keras.Input, or set a budget of params."
        )
    return whole, lambda masks: counts(masks)[1]


def _measured(graph, budget, others, options):
    """The same for the time that the rebuilt model takes."""

    def milliseconds(masks):
        solution = solve.solve(graph, masks, **options)
        model = rebuild(solution.graph, solution.decision, solution.folds)
        return latency.milliseconds(model, budget.batch_size)

    return milliseconds({}), lambda masks: milliseconds({**others, **masks})


def _budget_notes(wanted, closed, spared):
    """What floors hold open, and what is left open for want of a use."""
    kept = {n: wanted[n] & spared[n] & ~closed[n] for n in spared}
    wanted = {n: wanted[n] & ~kept.get(n, False) for n in wanted}
    why = "closing these removes nothing, so the budget leaves them open"
    return [*_notes(wanted, closed), *_listed(why, kept)]


def _notes(wanted, closed):
    """What floors hold open that would be closed without them."""
    kept = {name: wanted[name] & ~closed[name] for name in closed}
    return _listed("held open by keep_at_least", kept)


def _listed(what, masks):
    """A note with the gates that have any factor in `masks`, if any has."""
    parts = [
        f"'{name}' ({np.count_nonzero(mask)} of {mask.size})"
        for name, mask in masks.items()
        if mask.any()
    ]
    return [f"{what}: {', '.join(parts)}"] * bool(parts)
