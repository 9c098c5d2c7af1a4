"""From a model and thresholds, or what they closed, to a `Solution`."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

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
    from keras_gates.surgeon.solving.solve import Solution
    from keras_gates.thresholds.rule import Factors


def from_thresholds(
    model: int | keras.Layer | type[Any] | None,
    thresholds: Any,
    scores: dict[str, NDArray[np.float64]] | None,
    keep_at_least: bool | dict[str, int] | float,
    round_to: bool | float,
    exact: int | str | None,
    drop_shortcuts: bool,
) -> tuple[Solution, list[str]]:
    """Close what thresholds say; arguments and errors as those of `plan`.

    Returns:
        A `Solution`, and notes on floors that held and shortcuts that go.
    """
    _check(round_to, exact)
    _check_drop(drop_shortcuts, scores)
    graph = expand.read(model)
    if scores is not None:
        _score(graph, scores, exact)
    found = _asked(thresholds, factors_of(graph), scores)
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no gates, so there is nothing to "
            "close. Put FilterGate, LayerGate, BranchGate or BlockGate "
            "layers into it before training; or take the gammas of its batch "
            'normalisations for gates: thresholds={"batch_norm": ...}; or '
            "pass scores=keras_gates.surgeon.score(model, ...)."
            f"{unknown_gates(graph)}"
        )
    options = {"exact": exact, "round_to": int(round_to)}
    closed, notes = close(graph, found, thresholds, keep_at_least, **options)
    _, budget, _ = part_budget(thresholds, found)
    solution = solve.solve(graph, closed, **options)
    if drop_shortcuts:
        notes = [*notes, *_dropped(model, solution.closed)]
        solution = from_closed(model, solution.closed, exact, True)
    scored = sorted(n for n in closed if n in graph.groups)
    more = {
        **({"groups": scored} if scored else {}),
        "drop_shortcuts": drop_shortcuts,
        "sizes": getattr(budget, "sizes", None),
    }
    solution.options = {**options, **more}
    return solution, notes


def from_closed(
    model: keras.Model,
    closed: dict[str, NDArray[np.bool_]],
    exact: bool,
    drop_shortcuts: bool,
    scored: list[str] | None = None,
) -> Solution:
    """The `Solution` for `{name of a gate or group: mask}`.

    `scored` is as in `read`.
    """
    if drop_shortcuts:
        model = without_shortcuts(model, closed)
    graph = read(model, closed, exact, scored)
    return solve.solve(graph, closed, exact=exact)


def without_shortcuts(model: keras.Model, closed: Any) -> Any:
    """The model without the added shortcuts of gates that stay open."""
    names = {name for name, mask in closed.items() if mask.any()}
    return without_open(model, names)


def factor_shapes(
    model: keras.Model,
    names: dict[str, list[int | str]],
    exact: bool,
    scored: list[str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """`{name: shape of its factors}` of some gates and groups."""
    sources = gates_of(read(model, names, exact, scored))
    return {n: sources[n].shape for n in names if n in sources}


def read(
    model: keras.Model,
    names: dict[str, NDArray[np.bool_] | list[int | str]],
    exact: bool,
    scored: list[str] | None = None,
) -> Graph:
    """The graph of a model, with virtual gates if names speak of groups.

    Args:
        model: the model.
        names: those of gates and groups.
        exact: as in `plan`.
        scored: which of the names are those of groups; by default, all that
            are none of gates. A layer of stripes may have both.
    """
    graph = expand.read(model)
    own = gates_of(graph)
    if scored is None:
        scored = [name for name in names if name not in own]
    if scored:
        found = groups.find(graph, exact)
        groups.insert(graph, groups.without(found, own.keys() - set(scored)))
    return graph


def _score(
    graph: Graph, scores: dict[str, NDArray[np.float64]], exact: bool
) -> None:
    """Put scores on gates and on groups; changes the graph.

    Raises:
        TypeError, ValueError: they are those of neither.
    """
    if not isinstance(scores, dict):
        raise TypeError(
            "`scores` must be a dict from the names of groups or gates to "
            "arrays, as keras_gates.surgeon.score returns. Received: "
            f"{scores!r} (of type {type(scores).__name__})."
        )
    own = gates_of(graph)
    rest = {}
    for name, values in scores.items():
        gate = own.get(name)
        # A layer of stripes may also head a group: a vector is for that.
        if gate is not None and np.ndim(values) == len(gate.shape):
            graph.scores[name] = groups.scored(name, gate, values).scores
        else:
            rest[name] = values
    if rest:
        groups.insert(graph, groups.find(graph, exact), rest)


def _asked(
    thresholds: Any,
    gates: list[Factors],
    scores: dict[str, NDArray[np.float64]] | None,
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


def _dropped(model: keras.Model, closed: Any) -> Any:
    """A note on the shortcuts that go, if any do."""
    names = {name for name, mask in closed.items() if mask.any()}
    found = open_gates(model, names)
    if not found:
        return []
    some = ", ".join(map(repr, found[:3])) + ", ..." * (len(found) > 3)
    return [
        f"drop_shortcuts takes out {len(found)} added shortcuts of gates "
        f"that stay open ({some}): this changes the function."
    ]


def _check_drop(
    drop_shortcuts: bool, scores: dict[str, NDArray[np.float64]] | None
) -> None:
    if not isinstance(drop_shortcuts, bool):
        raise TypeError(
            "`drop_shortcuts` must be True or False. Received: "
            f"{drop_shortcuts!r} (of type {type(drop_shortcuts).__name__})."
        )
    if drop_shortcuts and scores is not None:
        raise ValueError(
            "`drop_shortcuts` is for models with gates, and `scores` for "
            "channels without: a dropped shortcut no longer ties the channels "
            "that were scored together. Pass one of them, or prune twice."
        )


def _check(round_to: bool | float, exact: int | str | None) -> None:
    if isinstance(round_to, bool) or not isinstance(round_to, numbers.Integral):
        raise TypeError(f"`round_to` must be an int. Received: {round_to!r}.")
    if round_to < 1:
        raise ValueError(
            f"`round_to` must be at least 1. Received: {round_to!r}."
        )
    if not isinstance(exact, bool):
        raise TypeError(
            f"`exact` must be True or False. Received: {exact!r} (of type "
            f"{type(exact).__name__})."
        )
