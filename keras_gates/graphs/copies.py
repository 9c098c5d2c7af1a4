"""Make layers anew by copying what they hold, for a tenth of the time.

Most of what a rebuild costs is the constructors of layers: checks of
arguments, signatures, attributes that are tracked one by one. What they leave
behind in layers of Keras' own is plain data, which can be copied.

What a fresh layer holds is not documented, so nothing here knows it. The first
layer of each class is made from its config, as ever, and what it holds is the
pattern for the others. The pattern is used only if a copy made with it holds
the same as that layer; a layer that holds anything unexpected is made from its
config.
"""

from __future__ import annotations

import collections
import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import keras

from keras_gates.graphs import configs
from keras_gates.graphs import create
from keras_gates.graphs import forgotten
from keras_gates.graphs.twins import Twins
from keras_gates.graphs.twins import Uncopied

# Keys of a config that a layer keeps under another name.
KEPT_AS = {"trainable": "_trainable", "dtype": "_dtype_policy"}
# From how many layers of a class a pattern is tried to be learnt.
_TRIALS = 3
DATA = (type(None), bool, int, float, str, inspect.Signature)


def _exported(*modules: Any) -> Any:
    return [value for module in modules for value in vars(module).values()]


# By identity and by exact class: a user's own may keep anything.
FUNCTIONS = frozenset(
    f for f in _exported(keras.activations) if isinstance(f, types.FunctionType)
)
CHOICES = frozenset(
    value
    for value in _exported(
        keras.initializers, keras.regularizers, keras.constraints
    )
    if isinstance(value, type)
)


class Copies:
    """Makes layers and operations for one new model.

    A copy is the same function as its original, or there is none: what a
    config forgets is carried over, or refused by name.

    Args:
        of_model: makes the copy of a functional model that a layer holds.
    """

    def __init__(self, of_model: Callable[..., Any]) -> None:
        self.twins = Twins(of_model)
        self._of_model = of_model
        self._patterns = {}
        self._failed = collections.Counter()

    def make(
        self, op: keras.Operation, changes: dict[str, int | tuple[int]]
    ) -> keras.Operation:
        """A new operation of the same class, with `changes` to its config.

        Its weights are for the caller to set.

        Raises:
            ValueError: the config does not round-trip, or forgets what can't
                be carried over.
        """
        new = self.plain(op, changes)
        return self._from_config(op, changes) if new is None else new

    def plain(
        self, op: keras.Operation, changes: dict[str, int | tuple[int]]
    ) -> keras.Layer | None:
        """The same as `make`, for a layer that is like others of its class.

        None for any other.
        """
        key = (type(op), *sorted(changes))
        if not _is_known(op) or self._failed[key] > _TRIALS:
            return None
        try:
            if key not in self._patterns:
                # Layers may hold what others of their class do not.
                self._failed[key] += 1
                new = self._from_config(op, changes)
                self._patterns[key] = _learnt(op, new, changes)
                return new
            return self._patterns[key].copy(op, changes)
        except Exception:  # another Keras may hold what isn't known here
            return None

    def whole(self, op: Any, apart: bool = False) -> tuple[Any, bool]:
        """The copy of what stays as it is.

        Args:
            op: a layer or operation.
            apart: whether what it shares with others, such as the weights
                of another layer, becomes its own.

        Returns:
            `(the copy, whether it has its weights)`.

        Raises:
            ValueError: it holds what can't be copied, and its config does
                not lead to the same.
        """
        twins = Twins(self._of_model) if apart else self.twins
        try:
            if not nnx_enabled():
                return twins.of(op), True
        except Uncopied:
            pass  # its config may tell
        return self._from_config(op, {}), False

    def finish(self, op: keras.Layer, new: keras.Layer) -> None:
        """Give a copy that is built by now what else was put on its layer."""
        if vars(op).keys() - vars(new).keys():
            forgotten.carry_more(op, new, Twins(self._of_model))

    def _from_config(
        self, op: keras.Operation, changes: dict[str, int | tuple[int]]
    ) -> keras.Operation:
        """A new operation from a config, with what the config forgets."""
        if not create.has_sublayers(op):
            (new,) = configs.from_configs(op, changes)
            if not forgotten.forgets(op, new, changes):
                return new
        base, new = configs.from_configs(
            op,
            *({}, changes),
            accepted=lambda made: not forgotten.forgets(op, made[0]),
        )
        forgotten.carry(op, new, base, Twins(self._of_model))
        return new


