"""Resolves thresholds to closed factors."""

from __future__ import annotations

import fnmatch
import numbers
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates._checks import listed
from keras_gates._checks import suggestion
from keras_gates.thresholds.below import Below
from keras_gates.thresholds.budget import Budget
from keras_gates.thresholds.floor import channels
from keras_gates.thresholds.floor import check_floor
from keras_gates.thresholds.rule import KINDS
from keras_gates.thresholds.rule import NAMED
from keras_gates.thresholds.rule import VECTORS
from keras_gates.thresholds.rule import ThresholdRule

if TYPE_CHECKING:
    from keras_gates.thresholds.rule import Factors


def asked(thresholds: Any, gates: list[Factors]) -> list[Factors]:
    """The gates that thresholds may apply to.

    Args:
        thresholds: As in `resolve`.
        gates: A list of `Factors`.

    Returns:
        A list of `Factors`: those of a kind that is always a gate, and batch
        normalizations if a dict has their kind or name. If there are groups
        with scores, only these, unless a dict names others.
    """
    keys = thresholds if isinstance(thresholds, dict) else ()
    scored = [g for g in gates if g.kind == "group"]
    if scored and not keys:
        return scored
    return [
        g
        for g in gates
        if g.kind not in NAMED or g.kind in keys or g.name in keys
    ]


def resolve(
    thresholds: Any,
    gates: list[Factors],
    keep_at_least: Mapping[str, float] | float = 0,
) -> dict[str, NDArray[np.bool_]]:
    """Decide which factors are closed.

    Args:
        thresholds: A number (for every gate), a `ThresholdRule`, or a dict of
            these by kind (`"filter"`, `"head"`, `"layer"`, `"branch"`,
            `"block"`, `"batch_norm"`, `"stripe"`), by gate name, or by a
            pattern of names, in which `*` stands for anything. A name has
            precedence over a pattern, earlier patterns over later ones, and a
            pattern over a kind. Gates that do not occur in a dict stay open.
        gates: A list of `Factors`.
        keep_at_least: The least number of channels of each filter gate that
            stay open, namely those with the largest factors: a number, a share
            below 1, or a dict of these by gate name or pattern. Scalar gates
            have no channels, and close regardless.

    Returns:
        A dict from gate name to boolean array.

    Raises:
        TypeError: If `thresholds` or `keep_at_least` is of another type.
        ValueError: If a number is negative or NaN, a key of `thresholds` is
            neither a kind nor fits the name of a gate, or one of
            `keep_at_least` fits no filter gate.
    """
    groups = _groups(thresholds, gates)
    closed = {g.name: np.zeros(g.values.shape, bool) for g in gates}
    for rule, members in groups:
        masks = list(rule.close(members))
        if len(masks) != len(members):
            raise ValueError(
                f"{type(rule).__name__}.close() must return a boolean array "
                f"for each gate. Received: {len(masks)} for {len(members)} "
                "gates."
            )
        for gate, mask in zip(members, masks, strict=True):
            closed[gate.name] = _checked(mask, gate, rule)
    floors = _floors(keep_at_least, gates)
    for gate in gates:
        floor = channels(floors.get(gate.name, 0), gate.values.size)
        if gate.kind in VECTORS and floor:
            largest = np.argsort(-np.abs(gate.values), kind="stable")[:floor]
            closed[gate.name][largest] = False
    return closed


def part_budget(
    thresholds: Any, gates: list[Factors]
) -> tuple[Any, Budget | None, list[Factors]]:
    """Separate the budget from the other thresholds.

    Args:
        thresholds: As in `resolve`.
        gates: A list of `Factors`.

    Returns:
        `(fixed, budget, members)`: the thresholds without it, the `Budget`
        or None, and the gates that it is for.

    Raises:
        TypeError, ValueError: As `resolve`, and for two budgets.
    """
    groups = _groups(thresholds, gates)
    found = [(r, members) for r, members in groups if isinstance(r, Budget)]
    if not found:
        return thresholds, None, []
    budget = found[0][0]
    if any(other != budget for other, _ in found):
        raise ValueError(
            "`thresholds` can hold one Budget. Received: "
            f"{', '.join(repr(other) for other, _ in found)}. The same one "
            "may be given for several keys; its gates are ranked together."
        )
    members = [gate for _, group in found for gate in group]
    if not isinstance(thresholds, dict):
        return {}, budget, members
    # Not left out, since a name with a budget is not for the rule of its kind.
    fixed = {
        key: 0 if isinstance(value, Budget) else value
        for key, value in thresholds.items()
    }
    return fixed, budget, members


