"""From a graph and thresholds, or a model and closed masks, to a `Solution`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.build import coming_back
from keras_gates.surgeon.closing.close import close
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.added_shortcuts import open_gates
from keras_gates.surgeon.gates.added_shortcuts import without_open
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.gates.find import unknown_gates
from keras_gates.surgeon.solving import solve
from keras_gates.thresholds.resolve import asked
from keras_gates.thresholds.resolve import part_budget
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.build.remembered import Remembered
    from keras_gates.surgeon.closing.options import Floors
    from keras_gates.surgeon.closing.options import Options
    from keras_gates.surgeon.closing.options import Scores
    from keras_gates.surgeon.closing.options import Thresholds
    from keras_gates.surgeon.solving.solve import Solution
    from keras_gates.thresholds.rule import Factors


class Outcome(NamedTuple):
    """The result of a request.

    Attributes:
        solution: what is closed, what stays, and where factors go.
        options: those that were passed, with what the request adds to them.
        notes: on floors that held, and shortcuts that go.
    """

    solution: Solution
    options: Options
    notes: list[str]


def closed_by(
    model: keras.Model,
    graph: Graph,
    thresholds: Thresholds,
    scores: Scores | None,
    keep_at_least: Floors,
    options: Options,
) -> Outcome:
    """Close factors by thresholds, in a graph whose layers all come back.

    Args:
        model: the model.
        graph: its `Graph`; scores are put on it.
        thresholds: as in `plan`.
        scores: likewise.
        keep_at_least: likewise.
        options: the options.

    Raises:
        TypeError, ValueError: as `plan`.
    """
    if scores is not None:
        _score(graph, scores, options.exact)
    gates = _asked(thresholds, factors_of(graph), scores)
    if not gates and options.whole:
        raise ValueError(
            f"Nothing remains in '{model.name}' that could be "
            f"closed.{_kept_whole(options)}"
        )
    if not gates:
        raise ValueError(
            f"Model '{model.name}' has no gates, so there is nothing to "
            "close. Put FilterGate, HeadGate, LayerGate, BranchGate or "
            "BlockGate layers into it before training; or take the gammas of "
            'its batch normalizations for gates: thresholds={"batch_norm": '
            "...}; or pass scores=keras_gates.surgeon.score(model, ...)."
            f"{unknown_gates(graph)}"
        )
    closed, notes = close(graph, gates, thresholds, keep_at_least, options)
    _, budget, _ = part_budget(thresholds, gates)
    options = dataclasses.replace(
        options,
        sizes=None if budget is None else budget.sizes,
        groups=tuple(sorted(name for name in closed if name in graph.groups)),
    )
    solution = solve.solve(graph, closed, options.exact, options.round_to)
    if options.drop_shortcuts:
        notes = [*notes, *_dropped(model, solution.closed)]
        solution = _solved(model, solution.closed, options)
    return Outcome(solution, options, notes)


def from_closed(
    model: keras.Model,
    closed: Mapping[str, NDArray[np.bool_]],
    options: Options,
    remembered: Remembered | None = None,
) -> Solution:
    """The `Solution` for `{name of a gate or group: mask}`.

    What was opened for `round_to` is open in the masks.

    Args:
        model: the model.
        closed: the masks.
        options: the options.
        remembered: how its layers came back when the masks were made.

    Raises:
        ValueError: a layer can't come back as it could when the masks were
            made.
    """
    solution = _solved(model, closed, options)
    if remembered is not None:
        returns = remembered.recalled(model, solution)
        if returns is not None:
            return dataclasses.replace(solution, returns=returns)
    found = coming_back.find(solution, options.written_out)
    for path, why in found.whole.items():
        raise ValueError(
            f"Layer '{path}' of '{model.name}' can no longer be made smaller "
            f"as in this plan: {why}. Make a new plan."
        )
    return dataclasses.replace(solution, returns=found.returns)


def _solved(
    model: keras.Model,
    closed: Mapping[str, NDArray[np.bool_]],
    options: Options,
) -> Solution:
    if options.drop_shortcuts:
        model = without_open(model, _closing(closed))
    graph = read(model, closed, options)
    return solve.solve(graph, closed, options.exact)


def _kept_whole(options: Options) -> str:
    """A sentence on what can't come back, and so has no gates, or nothing."""
    found = [*options.whole.items()][:8]
    return "".join(f" Layer '{p}' is kept whole: {why}." for p, why in found)


