"""From what users give as thresholds to closed factors."""

from __future__ import annotations

import numbers
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
from keras_gates.thresholds.rule import Rule

if TYPE_CHECKING:
    from keras_gates.thresholds.quantile import Quantile
    from keras_gates.thresholds.rule import Factors


def asked(thresholds: Any, gates: list[Factors]) -> list[Factors]:
    """The gates that thresholds may speak of.

    Args:
        thresholds: As in `resolve`.
        gates: A list of `Factors`.

    Returns:
        A list of `Factors`: those of a kind that is always a gate, and
        batch normalisations where a dict has their kind or name. Where
        there are groups with scores, these alone, unless a dict says more.
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
    thresholds: Quantile | dict[str, Quantile | float] | float,
    gates: list[Factors],
    keep_at_least: bool | dict[str, int] | float = 0,
) -> dict[str, NDArray[np.bool_]]:
    """Decide which factors are closed.

    Args:
        thresholds: A number (for every gate), a `Rule`, or a dict of these
            by kind (`"filter"`, `"layer"`, `"branch"`, `"block"`,
            `"batch_norm"`, `"stripe"`) or by gate name. A name goes before
            a kind; gates that a dict does not speak of stay open.
        gates: A list of `Factors`.
        keep_at_least: How many channels of each filter gate stay open at
            least, those of the largest factors: a number, a share below 1
            of the gate's own, or a dict of these by gate name. Scalar gates
            have no channels, and are closed regardless.

    Returns:
        A dict from gate name to boolean array.

    Raises:
        TypeError: If `thresholds` or `keep_at_least` is of another type.
        ValueError: If a number is negative or NaN, a key of `thresholds` is
            neither a kind nor the name of a gate, or one of `keep_at_least`
            is not the name of a filter gate.
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


def part_budget(thresholds: Any, gates: list[Factors]) -> tuple[Any, ...]:
    """Take the budget out of thresholds.

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
    # Not left out: a name that a budget has is not for its kind's rule.
    fixed = {
        key: 0 if isinstance(value, Budget) else value
        for key, value in thresholds.items()
    }
    return fixed, budget, members


def _groups(thresholds: Any, gates: list[Factors]) -> Any:
    """`(rule, gates)` pairs; each gate is in one of them at most."""
    if not isinstance(thresholds, dict):
        return [(_rule(thresholds, "thresholds"), list(gates))]
    names = {g.name for g in gates}
    for key in thresholds:
        if key not in names and key not in KINDS:
            raise ValueError(
                f"`thresholds` has the key {key!r}, which is neither a kind "
                f"of gate ({', '.join(KINDS)}) nor the name of one."
                f"{suggestion(key, [*KINDS, *names])} Gates of this model: "
                f"{listed(sorted(names))}."
            )
    groups = []
    for key, value in thresholds.items():
        members = [
            g
            for g in gates
            if g.name == key or (g.kind == key and g.name not in thresholds)
        ]
        groups.append((_rule(value, f"thresholds[{key!r}]"), members))
    return groups


def _rule(
    value: Quantile | bool | float | str | None, argument: str
) -> Below | Quantile:
    if isinstance(value, Rule):
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
    mask: NDArray[np.bool_] | bool, gate: Factors, rule: Below | Quantile
) -> NDArray[np.bool_]:
    """The mask as an array of its own, if a rule made it as it should."""
    mask = np.array(mask)
    if mask.dtype != bool or mask.shape != gate.values.shape:
        raise ValueError(
            f"{type(rule).__name__}.close() must return a boolean array like "
            f"the factors of each gate. Received: {mask.dtype} of shape "
            f"{mask.shape} for gate '{gate.name}' of shape "
            f"{gate.values.shape}."
        )
    return mask


def _floors(
    keep_at_least: bool | dict[str, int] | float, gates: list[Factors]
) -> dict[str, int]:
    """How many channels stay open, by gate name."""
    names = {g.name for g in gates if g.kind in VECTORS}
    if not isinstance(keep_at_least, dict):
        check_floor(keep_at_least, "keep_at_least")
        return dict.fromkeys(names, keep_at_least)
    for name, floor in keep_at_least.items():
        if name not in names:
            raise ValueError(
                f"`keep_at_least` has the key {name!r}, which is not the "
                f"name of a filter gate.{suggestion(name, names)} Filter "
                f"gates of this model: {listed(sorted(names))}."
            )
        check_floor(floor, f"keep_at_least[{name!r}]")
    return keep_at_least