def nnx_enabled() -> bool:
    """Whether layers are modules of Flax, which hold what isn't known here."""
    enabled = getattr(keras.config, "is_nnx_enabled", None)
    return enabled is not None and enabled()


def _is_known(op: keras.Operation) -> bool:
    """Whether a copy could tell its config as the layer does."""
    told = type(op).get_config is not keras.Layer.get_config
    return type(op) in create.PLAIN and told and not nnx_enabled()


class _Unexpected(Exception):
    """A layer holds what is not known to be safe to copy."""


def _learnt(
    op: keras.Layer, new: keras.Layer, changes: dict[str, int]
) -> _Pattern:
    """The pattern of a fresh layer; raises `_Unexpected` if it has none."""
    pattern = _Pattern(op, new, changes)
    twin = pattern.copy(op, changes)
    if twin is None:
        raise _Unexpected(op)
    held, copied = dict(vars(new)), dict(vars(twin))
    held["_auto_config"] = copied["_auto_config"] = None
    if not _alike(held, copied):
        raise _Unexpected(op)
    return pattern


class _Pattern:
    """What a fresh layer of one class holds, sorted by how it is copied."""

    def __init__(
        self, op: keras.Layer, new: keras.Layer, changes: dict[str, int]
    ) -> None:
        self.sample, self.built_at_once = new, new.built
        state = dict(vars(new))
        tracker = state.pop("_tracker")
        kinds = {id(kept[1]): kind for kind, kept in tracker.config.items()}
        self.stores = {
            name: kinds[id(value)]
            for name, value in state.items()
            if id(value) in kinds
        }
        names = {KEPT_AS.get(key, key) for key in op.get_config()}
        names |= {"activity_regularizer"}
        self.own = sorted(names & state.keys())
        if not set(changes) <= set(self.own):
            raise _Unexpected(changes)
        # It stands in for a `get_config`, which these classes have.
        self.fixed = {"_auto_config": None}
        self.fresh, self.tracked, self.bound = {}, {}, {}
        known = {"_auto_config", *self.own, *self.stores}
        self._known = state.keys() | {"_tracker"}
        for name in state.keys() - known:
            self._sort(name, state[name], tracker)
        self._derive(op)

    def _sort(self, name: str, value: Any, tracker: Any) -> None:
        if isinstance(value, types.FunctionType):
            self.bound[name] = value
        elif _is_data(value) or type(value) is keras.layers.InputSpec:
            self.fixed[name] = value
        elif getattr(value, "tracker", None) is tracker:
            self.tracked[name] = type(value), _plain(value)
        # What the constructor built, `_build_at_init` builds again.
        elif _plain(value) is not None and (not value or self.built_at_once):
            self.fresh[name] = type(value)
        else:
            raise _Unexpected(name)

    def _derive(self, op: keras.Layer) -> None:
        """Find what follows from the config, and what `build` sets."""
        state = vars(op)
        self.derived = []
        for name in self.fixed.keys() - _common() | self._meant():
            if _same(state.get(name), self.fixed[name]):
                self.derived.append(name)
            elif self.fixed[name] is not None:
                raise _Unexpected(name)

    def _meant(self) -> set[str]:
        """What the constructor sets alike, and users may set otherwise."""
        return self.fixed.keys() & forgotten.MEANT

    def _is_ordinary(self, held: dict[str, Any]) -> bool:
        """Whether a layer holds no more than the constructor and `build` set.

        What hides an attribute of the class may be another function.
        """
        more = held.keys() - self._known
        return not any(hasattr(type(self.sample), name) for name in more)

    def copy(
        self, op: keras.Layer, changes: dict[str, int]
    ) -> keras.Layer | None:
        """A fresh layer with the config of `op`; None if that is unsafe."""
        held = vars(op)
        if not self._is_ordinary(held):
            return None
        # torch keeps a layer that is an activation elsewhere.
        if not held.keys() >= set(self.own) - changes.keys():
            return None
        for name in self.derived:
            if not _same(held.get(name), self.fixed[name]):
                return None
        new = object.__new__(type(op))
        state = vars(new)
        state.update(self.fixed)
        state.update({name: kind() for name, kind in self.fresh.items()})
        self._track(state)
        try:
            for name in self.own:
                value = changes[name] if name in changes else held.get(name)
                state[name] = _copied(value, op._tracker, new._tracker)
            for name, function in self.bound.items():
                state[name] = _rebound(function, self.sample, new)
        except _Unexpected:
            return None
        for name, (kind, values) in self.tracked.items():
            state[name] = kind(values, new._tracker)
        if self.built_at_once:
            new._build_at_init()
        return new

    def _track(self, state: dict[str, Any]) -> None:
        """What `_initialize_tracker` leaves: a tracker, its stores empty."""
        old = self.sample._tracker
        stores = {kind: [] for kind in old.config}
        config = {k: (test, stores[k]) for k, (test, _) in old.config.items()}
        exclusions = {k: list(kinds) for k, kinds in old.exclusions.items()}
        state["_tracker"] = type(old)(config, exclusions)
        state.update({name: stores[kind] for name, kind in self.stores.items()})