def key_of(
    keys: Iterable[str], name: str, kind: str | None = None
) -> str | None:
    """The key of a dict that applies to a gate, or None.

    The name comes first, then the first pattern that fits, then the kind.
    """
    names = list(keys)
    if name in names:
        return name
    for key in names:
        if key not in KINDS and fnmatch.fnmatchcase(name, key):
            return key
    return kind if kind in names else None


def _groups(
    thresholds: Any, gates: list[Factors]
) -> list[tuple[ThresholdRule, list[Factors]]]:
    """`(rule, gates)` pairs; each gate is in at most one of them."""
    if not isinstance(thresholds, dict):
        return [(_rule(thresholds, "thresholds"), list(gates))]
    names = [g.name for g in gates]
    for key in thresholds:
        if key not in KINDS:
            _check_fits(key, names, "thresholds", "gate")
    members: dict[str, list[Factors]] = {key: [] for key in thresholds}
    for gate in gates:
        own = key_of(thresholds, gate.name, gate.kind)
        if own is not None:
            members[own].append(gate)
    return [
        (_rule(value, f"thresholds[{key!r}]"), members[key])
        for key, value in thresholds.items()
    ]


def _check_fits(key: Any, names: list[str], argument: str, what: str) -> None:
    """Refuse a key that fits the name of no gate."""
    known = [*KINDS, *names] if argument == "thresholds" else names
    if any(key_of([str(key)], name) for name in names):
        return
    kinds = f"a kind of gate ({', '.join(KINDS)})"
    either = f"neither {kinds} nor" if argument == "thresholds" else "not"
    raise ValueError(
        f"`{argument}` has the key {key!r}, which is {either} the name of a "
        f"{what}, nor a pattern that matches one.{suggestion(key, known)} "
        f"{what.capitalize()}s of this model: {listed(sorted(names))}."
    )


def _rule(value: Any, argument: str) -> ThresholdRule:
    if isinstance(value, ThresholdRule):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{argument}` must be a number, a rule such as Quantile(0.5), or "
            f"a dict of these by kind or gate name. Received: {value!r} (of "
            f"type {type(value).__name__})."
        )
    try:
        return Below(float(value))
    except ValueError as error:
        raise ValueError(f"`{argument}` can't be used. {error}") from error


def _checked(
    mask: Any, gate: Factors, rule: ThresholdRule
) -> NDArray[np.bool_]:
    """A copy of a rule's mask, after a check."""
    mask = np.array(mask)
    if mask.dtype != bool or mask.shape != gate.values.shape:
        raise ValueError(
            f"{type(rule).__name__}.close() must return a boolean array like "
            f"the factors of each gate. Received: {mask.dtype} of shape "
            f"{mask.shape} for gate '{gate.name}' of shape "
            f"{gate.values.shape}."
        )
    found: NDArray[np.bool_] = mask
    return found


def _floors(
    keep_at_least: Mapping[str, float] | float, gates: list[Factors]
) -> dict[str, float]:
    """How many channels stay open, by gate name."""
    names = [g.name for g in gates if g.kind in VECTORS]
    if not isinstance(keep_at_least, Mapping):
        check_floor(keep_at_least, "keep_at_least")
        return dict.fromkeys(names, keep_at_least)
    for key, floor in keep_at_least.items():
        _check_fits(key, names, "keep_at_least", "filter gate")
        check_floor(floor, f"keep_at_least[{key!r}]")
    keys = {name: key_of(keep_at_least, name) for name in names}
    return {
        name: keep_at_least[key]
        for name, key in keys.items()
        if key is not None
    }
