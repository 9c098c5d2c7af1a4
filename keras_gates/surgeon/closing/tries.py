"""Closes factors by thresholds, so that all layers come back.

A layer that was seen through may have no smaller form. Then something inside
it, or around it, is left alone, and the rest is closed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras

from keras_gates.graphs.names import without_count
from keras_gates.surgeon.build import coming_back
from keras_gates.surgeon.closing.request import Outcome
from keras_gates.surgeon.closing.request import closed_by
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.thresholds.resolve import key_of
from keras_gates.thresholds.rule import KINDS

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.build.kept_class import Found
    from keras_gates.surgeon.closing.options import Floors
    from keras_gates.surgeon.closing.options import Options
    from keras_gates.surgeon.closing.options import Scores
    from keras_gates.surgeon.closing.options import Thresholds


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
        outcome = closed_by(self._model, graph, *request, options)
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
            part = without_count(name.rpartition("/")[-1])
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


def _check_drop(drop_shortcuts: bool, scores: Scores | None) -> None:
    if drop_shortcuts and scores is not None:
        raise ValueError(
            "`drop_shortcuts` is for models with gates, and `scores` is for "
            "channels without gates: a dropped shortcut no longer ties the "
            "channels that were scored together. Pass one of them, or prune "
            "twice."
        )