def _closing(closed: Mapping[str, NDArray[np.bool_]]) -> set[str]:
    """The names of gates that have a closed factor."""
    return {name for name, mask in closed.items() if mask.any()}


def factor_shapes(
    like: Graph, names: Iterable[str], options: Options
) -> dict[str, tuple[int, ...]]:
    """`{name: shape of its factors}` of some gates and groups.

    Args:
        like: a `Graph` of the model; it is read again.
        names: those of the gates and groups.
        options: those of the plan.
    """
    names = list(names)
    graph = read(like.model, names, options, like)
    # A gate may now have the name that a group had for an older version.
    others = set(options.groups or ()) - graph.groups.keys()
    sources = gates_of(graph)
    return {
        n: sources[n].shape for n in names if n in sources and n not in others
    }


def read(
    model: keras.Model,
    names: Iterable[str],
    options: Options,
    like: Graph | None = None,
) -> Graph:
    """The graph of a model, with virtual gates if names speak of groups.

    Args:
        model: the model.
        names: those of gates and groups.
        options: the `Options`. If its `groups` are None, all names are those
            of groups that are none of gates.
        like: as in `see_through.read`.
    """
    graph = expand.read(model, like=like, whole=options.whole)
    scored = options.groups
    if scored is None:
        own = gates_of(graph)
        scored = tuple(name for name in names if name not in own)
    if scored:
        groups.insert(graph, groups.find(graph, options.exact))
    return graph


def _score(graph: Graph, scores: Scores, exact: bool) -> None:
    """Put scores on gates and on groups; changes the graph.

    Raises:
        TypeError, ValueError: they are those of neither.
    """
    if not isinstance(scores, dict):
        criterion = scores if isinstance(scores, str) else "l2"
        raise TypeError(
            "`scores` must be a dict from the names of groups or gates to "
            f"arrays. Received: {scores!r} (of type {type(scores).__name__}). "
            "Pass scores=keras_gates.surgeon.score(model, "
            f"{criterion!r})."
        )
    own = gates_of(graph)
    rest = {}
    for name, values in scores.items():
        gate = own.get(name)
        if gate is not None:
            graph.scores[name] = groups.scored(name, gate, values).values()
        else:
            rest[name] = values
    if rest:
        groups.insert(graph, groups.find(graph, exact), rest)


def _asked(
    thresholds: Thresholds, gates: list[Factors], scores: Scores | None
) -> list[Factors]:
    """The gates that thresholds may speak of.

    Where gates of a kind have scores, those without are left alone, unless
    a dict has their name: scores and factors don't compare.
    """
    named = thresholds if isinstance(thresholds, dict) else {}
    if scores is not None:
        kinds = {g.kind for g in gates if g.name in scores}
        gates = [
            g
            for g in gates
            if g.name in scores
            or g.name in named
            or (named and g.kind not in kinds)
        ]
    if scores is None or named:
        return asked(thresholds, gates)
    return [g for g in gates if g.kind not in NAMED]


def _dropped(
    model: keras.Model, closed: Mapping[str, NDArray[np.bool_]]
) -> list[str]:
    """A note on the shortcuts that go, if any do."""
    found = open_gates(model, _closing(closed))
    if not found:
        return []
    some = ", ".join(map(repr, found[:3])) + ", ..." * (len(found) > 3)
    return [
        f"drop_shortcuts removes {len(found)} added shortcuts of gates that "
        f"stay open ({some}): this changes the function."
    ]
