"""Creates stock layers by copying their attributes.

Most of the time of a rebuild is spent in the constructors of layers: checks of
arguments, signatures, attributes that are tracked one by one. In stock layers,
the result is plain data, which can be copied.

The attributes of a new layer are not documented, so this module does not assume
any. The first layer of each class is created from its config, and its
attributes are the pattern for the others. The pattern is used only if a copy
made with it has the same attributes; a layer with anything unexpected is
created from its config.

Without patterns, `prune` takes 1.3 times as long for ResNet50 and 1.5 times for
MobileNetV2; without the shortcuts of `create` too, 1.9 and 1.8 times (torch,
CPU seconds, the median of five ratios in one process). `PATTERNS = False` makes
all layers from their configs.
"""

from __future__ import annotations

import collections
import copy
import inspect
import types
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import configs
from keras_gates.graphs import create
from keras_gates.graphs import forgotten
from keras_gates.graphs import private
from keras_gates.graphs.twins import Twins
from keras_gates.graphs.twins import Uncopied

# Whether layers are copied by patterns. What comes out is the same.
PATTERNS = True
# From how many layers of a class a pattern is tried to be learnt.
_TRIALS = 3
DATA = (type(None), bool, int, float, str, inspect.Signature)
# By a key of a config, what the new layer is to have there.
Changes: TypeAlias = "dict[str, Any]"


def _exported(*modules: types.ModuleType) -> list[Any]:
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

    def __init__(
        self, of_model: Callable[[keras.Model], keras.Model] | None
    ) -> None:
        self.twins = Twins(of_model)
        self._of_model = of_model
        self._patterns: dict[tuple[Any, ...], _Pattern] = {}
        self._failed: collections.Counter[tuple[Any, ...]] = (
            collections.Counter()
        )

    def make(self, op: keras.Operation, changes: Changes) -> keras.Operation:
        """A new operation of the same class, with `changes` to its config.

        Its weights are for the caller to set.

        Raises:
            ValueError: the config does not round-trip, or forgets what can't
                be carried over.
        """
        new = self.plain(op, changes)
        return self._from_config(op, changes) if new is None else new

    def plain(
        self, op: keras.Operation, changes: Changes
    ) -> keras.Layer | None:
        """The same as `make`, for a layer that is like others of its class.

        None for any other.
        """
        key = (type(op), *sorted(changes))
        if not PATTERNS or not _is_known(op) or self._failed[key] > _TRIALS:
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

    def whole(
        self, op: keras.Operation, apart: bool = False
    ) -> tuple[keras.Operation, bool]:
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
                return twins.twin(op), True
        except Uncopied:
            pass  # its config may tell
        return self._from_config(op, {}), False

    def finish(self, op: keras.Layer, new: keras.Layer) -> None:
        """Give a copy that is built by now what else was put on its layer."""
        if vars(op).keys() - vars(new).keys():
            forgotten.carry_more(op, new, Twins(self._of_model))

    def _from_config(
        self, op: keras.Operation, changes: Changes
    ) -> keras.Operation:
        """A new operation from a config, with what the config forgets."""
        if not private.has_sublayers(op):
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


def _learnt(op: keras.Layer, new: keras.Layer, changes: Changes) -> _Pattern:
    """The pattern of a fresh layer; raises `_Unexpected` if it has none."""
    pattern = _Pattern(op, new, changes)
    twin = pattern.copy(op, changes)
    if twin is None:
        raise _Unexpected(op)
    held, copied = dict(vars(new)), dict(vars(twin))
    held[private.AUTO_CONFIG] = copied[private.AUTO_CONFIG] = None
    if not _alike(held, copied):
        raise _Unexpected(op)
    return pattern