@functools.cache
def _common() -> frozenset[str]:
    """The names of what all layers hold."""
    return frozenset(vars(keras.Layer()))


def _is_data(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_data, value))
    return type(value) in DATA


def _same(value: bool | None, data: bool | None) -> bool:
    # The other way round a variable would compare its values.
    return type(value) is type(data) and value == data


def _plain(value: Any) -> dict[str, bool] | list[str] | set[str]:
    """The content of a container without what tracks it, or None."""
    kinds = [kind for kind in (list, dict, set) if isinstance(value, kind)]
    return kinds[0](value) if kinds else None


def _copied(value: Any, before: Any, tracker: Any) -> Any:
    """A part of a config, for another layer."""
    if _is_data(value):
        return value
    if isinstance(value, types.FunctionType) and value in FUNCTIONS:
        return value
    if type(value) is keras.dtype_policies.DTypePolicy:
        return value
    if type(value) in CHOICES and _is_data((*vars(value).values(),)):
        return copy.copy(value)
    if isinstance(value, list) and getattr(value, "tracker", 0) is before:
        return type(value)(list(value), tracker)
    raise _Unexpected(value)


def _rebound(
    function: Callable[..., Any], old: keras.Layer, new: keras.Layer
) -> Callable[..., Any]:
    """A function that a layer wraps a method in, for another layer."""
    cells = {}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=True
    ):
        value = cell.cell_contents
        if isinstance(value, types.MethodType) and value.__self__ is old:
            value = types.MethodType(value.__func__, new)
        elif value is old:
            value = new
        else:
            raise _Unexpected(name)
        cells[name] = types.CellType(value)
    twin = types.FunctionType(
        function.__code__,
        function.__globals__,
        argdefs=function.__defaults__,
        closure=tuple(cells.values()),
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    method = types.MethodType(function.__wrapped__.__func__, new)
    return functools.update_wrapper(twin, method)


def _alike(left: Any, right: Any) -> bool:
    """Whether two objects hold the same, and share nothing that changes."""
    if type(left) is not type(right):
        return False
    if isinstance(left, types.FunctionType):
        return left.__code__ is right.__code__
    if _is_data(left) or type(left) is types.MethodType:
        return left == right
    if type(left) in CHOICES:
        return left.get_config() == right.get_config()
    if isinstance(left, dict):
        return left.keys() == right.keys() and _alike(
            [*left.values()], [right[key] for key in left]
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_alike, left, right))
    if isinstance(left, set):
        return left == right
    return _alike(dict(vars(left)), dict(vars(right)))
