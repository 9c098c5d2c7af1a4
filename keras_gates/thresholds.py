"""Which gates are closed: numbers, kinds, names, and rules."""

import dataclasses
import math
import numbers

import numpy as np

KINDS = ("filter", "layer", "branch", "block")


@dataclasses.dataclass(frozen=True)
class Factors:
    """The factors of one gate, under the name that thresholds use."""

    name: str
    kind: str
    values: np.ndarray


class Rule:
    """Base class of rules that choose which gates to close.

    A rule sees all the gates it is given at once, so that it may compare
    them.
    """

    def close(self, gates):
        """Return a boolean array for each of the `Factors`."""
        raise NotImplementedError

    def get_config(self):
        """The arguments of the rule, as JSON can hold them."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Below(Rule):
    """Closes each gate factor with `|factor| < threshold`, strictly.

    A plain number as `thresholds` means this rule.

    Args:
        threshold: A number that is at least 0.

    Raises:
        TypeError: If `threshold` is not a number.
        ValueError: If it is negative or not finite.

    Example:
    >>> import numpy as np
    >>> from keras_gates.thresholds import Below, Factors
    >>> gate = Factors("gate", "filter", np.array([0.5, 0.04, -0.05]))
    >>> Below(0.05).close([gate])[0].tolist()
    [False, True, False]
    """

    threshold: float

    def __post_init__(self):
        _check_number(self.threshold, "a threshold")
        if self.threshold < 0:
            raise ValueError(
                "A threshold must be at least 0: gates are compared by "
                f"their absolute value. Received: {self.threshold!r}."
            )

    def close(self, gates):
        return [np.abs(g.values) < self.threshold for g in gates]


@dataclasses.dataclass(frozen=True)
class Quantile(Rule):
    """Closes the smallest share `q` of the factors.

    Of `n` factors, the `int(q * n)` with the smallest absolute values are
    closed, whatever ties there are (Network Slimming's rule with its ties
    broken by order).

    Args:
        q: The share to close, in `[0, 1]`.
        scope: `"global"` ranks all factors that the rule is given together,
            `"gate"` each gate's own.

    Raises:
        TypeError: If `q` is not a number.
        ValueError: If `q` is not in `[0, 1]`, or `scope` is unknown.

    Example:
    >>> import numpy as np
    >>> from keras_gates.thresholds import Factors, Quantile
    >>> gate = Factors("gate", "filter", np.array([0.5, 0.04, -0.05, 0.0]))
    >>> Quantile(0.5).close([gate])[0].tolist()
    [False, True, False, True]
    """

    q: float
    scope: str = "global"

    def __post_init__(self):
        _check_number(self.q, "the share of a Quantile")
        if not 0 <= self.q <= 1:
            raise ValueError(
                "The share of a Quantile must be in [0, 1]. Received: "
                f"q={self.q!r}."
            )
        if self.scope not in ("global", "gate"):
            raise ValueError(
                'The scope of a Quantile must be "global" or "gate". '
                f"Received: {self.scope!r}."
            )

    def close(self, gates):
        if self.scope == "gate":
            return [self._smallest([g])[0] for g in gates]
        return self._smallest(gates)

    def _smallest(self, gates):
        if not gates:
            return []
        sizes = [np.abs(g.values).reshape(-1) for g in gates]
        flat = np.concatenate(sizes)
        closed = np.zeros(flat.size, bool)
        order = np.argsort(flat, kind="stable")
        closed[order[: int(self.q * flat.size)]] = True
        parts = np.split(closed, np.cumsum([s.size for s in sizes])[:-1])
        return [
            p.reshape(g.values.shape) for p, g in zip(parts, gates, strict=True)
        ]


def resolve(thresholds, gates, keep_at_least=0):
    """Decide which factors are closed.

    Args:
        thresholds: A number (for every gate), a `Rule`, or a dict of these
            by kind (`"filter"`, `"layer"`, `"branch"`, `"block"`) or by
            gate name. A name goes before a kind; gates that a dict does not
            speak of stay open.
        gates: A list of `Factors`.
        keep_at_least: How many channels of each filter gate stay open at
            least, those of the largest factors: a number, or a dict by gate
            name. Scalar gates have no channels, and are closed regardless.

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
        masks = rule.close(members)
        for gate, mask in zip(members, masks, strict=True):
            closed[gate.name] = _checked(mask, gate, rule)
    floors = _floors(keep_at_least, gates)
    for gate in gates:
        floor = floors.get(gate.name, 0)
        if gate.kind == "filter" and floor:
            largest = np.argsort(-np.abs(gate.values), kind="stable")[:floor]
            closed[gate.name][largest] = False
    return closed


def _groups(thresholds, gates):
    """`(rule, gates)` pairs; each gate is in one of them at most."""
    if not isinstance(thresholds, dict):
        return [(_rule(thresholds, "thresholds"), list(gates))]
    names = {g.name for g in gates}
    for key in thresholds:
        if key not in names and key not in KINDS:
            raise ValueError(
                f"`thresholds` has the key {key!r}, which is neither a kind "
                f"of gate ({', '.join(KINDS)}) nor the name of one. Gates "
                f"of this model: {', '.join(sorted(names)) or 'none'}."
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


def _rule(value, argument):
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


def _checked(mask, gate, rule):
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


def _floors(keep_at_least, gates):
    """How many channels stay open, by gate name."""
    names = {g.name for g in gates if g.kind == "filter"}
    if not isinstance(keep_at_least, dict):
        _check_floor(keep_at_least, "keep_at_least")
        return dict.fromkeys(names, keep_at_least)
    for name, floor in keep_at_least.items():
        if name not in names:
            raise ValueError(
                f"`keep_at_least` has the key {name!r}, which is not the "
                "name of a filter gate. Filter gates of this model: "
                f"{', '.join(sorted(names)) or 'none'}."
            )
        _check_floor(floor, f"keep_at_least[{name!r}]")
    return keep_at_least


def _check_floor(floor, argument):
    if isinstance(floor, bool) or not isinstance(floor, numbers.Integral):
        raise TypeError(
            f"`{argument}` must be a whole number of channels. Received: "
            f"{floor!r} (of type {type(floor).__name__})."
        )
    if floor < 0:
        raise ValueError(
            f"`{argument}` must be at least 0. Received: {floor!r}."
        )


def _check_number(value, what):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{what.capitalize()} must be a number. Received: {value!r} (of "
            f"type {type(value).__name__})."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{what.capitalize()} must be finite. Received: {value!r}."
        )