class _Pattern:
    """What a fresh layer of one class holds, sorted by how it is copied.

    Attributes:
        sample: the fresh layer.
        built_at_once: whether its constructor builds it.
        stores: the lists of its tracker, as `{attribute: kind}`.
        own: the attributes that the config tells.
        fixed: the attributes that are plain data, with it.
        derived: those of `fixed` that follow from the config.
        fresh: the attributes that are empty containers, with their types.
        tracked: those whose containers know the tracker, with their types and
            contents.
        bound: the attributes that are functions round methods of the layer.
    """

    def __init__(
        self, op: keras.Layer, new: keras.Layer, changes: Changes
    ) -> None:
        self.sample, self.built_at_once = new, new.built
        state, tracker = dict(vars(new)), private.tracker_of(new)
        kinds = {
            id(store): kind
            for kind, store in private.stores_of(tracker).items()
        }
        self.stores = {
            name: kinds[id(value)]
            for name, value in state.items()
            if id(value) in kinds
        }
        names = {private.KEPT_AS.get(key, key) for key in op.get_config()}
        names |= {"activity_regularizer"}
        self.own = sorted(names & state.keys())
        if not set(changes) <= set(self.own):
            raise _Unexpected(changes)
        # It stands in for a `get_config`, which these classes have.
        self.fixed: dict[str, Any] = {private.AUTO_CONFIG: None}
        self.fresh: dict[str, type[Any]] = {}
        self.tracked: dict[str, tuple[type[Any], Any]] = {}
        self.bound: dict[str, types.FunctionType] = {}
        known = {private.AUTO_CONFIG, *self.own, *self.stores}
        self._known = state.keys()
        for name, value in state.items():
            if name not in known and value is not tracker:
                self._sort(name, value, tracker)
        self.derived = self._derived(op)

    def _sort(self, name: str, value: Any, tracker: Any) -> None:
        if isinstance(value, types.FunctionType):
            self.bound[name] = value
        elif _is_data(value) or type(value) is keras.layers.InputSpec:
            self.fixed[name] = value
        elif private.container_tracker(value) is tracker:
            self.tracked[name] = type(value), _plain(value)
        # What the constructor built, the copy builds again.
        elif _plain(value) is not None and (not value or self.built_at_once):
            self.fresh[name] = type(value)
        else:
            raise _Unexpected(name)

    def _derived(self, op: keras.Layer) -> list[str]:
        """Find what follows from the config, and what `build` sets."""
        state, derived = vars(op), []
        common = private.common_names()
        for name in self.fixed.keys() - common | self._meant():
            if _same(state.get(name), self.fixed[name]):
                derived.append(name)
            elif self.fixed[name] is not None:
                raise _Unexpected(name)
        return derived

    def _meant(self) -> set[str]:
        """What the constructor sets alike, and users may set otherwise."""
        return self.fixed.keys() & private.OF_FUNCTION

    def _is_ordinary(self, held: dict[str, Any]) -> bool:
        """Whether a layer holds no more than the constructor and `build` set.

        What hides an attribute of the class may be another function.
        """
        more = held.keys() - self._known
        return not any(hasattr(type(self.sample), name) for name in more)

    def copy(self, op: keras.Layer, changes: Changes) -> keras.Layer | None:
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
        tracker = private.start_tracking(new, self.sample)
        stores = private.stores_of(tracker)
        state.update({name: stores[kind] for name, kind in self.stores.items()})
        before = private.tracker_of(op)
        try:
            for name in self.own:
                value = changes[name] if name in changes else held.get(name)
                state[name] = _copied(value, before, tracker)
            for name, function in self.bound.items():
                state[name] = private.rewrapped(function, self.sample, new)
        except (_Unexpected, private.Unwrapped):
            return None
        for name, (kind, values) in self.tracked.items():
            state[name] = private.tracked(kind, values, tracker)
        if self.built_at_once:
            private.rebuild_at_init(new)
        return new


def _is_data(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_data, value))
    return type(value) in DATA


def _same(value: Any, data: Any) -> bool:
    # The other way round a variable would compare its values.
    return type(value) is type(data) and bool(value == data)


def _plain(value: Any) -> Any:
    """The content of a container without what tracks it, or None."""
    for kind in (list, dict, set):
        if isinstance(value, kind):
            return kind(value)
    return None


def _copied(value: Any, before: Any, tracker: Any) -> Any:
    """A part of a config, for another layer.

    Args:
        value: what the old layer has.
        before: the tracker of the old layer.
        tracker: that of the new one.
    """
    if _is_data(value):
        return value
    if isinstance(value, types.FunctionType) and value in FUNCTIONS:
        return value
    if type(value) is keras.dtype_policies.DTypePolicy:
        return value
    if type(value) in CHOICES and _is_data((*vars(value).values(),)):
        return copy.copy(value)
    if isinstance(value, list) and private.container_tracker(value) is before:
        return private.tracked(type(value), list(value), tracker)
    raise _Unexpected(value)


def _alike(left: Any, right: Any) -> bool:
    """Whether two objects hold the same, and share nothing that changes."""
    if type(left) is not type(right):
        return False
    if isinstance(left, types.FunctionType):
        return left.__code__ is right.__code__
    if _is_data(left) or type(left) is types.MethodType:
        return bool(left == right)
    if type(left) in CHOICES:
        return bool(left.get_config() == right.get_config())
    if isinstance(left, dict):
        return left.keys() == right.keys() and _alike(
            [*left.values()], [right[key] for key in left]
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_alike, left, right))
    if isinstance(left, set):
        return bool(left == right)
    return _alike(dict(vars(left)), dict(vars(right)))
