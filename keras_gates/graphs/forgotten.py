"""Finds what a config forgets of a layer, and carries it over.

A layer that changes its size is made from its config, and a config may lose
what the layer holds: a user's function comes back as the one of Keras
that has its name, an argument that `get_config` omits as its default. Here
the layer is compared, attribute by attribute, with one made from the config
as it is. What differs was forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import create
from keras_gates.graphs import private
from keras_gates.graphs import twins as tw
from keras_gates.graphs.twins import Twins
from keras_gates.graphs.twins import Uncopied


def carry(
    old: keras.Operation,
    new: keras.Operation,
    base: keras.Operation,
    twins: Twins,
) -> None:
    """Copy to a layer what the config of the old one forgets.

    Args:
        old: the layer or operation.
        new: one made from its config with changes; not built.
        base: one made from its config as it is; not built.
        twins: `Twins` for what is carried.

    Raises:
        ValueError: something can't be carried, or a change bears on it.
    """
    twins.note_layer(old, new)
    _carry(old, new, base, twins, "")


def forgets(
    old: keras.Operation,
    new: keras.Operation,
    changes: Container[str] = (),
) -> bool:
    """Whether one made from the config of `old` lacks something of it.

    But for what `changes` speak of. Layers inside are left to `carry`.
    """
    lacks = _suspects(old, attributes(old), attributes(new))
    return any(name not in changes for name in lacks)


def carry_more(old: keras.Layer, new: keras.Layer, twins: Twins) -> None:
    """Give a built layer what else the user has put on the old one.

    Its class doesn't know of it; the user's code may.
    """
    twins.note_layer(old, new)
    held, got = attributes(old), attributes(new)
    for name in held.keys() - got.keys():
        # Weights that only the old one has were left out on purpose.
        if not _has_state(held[name]):
            with contextlib.suppress(Uncopied):
                setattr(new, name, twins.twin(held[name]))


def attributes(op: keras.Operation) -> dict[str, Any]:
    """What a layer or operation holds, but for what Keras keeps books of."""
    common = private.common_names() - private.OF_FUNCTION
    skipped = common | private.OF_GRAPHS | private.OF_TORCH
    return {
        name: value
        for name, value in private.attributes_of(op).items()
        if name not in skipped and not private.is_of_tensorflow(name)
    }


def _carry(
    old: keras.Operation,
    new: keras.Operation,
    base: keras.Operation,
    twins: Twins,
    path: str,
) -> None:
    held, got, plain = (attributes(x) for x in (old, new, base))
    pairs = [(held[n], got.get(n), plain[n]) for n in held if n in plain]
    for part, twin, _ in _layers(pairs):
        twins.note_layer(part, twin)
    for part, twin, like in _layers(pairs):
        _carry(part, twin, like, twins, f"{path}{part.name}/")
    names = _suspects(old, held, plain)
    built = plain
    if names and _build(base, old):
        built = attributes(base)
    for name in names:
        where, value = f"{path}{name}", held[name]
        # What `build` sets alike, it sets for the new layer.
        if name in built and _same(name, held, built):
            continue
        # As `new` isn't built yet, it holds what `base` did, unless one of
        # the changes bears on it; and `build` would undo what is carried.
        for other, like in ((got, plain), (plain, built)):
            if name in like and not (
                name in other and _same(name, other, like)
            ):
                raise _lost(old, where, value, like[name])
        try:
            setattr(new, name, twins.twin(value))
        except Uncopied as error:
            raise _lost(old, where, value, error) from error


def _suspects(
    old: keras.Operation, held: dict[str, Any], plain: dict[str, Any]
) -> list[str]:
    """The names of what a layer holds and one made from its config doesn't.

    Left out are the weights that `build` makes. A layer of Keras has all of
    its arguments in its config, and its code asks for no attributes but its
    own; what else it holds was set by `build`.
    """
    stock = create.is_of(type(old), keras.__name__)
    found = []
    for name, value in held.items():
        before = plain.get(name)
        if name in plain and same(value, before):
            continue
        hides = stock and name not in plain and hasattr(type(old), name)
        unset = before is None or (_is_list(before) and not before)
        if hides or not (unset and (stock or _is_weight(value))):
            found.append(name)
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, dict, set, tuple))


def _same(name: str, left: dict[str, Any], right: dict[str, Any]) -> bool:
    return same(left[name], right[name])


def _build(base: keras.Operation, old: keras.Operation) -> bool:
    """Whether `base` is built like the old layer, by the user's code."""
    stock = create.is_of(type(old), keras.__name__)
    if stock or not getattr(old, "built", False) or base.built:
        return False
    try:
        base.build_from_config(old.get_build_config())
    except Exception:  # then what `build` sets isn't known
        return False
    return bool(base.built)


_STATE = (keras.Variable, keras.Layer, keras.random.SeedGenerator)


def _is_weight(value: Any) -> bool:
    """Whether there is nothing but weights and layers in a value."""
    leaves = keras.tree.flatten(value)
    return bool(leaves) and all(isinstance(x, _STATE) for x in leaves)


