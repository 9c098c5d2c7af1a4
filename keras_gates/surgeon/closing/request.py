"""From a model and thresholds, or closed masks, to a `Solution`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
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
from keras_gates.thresholds.resolve import key_of
from keras_gates.thresholds.resolve import part_budget
from keras_gates.thresholds.rule import KINDS
from keras_gates.thresholds.rule import NAMED

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.build.kept_class import Found
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


def from_thresholds(
    model: keras.Model,
    thresholds: Thresholds,
    scores: Scores | None,
    keep_at_least: Floors,
    options: Options,
) -> Outcome:
    """Close factors by thresholds; arguments and errors as in `plan`.

    A layer that was seen through but can't be rebuilt smaller is kept whole:
    then the closed factors are determined again, without those inside it, or
    without the groups in it that are the cause.
    """
    _check_drop(options.drop_shortcuts, scores)
    request, tries = Asked(thresholds, scores, keep_at_least), _Tries(model)
    while True:
        outcome, whole = tries.outcome(request, options)
        if not whole:
            return outcome
        again = _with_some_open(tries, request, options, whole)
        if again is not None:
            return again
        options = dataclasses.replace(
            outcome.options, whole={**options.whole, **whole}
        )


class Asked(NamedTuple):
    """What is asked for: as the arguments of `plan`."""

    thresholds: Thresholds
    scores: Scores | None
    keep_at_least: Floors

    def without(self, names: Collection[str]) -> Asked:
        """The same for all groups but some."""
        if self.scores is None:
            return self
        left = {n: v for n, v in self.scores.items() if n not in names}
        others = (
            _fitting(each, {*left})
            for each in (self.thresholds, self.keep_at_least)
        )
        thresholds, keep_at_least = others
        return Asked(thresholds, left, keep_at_least)


class _Tries:
    """Tries one thing after another on a model.

    What its layers are made of, and what becomes of their configs, is found
    once.

    Args:
        model: the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._first: Graph | None = None
        self._configs: Found = {}

    def graph(self, whole: Mapping[str, str]) -> Graph:
        """The graph of the model, in which some layers are kept whole."""
        found = expand.read(self._model, like=self._first, whole=whole)
        if self._first is None and not whole:
            self._first = found
        return found

    def outcome(
        self, request: Asked, options: Options
    ) -> tuple[Outcome, dict[str, str]]:
        """What comes of it, and which layers can't come back with that."""
        graph = self.graph(options.whole)
        if options.whole:
            left = _names(graph, options.exact)
            request = Asked(*(_fitting(each, left) for each in request))
        outcome = _closed(self._model, graph, *request, options)
        found = coming_back.find(
            outcome.solution, options.written_out, self._configs
        )
        solution = dataclasses.replace(outcome.solution, returns=found.returns)
        return outcome._replace(solution=solution), found.whole


def _with_some_open(
    tries: _Tries,
    request: Asked,
    options: Options,
    whole: dict[str, str],
) -> Outcome | None:
    """What comes of it if some groups of these layers are left alone.

    A class may take fewer hidden units, say, and not fewer heads. If no one
    kind inside the layers is in the way alone, the streams that run through
    them are left alone, and then, if need be, a kind inside as well.

    Args:
        tries: those of the model.
        request: what is asked for.
        options: the options.
        whole: path of a layer that can't come back -> why.
    """
    found = _without_one_kind(tries, request, options, whole)
    streams = [] if found else _streams(tries, request, options, whole)
    if not streams:
        return found
    request = request.without(streams)
    try:
        outcome, again = tries.outcome(request, options)
    except ValueError:  # nothing else was asked for
        return None
    if again:
        found = _without_one_kind(tries, request, options, again)
        if found is None:
            return None
        outcome = found
    note = _left_alone(streams, next(iter(whole.values())))
    return outcome._replace(notes=[*outcome.notes, note])


def _without_one_kind(
    tries: _Tries,
    request: Asked,
    options: Options,
    whole: dict[str, str],
) -> Outcome | None:
    """What comes of it without the groups of one name in all these layers."""
    inside: dict[str, list[str]] = {}
    for name in request.scores or ():
        if _is_inside(name, whole):
            # Without the number that makes the name of a layer its own.
            part = re.sub(r"_\d+$", "", name.rpartition("/")[-1])
            inside.setdefault(part, []).append(name)
    for names in inside.values() if len(inside) > 1 else ():
        try:
            outcome, again = tries.outcome(request.without(names), options)
        except ValueError:  # the budget is out of reach without them
            continue
        if not again:
            why = next(iter(whole.values()))
            return outcome._replace(
                notes=[*outcome.notes, _left_alone(names, why)]
            )
    return None


def _streams(
    tries: _Tries,
    request: Asked,
    options: Options,
    whole: dict[str, str],
) -> list[str]:
    """The groups around some layers that these keep, if they stay whole."""
    kept = tries.graph({**options.whole, **whole})
    left = _names(kept, options.exact)
    names = request.scores or ()
    return [n for n in names if n not in left and not _is_inside(n, whole)]


def _is_inside(name: str, whole: Collection[str]) -> bool:
    return any(name.startswith(f"{path}/") for path in whole)


def _left_alone(names: list[str], why: str) -> str:
    """A note on groups that stay whole for the sake of the others."""
    told = ", ".join(f"'{name}'" for name in names[:3])
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return (
        f"all channels of {told}{more} stay: without them, their layers could "
        f"not be rebuilt: {why}"
    )


def _closed(
    model: keras.Model,
    graph: Graph,
    thresholds: Thresholds,
    scores: Scores | None,
    keep_at_least: Floors,
    options: Options,
) -> Outcome:
    """The same, of a graph whose layers all come back."""
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


def _names(graph: Graph, exact: bool) -> set[str]:
    """The names of gates and of groups that scores can close."""
    return {*gates_of(graph), *groups.find(graph, exact).groups}


def _fitting(given: Any, names: set[str]) -> Any:
    """A dict without the keys that speak only of what is not there any more."""
    if not isinstance(given, dict):
        return given
    return {
        key: value
        for key, value in given.items()
        if key in KINDS or any(key_of([key], name) for name in names)
    }


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
        raise TypeError(
            "`scores` must be a dict from the names of groups or gates to "
            "arrays, as keras_gates.surgeon.score returns. Received: "
            f"{scores!r} (of type {type(scores).__name__})."
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


def _check_drop(drop_shortcuts: bool, scores: Scores | None) -> None:
    if drop_shortcuts and scores is not None:
        raise ValueError(
            "`drop_shortcuts` is for models with gates, and `scores` is for "
            "channels without gates: a dropped shortcut no longer ties the "
            "channels that were scored together. Pass one of them, or prune "
            "twice."
        )
