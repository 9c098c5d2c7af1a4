"""Selects layers by name, pattern, class, or object."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import glob
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import TypeAlias
from typing import TypeVar

import keras

from keras_gates.graphs.identity import IdentityDict

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Call
    from keras_gates.graphs.calls import Graph

Pattern: TypeAlias = "str | type[Any] | keras.Layer"
# One, or several in a list, tuple or set.
Patterns: TypeAlias = (
    "Pattern | list[Pattern] | tuple[Pattern, ...] | set[Pattern] | None"
)


class Candidate(Protocol):
    """What patterns choose from.

    Attributes:
        name: what it is called in messages.
        calls: the calls that it stands for.
        reason: why it can't be chosen; "" if it can.
    """

    @property
    def name(self) -> str: ...
    @property
    def calls(self) -> Sequence[Call]: ...
    @property
    def reason(self) -> str | None: ...


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A `Candidate` that is nothing else; see there."""

    name: str
    calls: Sequence[Call]
    reason: str = ""


def listed(value: Any) -> list[Any]:
    """One or several patterns, or None, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]


def check(patterns: Any, argument: str) -> None:
    """Refuse what is no pattern.

    Raises:
        TypeError: one is neither a string, nor a class, nor a layer.
    """
    for pattern in listed(patterns):
        if not isinstance(pattern, (str, type, keras.Layer)):
            raise TypeError(
                f"`{argument}` takes layer names, patterns, layer classes and "
                f"layers. Received: {pattern!r} (of type "
                f"{type(pattern).__name__})."
            )


def matches(patterns: Patterns, calls: Sequence[Call]) -> bool:
    """Whether one of the patterns fits one of the calls."""
    return any(
        _fits(pattern, call) for pattern in listed(patterns) for call in calls
    )


def named(
    patterns: Patterns, graph: Graph, argument: str
) -> list[Pattern] | None:
    """The patterns, with paths for layers: a copy has other layers.

    Raises:
        ValueError: a layer is not one of the model's.
    """
    found: list[Pattern] = []
    for pattern in listed(patterns):
        if isinstance(pattern, keras.Layer):
            paths = _paths(graph.calls, pattern)
            if not paths:
                raise ValueError(
                    f"`{argument}` has the layer '{pattern.name}', which is "
                    f"not part of model '{graph.model.name}'. Use layers of "
                    "the model itself: model.get_layer(name)."
                )
            found += map(glob.escape, paths)
        else:
            found.append(pattern)
    return found if patterns is not None else None


def check_fit(patterns: Patterns, argument: str, graph: Graph) -> None:
    """Refuse a pattern that fits no layer of a model.

    Raises:
        ValueError: one fits none; the message has names that are near it.
    """
    inputs = [kt.name for kt in graph.functional.inputs]
    every = [name for call in graph.calls for name in _names(call)]
    for pattern in named(patterns, graph, argument) or ():
        plain = isinstance(pattern, str)
        of_input = plain and fnmatch.filter(inputs, pattern)
        if of_input or pattern is keras.layers.InputLayer:
            continue
        if matches(pattern, graph.calls):
            continue
        wanted = pattern.__name__ if isinstance(pattern, type) else str(pattern)
        known = dict.fromkeys(every + inputs)
        near = difflib.get_close_matches(wanted, known, 3, 0.4)
        some = near or list(dict.fromkeys(every))[:5]
        raise ValueError(
            f"`{argument}` has {pattern!r}, which matches no layer of model "
            f"'{graph.model.name}'. {'Near it' if near else 'There are'}: "
            f"{', '.join(map(repr, some))}. Pass the name of a layer, a "
            "pattern with *, a layer, or a class."
        )


def check_used(
    patterns: Patterns, argument: str, kind: str, found: Sequence[Candidate]
) -> None:
    """Refuse a pattern that fits nothing that can be gated.

    Args:
        patterns: one, or a list.
        argument: the argument they came in, for the message.
        kind: what they choose from, for the message.
        found: what there is: each with `name`, `calls` and `reason`.

    Raises:
        ValueError: a pattern fits none of them.
    """
    for pattern in listed(patterns):
        fitting = [x for x in found if matches(pattern, x.calls)]
        if any(not x.reason for x in fitting):
            continue
        if fitting and argument == "exclude":
            continue
        names = [x.name for x in found if not x.reason]
        why = "; ".join(f"'{x.name}': {x.reason}" for x in fitting[:3])
        why = f"only what can't be chosen ({why})" if why else "nothing"
        near = difflib.get_close_matches(str(pattern), names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`{argument}` has {pattern!r}, which fits {why} among the {kind} "
            f"of this model.{hint} To choose from: {_told(names)}. Pass one "
            "of these names, the name of a layer inside, a pattern with *, a "
            "layer, or a class."
        )


def chosen(
    graph: Graph,
    found: Sequence[AnyCandidate],
    kind: str,
    include: Patterns = None,
    exclude: Patterns = None,
) -> list[AnyCandidate]:
    """What users choose by naming layers: those of `include` but `exclude`.

    Args:
        graph: the `Graph` of the model.
        found: what there is to choose from.
        kind: what that is, for messages.
        include: one or a list of layer names, patterns with *, layers and
            layer classes; None chooses all.
        exclude: what to leave out, likewise.

    Raises:
        TypeError: a pattern is of another type.
        ValueError: one is the layer of another model, or fits nothing that
            can be chosen.
    """
    for argument, given in (("include", include), ("exclude", exclude)):
        check(given, argument)
        named(given, graph, argument)
        check_used(given, argument, kind, list(found))
    return [
        one
        for one in found
        if not one.reason
        and (include is None or matches(include, one.calls))
        and not matches(exclude, one.calls)
    ]


def chosen_layers(
    graph: Graph,
    kind: str,
    reason: Callable[[keras.Operation], str],
    include: Patterns = None,
    exclude: Patterns = None,
) -> list[keras.Operation]:
    """The layers of a model that users choose by naming them.

    Args:
        graph: the `Graph` of the model.
        kind: what there is to choose from, for messages.
        reason: `layer -> why it can't be chosen`, "" if it can.
        include: as in `chosen`.
        exclude: as in `chosen`.

    Raises:
        TypeError, ValueError: as `chosen`.
    """
    calls: IdentityDict[keras.Operation, list[Call]] = IdentityDict()
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            calls.setdefault(site.op, []).extend(site.calls)
    choices = [
        Choice(own[0].path if own else op.name, own, reason(op))
        for op, own in calls.items()
    ]
    wanted = chosen(graph, choices, kind, include, exclude)
    pairs = zip(calls, choices, strict=True)
    return [op for op, choice in pairs if choice in wanted]


def _told(names: list[str]) -> str:
    tail = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + tail


def _fits(pattern: Pattern, call: Call) -> bool:
    """Whether a pattern fits a call, or a nested model that it is in."""
    ops = [call.site.own, *(scope.site.own for scope in call.scopes)]
    if isinstance(pattern, type):
        return any(isinstance(op, pattern) for op in ops)
    if isinstance(pattern, keras.Layer):
        return any(op is pattern for op in ops)
    return any(fnmatch.fnmatchcase(name, pattern) for name in _names(call))


def _names(call: Call) -> list[str]:
    """The path and the name of a call, and those of the models around it."""
    inside = _scopes(call)
    names = [call.path, call.op.name, *inside, *inside.values()]
    return list(dict.fromkeys(names))


def _scopes(call: Call) -> dict[str, str]:
    """`{path: name}` of the nested models that a call is in."""
    names = [scope.site.name for scope in call.scopes]
    return {"/".join(names[: n + 1]): name for n, name in enumerate(names)}


def _paths(calls: list[Call], layer: keras.Layer) -> list[str]:
    """The paths of a layer, or of a nested model."""
    found: dict[str, None] = {}
    for call in calls:
        if call.site.own is layer:
            found[call.path] = None
        for path, scope in zip(_scopes(call), call.scopes, strict=True):
            if scope.site.own is layer:
                found[path] = None
    return list(found)
