"""Arguments of `insert_gates` for gates of one kind."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates import constraints
from keras_gates._checks import nonnegative_number
from keras_gates.graphs import patterns
from keras_gates.transforms.finding.chains import POSITIONS
from keras_gates.transforms.gating.penalty import penalty_of

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Call
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.patterns import Candidate
    from keras_gates.graphs.patterns import Patterns

WEIGHS = (None, "count", "macs", "params")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateSpec:
    """How to create the gates of one kind, and where.

    `penalty = strength * sum(weight * abs(factor))`

    By default, every factor has weight 1, as in `regularizers.L1`. With
    `weigh="count"`, the weights are those of the paper: 1/n for each of the n
    channels of a filter gate, and 1/N for each of N layer gates (or branch
    gates, or block gates). With "macs" or "params", the weight of a factor is
    the share of the model that is removed if it alone is closed.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), equations 3 to 14

    Args:
        strength: A number >= 0 in units of loss. Defaults to `None`: no
            penalty, or that of `regularizer`.
        regularizer: A regularizer for each gate, in place of `strength`:
            an object, an identifier or a config, as in Keras layers.
        weigh: `None`, `"count"`, `"macs"` or `"params"`.
        initializer: Initial values of the factors. `"ones"` leaves the function
            unchanged; `"uniform"`, in (0, 1), is the paper's choice.
        constraint: Constraint of the factors. Defaults to
            `constraints.UnitInterval()`: the paper's range, in which L1 gives
            exact zeros. `None` for no constraint. Stochastic gates have none.
        stochastic: Whether the factors are random in training (hard concrete
            gates); the penalty is then on the probability that they are not 0.
        include: What to gate: one or a list of layer names (`*` stands for
            anything), layers and layer classes. Defaults to `None`: everything
            that is found.
        exclude: What to leave out, likewise.
        pieces: For branches and blocks: pairs `(first, last)` of layer names,
            instead of those found. `last` is the layer that joins the branch to
            its shortcut; otherwise it is the last layer of the piece, and a
            shortcut is added.
        position: For filters and layers: `"activation"`, after the
            activation that follows the layer, or `"norm"`, before it.
            Always after the normalization.
        inputs: For filters: whether the model's inputs get gates, too.

    Raises:
        TypeError: If an argument is of the wrong type, such as a number for
            `regularizer`.
        ValueError: If `strength` is negative or not finite, `regularizer`
            is given as well, or `weigh` or `position` is unknown.

    Example:
    >>> import keras_gates as kg
    >>> from keras_gates.transforms import GateSpec
    >>> model = kg.zoo.mlp()
    >>> spec = GateSpec(strength=1e-4, exclude="fc1", constraint=None)
    >>> gated = kg.transforms.insert_gates(model, filters=spec)
    >>> [x.name for x in gated.layers if isinstance(x, kg.FilterGate)]
    ['fc2_filter_gate']
    """

    strength: float | None = None
    regularizer: Any = None
    weigh: str | None = None
    initializer: Any = "ones"
    constraint: Any = dataclasses.field(
        default_factory=constraints.UnitInterval
    )
    stochastic: bool = False
    include: Patterns = None
    exclude: Patterns = None
    pieces: Sequence[tuple[str, str]] | None = None
    position: str = "activation"
    inputs: bool = False

    def __post_init__(self) -> None:
        penalty_of(self.strength, self.regularizer, "regularizer", "GateSpec")
        check_one_of(self.weigh, WEIGHS, "weigh")
        check_one_of(self.position, POSITIONS, "position")
        patterns.check(self.include, "include")
        patterns.check(self.exclude, "exclude")
        check_one_of(self.inputs, (True, False), "inputs")
        check_one_of(self.stochastic, (True, False), "stochastic")
        for name, get in _GETTERS.items():
            _check_known(name, getattr(self, name), get)
        _check_pieces(self.pieces)

    def named(self, graph: Graph) -> GateSpec:
        """The spec with layers of the model replaced by their paths."""
        return dataclasses.replace(
            self,
            include=patterns.named(self.include, graph, "include"),
            exclude=patterns.named(self.exclude, graph, "exclude"),
        )

    def wants(self, calls: Sequence[Call]) -> bool:
        """Whether to gate a piece of these calls."""
        chosen = self.include is None or patterns.matches(self.include, calls)
        return chosen and not patterns.matches(self.exclude, calls)

    def check_used(self, kind: str, found: Sequence[Candidate]) -> None:
        """Refuse patterns that fit none of the pieces found."""
        patterns.check_used(self.include, "include", kind, found)
        patterns.check_used(self.exclude, "exclude", kind, found)

    def arguments(self, penalty: Callable[[float], Any]) -> dict[str, Any]:
        """The keyword arguments of a gate.

        Args:
            penalty: `strength -> regularizer`, for the weights of this gate.
        """
        regularizer = copy.deepcopy(keras.regularizers.get(self.regularizer))
        if self.strength is not None:
            regularizer = penalty(self.strength)
        made = {"regularizer": regularizer, "initializer": self.initializer}
        if self.stochastic:
            return {**made, "stochastic": True}
        constraint = copy.deepcopy(keras.constraints.get(self.constraint))
        return {**made, "constraint": constraint}


def parse(value: Any, kind: str) -> GateSpec | None:
    """The `GateSpec` that an argument of `insert_gates` stands for.

    Args:
        value: a number, a regularizer, True, a `GateSpec`, a dict of its
            arguments, or a list: of names and classes, or of pairs.
        kind: "filters", "layers", "branches", "blocks" or "heads".

    Returns:
        A `GateSpec`, or None for None and False.
    """
    if value is None or value is False:
        return None
    spec = _read(value, kind)
    for field, kinds in _ONLY.items():
        given, default = getattr(spec, field), _DEFAULTS[field]
        if given != default and kind not in kinds:
            raise ValueError(
                f"`{kind}` takes no `{field}`. Received: {field}={given!r}. "
                f"It is for {' and '.join(kinds)}."
            )
    return spec


_ONLY = {
    "pieces": ("branches", "blocks"),
    "position": ("filters", "layers"),
    "inputs": ("filters",),
}
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(GateSpec)}


def _read(value: Any, kind: str) -> GateSpec:
    for types, reader in _READERS:
        if isinstance(value, types):
            return reader(value, kind)
    raise TypeError(
        f"`{kind}` is not valid. Received: {value!r} (of type "
        f"{type(value).__name__}). Expected: a strength, a regularizer, True "
        "for gates without a penalty, a GateSpec or a dict of its arguments, "
        "or a list of layer names."
    )


def _from_number(value: float, kind: str) -> GateSpec:
    strength = nonnegative_number(value, kind, "insert_gates")
    return GateSpec(strength=strength)


def _from_dict(value: dict[str, Any], kind: str) -> GateSpec:
    strange = [key for key in value if key not in _DEFAULTS]
    if strange:
        raise TypeError(
            f"`{kind}` has the keys {strange}, which GateSpec does not know. "
            f"Expected: keys from {list(_DEFAULTS)}."
        )
    return GateSpec(**value)


def _from_list(value: list[Any] | tuple[Any, ...], kind: str) -> GateSpec:
    if not value:
        raise ValueError(
            f"`{kind}` is empty, so there is nothing to gate. Pass None to "
            "exclude this kind, or name some."
        )
    if any(isinstance(item, (list, tuple)) for item in value):
        return GateSpec(pieces=tuple(value))
    return GateSpec(include=list(value))


def _from_string(value: str, kind: str) -> GateSpec:
    try:
        keras.regularizers.get(value)
    except ValueError as error:
        raise ValueError(
            f"`{kind}` is not valid. Received: {value!r}, which is no "
            "regularizer. Pass True for gates without a penalty, a strength "
            "such as 1e-4, or a list of layer names."
        ) from error
    return GateSpec(regularizer=value)


# By type, the first that fits, since True is a number as well.
_READERS: tuple[tuple[Any, Callable[[Any, str], GateSpec]], ...] = (
    (bool, lambda value, kind: GateSpec()),
    (GateSpec, lambda value, kind: value),
    (numbers.Real, _from_number),
    (dict, _from_dict),
    ((list, tuple), _from_list),
    (keras.regularizers.Regularizer, lambda v, kind: GateSpec(regularizer=v)),
    (str, _from_string),
)


_GETTERS = {
    "regularizer": keras.regularizers.get,
    "initializer": keras.initializers.get,
    "constraint": keras.constraints.get,
}


def _check_known(name: str, value: Any, get: Callable[[Any], Any]) -> None:
    try:
        get(value)
    except ValueError as error:
        raise ValueError(
            f"Gates can't have this `{name}`. Received: {value!r}. Expected: "
            f"a `{name}`, as in Keras layers. ({error})"
        ) from error


def _check_pieces(pieces: Any) -> None:
    if pieces is not None and not isinstance(pieces, (list, tuple)):
        raise TypeError(
            "`pieces` takes a list of pairs (first, last) of layer names. "
            f"Received: {pieces!r} (of type {type(pieces).__name__})."
        )
    for piece in pieces or ():
        pair = isinstance(piece, (tuple, list)) and len(piece) == 2
        if not pair or not all(isinstance(name, str) for name in piece):
            raise TypeError(
                "`pieces` takes pairs (first, last) of layer names. "
                f"Received: {piece!r}."
            )


def check_one_of(value: object, known: Sequence[object], argument: str) -> None:
    """Refuse an unknown value."""
    if value not in known:
        raise ValueError(
            f"`{argument}` is unknown. Received: {value!r}. Expected: one of "
            f"{', '.join(map(repr, known))}."
        )
