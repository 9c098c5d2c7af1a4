"""Copies a layer as an object, with its own variables.

A config refers to functions by name, and a layer may hold more than its config
says: a custom activation, an argument that `get_config` forgets, an attribute
that was changed later. So a layer that does not change is not created from its
config. Its twin has copies of all attributes; functions and other immutable
objects are shared.

If something can't be copied (`Uncopied`), the layer is created from its config.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import enum
import functools
import inspect
import types
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.graphs import private
from keras_gates.graphs.functional import is_functional
from keras_gates.graphs.functional import own_weights
from keras_gates.graphs.variables import values_of

# What can't change, and is shared.
FIXED = (
    *(type(None), bool, int, float, complex, str, bytes, type, range, slice),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, property),
    *(inspect.Signature, enum.Enum, type(Ellipsis), type(NotImplemented)),
    *(np.generic, np.dtype, np.ufunc, keras.dtype_policies.DTypePolicy),
)
_FAST = frozenset(t for t in FIXED if t.__module__ == "builtins")


class Uncopied(Exception):
    """Something can't be copied as it is."""


@dataclasses.dataclass
class Twins:
    """Copies for one new model.

    What two layers of the old model hold together, their twins hold together.

    Attributes:
        of_model: makes the twin of a functional model that a layer holds.
    """

    of_model: Callable[[keras.Model], keras.Model] | None
    _pairs: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    _journal: list[int] = dataclasses.field(default_factory=list)
    _owned: set[int] = dataclasses.field(default_factory=set)
    _of_old: dict[int, Any] = dataclasses.field(default_factory=dict)

    def note(self, old: Any, new: Any) -> None:
        """Let `new` stand for `old` in all twins to come."""
        # The old one is held, so that no other object can get its id.
        self._pairs[id(old)] = old, new
        self._journal.append(id(old))

    def note_layer(self, old: keras.Operation, new: keras.Operation) -> None:
        """The same, for a layer that is done, with its weights.

        Its lists know its tracker, which knows all of the layer.
        """
        self.note(old, new)
        if not isinstance(old, keras.Layer):
            return
        self.note(private.tracker_of(old), private.tracker_of(new))
        if len(old.weights) == len(new.weights):
            for before, after in zip(old.weights, new.weights, strict=True):
                self.note(before, after)

    def of_new(self, value: Any, layers: list[keras.Operation]) -> Any:
        """The copy of what speaks of a model, for the new model.

        Args:
            value: what is copied.
            layers: those of the old model. What stands for them is noted.

        Raises:
            Uncopied: it holds one for which nothing stands, or what can't be
                copied.
        """
        held = [x for layer in layers for x in (layer, *own_weights(layer))]
        self._of_old = {id(x): x for x in held}
        try:
            return self.twin(value)
        finally:
            self._of_old = {}

    def twin(self, value: Any) -> Any:
        """The copy of a layer, an operation, or of what one holds.

        Raises:
            Uncopied: it holds what can't be copied.
        """
        self._journal.clear()
        owned, self._owned = self._owned, self._owned | _parts(value)
        try:
            return self._value(value)
        except Exception as error:
            for key in self._journal:
                self._pairs.pop(key, None)
            if isinstance(error, Uncopied):
                raise
            raise Uncopied(f"{type(error).__name__}: {error}") from error
        finally:
            self._owned = owned

    def _value(self, value: Any) -> Any:
        # TensorFlow puts tuples and dicts that a model holds in proxies.
        value = private.unwrapped(value)
        kind = type(value)
        if kind in _FAST or isinstance(value, FIXED):
            return value
        if id(value) in self._pairs:
            return self._pairs[id(value)][1]
        if id(value) in self._of_old:
            raise Uncopied(f"'{value.name}' is not in the new model")
        for kinds, make in _MAKERS:
            if isinstance(value, kinds):
                return make(self, value)
        if keras.ops.is_tensor(value):
            return self._tensor(value)
        if isinstance(value, private.SAVEABLE):
            return self._keras(value)
        return self._object(value)

    # What Keras makes ------------------------------------------------------

    def _keras(self, old: Any) -> Any:
        """A layer, operation, metric or optimizer."""
        new = object.__new__(type(old))
        self.note(old, new)
        held, state = vars(new), private.state_of(old)
        if isinstance(old, keras.Model):
            # An optimizer is for the weights that it was built for.
            held.update(private.uncompiled())
            gone = held.keys() | private.OF_FIT
            state = {
                k: private.books_without(v, gone)
                if private.is_of_tensorflow(k)
                else v
                for k, v in state.items()
                if k not in gone
            }
        for name, value in state.items():
            if name in private.OF_CALLS:
                held[name] = self._container(value, ())
            else:
                held[name] = self._value(value)
        private.find_parameters(old, new)
        return new

    def _model(self, old: keras.Model) -> keras.Model:
        if not is_functional(old):
            return self._keras(old)
        if self.of_model is None:
            raise Uncopied(f"model '{old.name}' is functional")
        if any(id(x) in self._of_old for x in own_weights(old)):
            # A copy would be the part as it was, at its old size.
            raise Uncopied(
                f"model '{old.name}' is a part of the model that it belongs to"
            )
        new = self.of_model(old)
        self.note(old, new)
        return new

    def _tracker(self, old: Any) -> Any:
        """What finds the variables and layers among a layer's attributes."""
        new = object.__new__(type(old))
        self.note(old, new)
        held = vars(new)
        for name, value in private.tracker_state(old).items():
            held[name] = self._value(value)
        found = private.stores_of(old).items()
        private.set_found(
            new, {kind: list(map(self._value, store)) for kind, store in found}
        )
        return new

    def _variable(self, old: keras.Variable) -> keras.Variable:
        value = private.raw_value(old)
        if value is None:
            raise Uncopied(f"variable '{old.path}' has no value yet")
        # torch's modules hold the same parameter.
        torch = keras.backend.backend() == "torch"
        start = self._value(value) if torch else values_of(old)
        with _scope_of(old):
            new = type(old)(
                start,
                dtype=old.dtype,
                trainable=old.trainable,
                autocast=private.autocasts(old),
                aggregation=old.aggregation,
                name=old.name,
            )
        self.note(old, new)
        held = vars(new)
        for name, value in vars(old).items():
            foreign = private.is_of_tensorflow(name)
            more = name not in held and not foreign
            if name in private.OF_VARIABLES or more:
                held[name] = self._value(value)
        return new

    def _symbolic(self, old: keras.KerasTensor) -> keras.KerasTensor:
        """A tensor that is left of a trace, without its graph."""
        new = keras.KerasTensor(old.shape, old.dtype, old.sparse, name=old.name)
        self.note(old, new)
        return new

    def _tensor(self, old: Any) -> Any:
        try:
            new = copy.deepcopy(old)
        except Exception:  # left of a trace: nothing can change it
            new = old
        self.note(old, new)
        return new

    # What Python makes -----------------------------------------------------

    def _array(self, old: NDArray[Any]) -> NDArray[Any]:
        new = old.copy()
        if old.dtype.hasobject:
            flat = [self._value(x) for x in old.ravel()]
            new = np.fromiter(flat, object, len(flat)).reshape(old.shape)
        self.note(old, new)
        return new

    def _container(self, old: Any, items: Iterable[Any] | None = None) -> Any:
        """A list, dict or set; those of Keras know the layer's tracker."""
        kind = next(k for k in _CONTAINERS if isinstance(old, k))
        cls: Any = type(old)
        new = cls.__new__(cls)
        self.note(old, new)
        # Not by the methods of the subclass: they would track.
        put = _CONTAINERS[kind]
        if kind in (dict, collections.OrderedDict):
            for key, value in dict(old).items() if items is None else items:
                put(new, self._value(key), self._value(value))
        else:
            for value in old if items is None else items:
                put(new, self._value(value))
        if isinstance(old, collections.defaultdict):
            new.default_factory = self._value(old.default_factory)
        for name, value in getattr(old, "__dict__", {}).items():
            vars(new)[name] = self._value(value)
        return new

    def _tuple(self, old: Any) -> Any:
        items = [self._value(x) for x in old]
        if all(a is b for a, b in zip(items, old, strict=True)):
            return old
        if isinstance(old, tuple):
            return tuple.__new__(type(old), items)
        return type(old)(items)

    def _partial(self, old: functools.partial[Any]) -> functools.partial[Any]:
        func, args, keywords = map(
            self._value, (old.func, old.args, old.keywords)
        )
        return type(old)(func, *args, **keywords)

    def _object(self, old: Any) -> Any:
        """Any other object, as `copy.deepcopy` would go about it."""
        if hasattr(old, "__deepcopy__"):
            new = copy.deepcopy(old)
            self.note(old, new)
            return new
        plain: Any = object.__reduce__
        silent = type(old).__reduce__ is plain
        # Its references, which have slots alone, name the variables of all
        # built layers; they are plain data.
        silent = silent and hasattr(old, "__dict__")
        if silent and create.is_of(type(old), "tensorflow"):
            raise Uncopied(f"it holds a resource of TensorFlow: {old!r}")
        reduced = old.__reduce_ex__(4)
        if isinstance(reduced, str):
            return old
        make, args, state, listed, paired = (*reduced, *[None] * 5)[:5]
        empty = listed is paired is None and len(args) < 2
        if not state and empty:
            # Nothing in it can change, and it may be told by its identity.
            return old
        new = make(*map(self._value, args))
        self.note(old, new)
        _set_state(new, state, self._value)
        for item in listed or ():
            new.append(self._value(item))
        for key, value in paired or ():
            new[self._value(key)] = self._value(value)
        return new

    # Functions are shared, but for what they know of the layer itself ------

    def _function(self, old: types.FunctionType | types.MethodType) -> Any:
        return self._bound(old, set())

    def _bound(self, old: Any, seen: set[int]) -> Any:
        """A function, or what one refers to, for the new layer."""
        if any(id(old) in x for x in (self._pairs, self._owned, self._of_old)):
            return self._value(old)
        if id(old) in seen:
            return old
        seen = {*seen, id(old)}
        if isinstance(old, types.MethodType):
            if isinstance(old.__self__, private.SAVEABLE):
                owner = self._bound(old.__self__, seen)
            else:
                owner = self._value(old.__self__)
            same = owner is old.__self__
            return old if same else types.MethodType(old.__func__, owner)
        if isinstance(old, types.FunctionType):
            return self._rebound(old, seen)
        if type(old) in (list, tuple):
            items = [self._bound(x, seen) for x in old]
            same = all(a is b for a, b in zip(items, old, strict=True))
            return old if same else type(old)(items)
        if type(old) is dict:
            found = {k: self._bound(v, seen) for k, v in old.items()}
            return old if all(found[k] is old[k] for k in old) else found
        return old

    def _rebound(
        self, old: types.FunctionType, seen: set[int]
    ) -> types.FunctionType:
        try:
            cells = [c.cell_contents for c in old.__closure__ or ()]
        except ValueError:  # a name that has no value yet
            return old
        before = (cells, old.__defaults__, old.__kwdefaults__, vars(old))
        after: list[Any] = [
            None if x is None else self._bound(x, seen) for x in before
        ]
        if all(a is b for a, b in zip(after, before, strict=True)):
            return old
        inside, defaults, keywords, attributes = after
        new = types.FunctionType(
            old.__code__,
            old.__globals__,
            old.__name__,
            defaults,
            tuple(map(types.CellType, inside)),
        )
        new.__kwdefaults__ = keywords
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(old, name):
                setattr(new, name, getattr(old, name))
        vars(new).update(attributes)
        return new