def _has_state(value: Any) -> bool:
    return any(isinstance(x, _STATE) for x in keras.tree.flatten(value))


def _layers(
    rows: Iterable[tuple[Any, Any, Any]],
) -> Iterator[tuple[keras.Layer, keras.Layer, keras.Layer]]:
    """The layers that stand at the same place in each of a row's values."""
    for values in rows:
        leaves = [keras.tree.flatten(value) for value in values]
        if len({len(x) for x in leaves}) > 1:
            continue
        for parts in zip(*leaves, strict=True):
            kinds = {type(x) for x in parts}
            if len(kinds) == 1 and isinstance(parts[0], keras.Layer):
                yield parts


def _lost(old: keras.Operation, where: str, value: Any, got: Any) -> ValueError:
    return ValueError(
        f"Layer '{old.name}' (of type {type(old).__name__}) can't be copied: "
        f"its `{where}` is {_shown(value)}, and a layer made from its config "
        f"has {_shown(got)} there. Give the class a `get_config()` that "
        "returns every argument of its constructor, and register custom "
        "functions with `keras.saving.register_keras_serializable`."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


# Comparison ---------------------------------------------------------------


def same(left: Any, right: Any) -> bool:
    """Whether two objects hold the same; weights and layers count as such.

    `_carry` looks into layers, and weights are compared as they are set.
    """
    return _Comparison().alike(left, right)


class _Comparison:
    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def alike(self, left: Any, right: Any) -> bool:
        if left is right:
            return True
        if type(left) is not type(right):
            return False
        # Of objects that refer to each other, each pair is looked at once.
        key = (id(left), id(right))
        if key in self.seen:
            return True
        self.seen.add(key)
        for kinds, alike in _ALIKE:
            if isinstance(left, kinds):
                return bool(alike(self, left, right))
        return self._objects(left, right)

    def _skipped(self, left: Any, right: Any) -> bool:
        return True

    def _initializers(self, left: Any, right: Any) -> bool:
        """Without a seed of their own, each draws one."""
        try:
            return bool(left.get_config() == right.get_config())
        except Exception:
            return self.alike(vars(left), vars(right))

    def _equal(self, left: Any, right: Any) -> bool:
        return bool(left == right or (left != left and right != right))

    def _arrays(self, left: Any, right: Any) -> bool:
        left, right = map(keras.ops.convert_to_numpy, (left, right))
        alike = (left.shape, left.dtype) == (right.shape, right.dtype)
        return bool(alike and np.array_equal(left, right))

    def _sequences(self, left: Any, right: Any) -> bool:
        return len(left) == len(right) and all(map(self.alike, left, right))

    def _dicts(self, left: dict[Any, Any], right: dict[Any, Any]) -> bool:
        return left.keys() == right.keys() and all(
            self.alike(left[key], right[key]) for key in left
        )

    def _functions(self, left: Any, right: Any) -> bool:
        return left.__code__ is right.__code__ and all(
            self.alike(getattr(left, name), getattr(right, name))
            for name in ("__defaults__", "__kwdefaults__", "__closure__")
        )

    def _cells(self, left: Any, right: Any) -> bool:
        return self.alike(left.cell_contents, right.cell_contents)

    def _methods(self, left: Any, right: Any) -> bool:
        parts = (left.__func__, left.__self__)
        return self._sequences(parts, (right.__func__, right.__self__))

    def _partials(self, left: Any, right: Any) -> bool:
        parts = (left.func, left.args, left.keywords)
        return self.alike(parts, (right.func, right.args, right.keywords))

    def _symbols(self, left: Any, right: Any) -> bool:
        return bool((left.shape, left.dtype) == (right.shape, right.dtype))

    def _objects(self, left: Any, right: Any) -> bool:
        if keras.ops.is_tensor(left):
            return self._arrays(left, right)
        if create.is_of(type(left), "tensorflow"):
            # A table or another resource, which its layer fills.
            return True
        if hasattr(left, "__dict__"):
            return self.alike(vars(left), vars(right))
        return bool(left == right)


_ALIKE: tuple[tuple[Any, Callable[[_Comparison, Any, Any], bool]], ...] = (
    (keras.Variable, _Comparison._skipped),
    (keras.random.SeedGenerator, _Comparison._skipped),
    (keras.Layer, _Comparison._skipped),
    (private.TRACKER, _Comparison._skipped),
    (keras.KerasTensor, _Comparison._symbols),
    (keras.initializers.Initializer, _Comparison._initializers),
    (tw.FIXED, _Comparison._equal),
    (np.ndarray, _Comparison._arrays),
    ((list, tuple), _Comparison._sequences),
    (dict, _Comparison._dicts),
    ((set, frozenset), _Comparison._equal),
    (types.MethodType, _Comparison._methods),
    (types.FunctionType, _Comparison._functions),
    (types.CellType, _Comparison._cells),
    (functools.partial, _Comparison._partials),
)