def _parts(value: Any) -> set[int]:
    """The ids of a layer, the layers inside it, and their variables."""
    if not isinstance(value, keras.Layer):
        return set()
    layers = [value, *private.sublayers(value)]
    variables = [v for layer in layers for v in layer.variables]
    return {id(x) for x in [*layers, *variables]}


def _scope_of(variable: keras.Variable) -> contextlib.ExitStack:
    """Within, a variable of the same name gets the same path.

    A distribution of JAX goes by the path as the variable is created.
    """
    stack = contextlib.ExitStack()
    for name in variable.path.split("/")[:-1]:
        stack.enter_context(keras.name_scope(name))
    return stack


def _set_state(new: Any, state: Any, copied: Callable[[Any], Any]) -> None:
    """Give an object the state that its `__reduce_ex__` told.

    That is a dict, `(dict, dict of slots)`, or what its class makes of it.
    """
    if state is None:
        return
    if hasattr(new, "__setstate__"):
        new.__setstate__(copied(state))
        return
    both = state if isinstance(state, tuple) else (state, {})
    held: dict[str, Any] | None = both[0]
    slots: dict[str, Any] = both[1]
    for name, value in (held or {}).items():
        vars(new)[name] = copied(value)
    for name, value in slots.items():
        setattr(new, name, copied(value))


_CONTAINERS: dict[type[Any], Callable[..., Any]] = {
    list: list.append,
    collections.OrderedDict: collections.OrderedDict.__setitem__,
    dict: dict.__setitem__,
    set: set.add,
}
# The first that fits.
_MAKERS: tuple[tuple[Any, Callable[[Twins, Any], Any]], ...] = (
    (keras.Variable, Twins._variable),
    (keras.Model, Twins._model),
    (keras.Operation, Twins._keras),
    (private.TRACKER, Twins._tracker),
    ((types.FunctionType, types.MethodType), Twins._function),
    (tuple(_CONTAINERS), Twins._container),
    ((tuple, frozenset), Twins._tuple),
    (functools.partial, Twins._partial),
    (np.ndarray, Twins._array),
    (keras.KerasTensor, Twins._symbolic),
)
