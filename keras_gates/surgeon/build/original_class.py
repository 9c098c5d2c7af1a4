"""Restores the class that a model had before gates were inserted.

Its constructor makes blocks of layers, so many as a number in its config says.
Where whole blocks have gone, a smaller number makes a model with as many
weights as are left; they are handed over in order, block by block. It stands in
for what was pruned only if each weight has just the shape of the one that it
gets, and if both compute the same on sample inputs, with these weights and
with others.
"""

from __future__ import annotations

import collections
import copy
import itertools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs import origins
from keras_gates.graphs import private
from keras_gates.graphs.attribute_paths import Path
from keras_gates.graphs.attribute_paths import parts_of
from keras_gates.graphs.origins import Origin
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.build import config_sizes as cs
from keras_gates.surgeon.build import kept_class as kc
from keras_gates.surgeon.build.part_weights import Wanted
from keras_gates.surgeon.build.smaller import Edits
from keras_gates.surgeon.build.smaller import NotKept
from keras_gates.surgeon.build.smaller import Smaller

# So many blocks are made by a number at most.
_MOST = 256
# How many numbers are tried for that of the blocks.
_TRIALS = 12
# An open gate that is nearly one shows.
_NEAR = 1e-5
# Words in the name of such a number; those that have one are tried first.
_WORDS = ("layer", "depth", "block", "stage")

# A weight of the class's model, and the one whose values it gets.
Pairs: TypeAlias = list[tuple[keras.Variable, keras.Variable]]
# Of the name of a layer, the layer, and its weight.
Key: TypeAlias = Callable[[str, keras.Layer, keras.Variable], tuple[str, ...]]
# Layers with weights that are in one layer of the class, by their paths in it.
Block: TypeAlias = dict[tuple[str, ...], keras.Layer]


def edits(origin: Origin, new: keras.Model) -> Edits:
    """The changes to the config that lead to a model like a pruned one.

    Args:
        origin: what the model was made of.
        new: the functional model that was pruned.

    Raises:
        NotKept: there are none.
    """
    for depth in _depths(origin, len(new.weights)):
        found = _resized(origin, depth, new)
        if found is not None:
            return found
    raise NotKept(
        "no change of the numbers in its config makes a model with the "
        "remaining weights"
    )


def made(origin: Origin, new: keras.Model, edits: Edits) -> keras.Model:
    """A model of the class, with the weights of a pruned one.

    Raises:
        NotKept: it can't be made so.
    """
    model = _model(origin, edits)
    if model is None or not _fill(model, new):
        raise NotKept("it can't be made again from its config")
    return model


def changed(origin: Origin, edits: Edits) -> dict[Path, tuple[Any, Any]]:
    """What becomes of the keys of the config, `(old, new)` by path."""
    return {
        path: (cs.value_at(origin.config, path), value)
        for path, value in edits.items()
    }


def _depths(origin: Origin, count: int) -> Iterator[Edits]:
    """Changes to one number that may lead to so many weights.

    By what it makes of them where it is smaller by one.
    """
    gone = origin.weights - count
    if gone < 0:
        return
    if gone == 0:
        yield {}
        return
    numbers = [
        (path, value)
        for path, value in cs.numbers(origin.config).items()
        if type(value) is int and 1 < value <= _MOST
    ]
    numbers.sort(key=lambda pair: not _is_likely(pair[0]))
    for path, value in numbers[:_TRIALS]:
        less = _model(origin, {path: value - 1})
        each = 0 if less is None else origin.weights - len(less.weights)
        if each > 0 and gone % each == 0 and value > gone // each:
            yield {path: value - gone // each}


def _is_likely(path: tuple[Any, ...]) -> bool:
    return any(word in str(path[-1]) for word in _WORDS)


def _resized(origin: Origin, depth: Edits, new: keras.Model) -> Edits | None:
    """The changes with those to sizes, if a model made so computes the same."""
    model = _model(origin, depth)
    if model is None:
        return None
    sizes: dict[int, int] = {}
    for variable, source in _pairs(model, new, _by_name):
        if len(variable.shape) == len(source.shape):
            pairs = zip(variable.shape, source.shape, strict=True)
            sizes.update((a, b) for a, b in pairs if a != b)
    resized = {
        path: sizes[value]
        for path, value in cs.numbers(origin.config).items()
        if isinstance(value, int) and value in sizes and path not in depth
    }
    found = {**depth, **resized}
    if resized:
        model = _model(origin, found)
    if model is None or not _fill(model, new):
        return None
    again = _remade(model)
    return found if again is not None and _fill(again, new) else None


def _model(origin: Origin, edits: Edits) -> keras.Model | None:
    """A model of the class with other numbers, if one can be made."""
    config = copy.deepcopy(origin.config)
    config.update(cs.changes(config, edits))
    try:
        model = origin.cls.from_config(config)
    except Exception:  # the class may raise anything for such a config
        return None
    return model if gr.is_functional(model) else None


def _remade(model: keras.Model) -> keras.Model | None:
    """A model from the config that one tells."""
    try:
        return _model(Origin(type(model), model.get_config(), 0), {})
    except Exception:  # as above
        return None


def _fill(model: keras.Model, new: keras.Model) -> bool:
    """Give a model the weights of another, if both compute the same then."""
    inputs, _ = gr.structures(new)
    where = parts_of(model).variable_paths()
    for key in (_by_name, _by_class):
        pairs = _pairs(model, new, key)
        sizes = [[math.prod(x.shape) for x in pair] for pair in pairs]
        if not pairs or any(a != b for a, b in sizes):
            continue
        weights = {
            where[a]: Wanted(tuple(a.shape), b) for a, b in pairs if a in where
        }
        if len(weights) < len(pairs):
            continue
        for variable, source in pairs:
            variable.assign(values_of(source).reshape(variable.shape))
            variable.trainable = source.trainable
        smaller = Smaller(model, (inputs,), {}, new, weights)
        if kc.same(model, smaller, _NEAR):
            with kc.other_weights(model, weights):
                if kc.same(model, smaller, _NEAR):
                    return True
    return False


def _pairs(model: keras.Model, new: keras.Model, key: Key) -> Pairs:
    """Each weight of a model and its counterpart; none if some have none.

    Layer by layer in order, since blocks that are left move up. In a layer of
    the class, weights come in another order than in what it is made of.

    Args:
        model: a model of the class.
        new: the pruned one.
        key: equal for weights in two layers that may be counterparts.
    """
    found: Pairs = []
    blocks = _blocks(model), _blocks(new)
    if len(blocks[0]) != len(blocks[1]):
        return []
    for own, other in zip(*blocks, strict=True):
        mine, rest = _by_key(own, key), _by_key(other, key)
        alike = [k for k in mine if len(mine[k]) == len(rest.get(k, ()))]
        for name in alike:
            found += zip(mine.pop(name), rest.pop(name), strict=True)
        # A weight of a layer is in one of another name once it is written out.
        left = [
            sorted(itertools.chain(*each.values()), key=_entries)
            for each in (mine, rest)
        ]
        if len(left[0]) != len(left[1]):
            return []
        found += zip(*left, strict=True)
    return found


def _blocks(model: keras.Model) -> list[Block]:
    """The layers with weights, in order; together what was in one layer."""
    origin = origins.origin_of(model)
    parts = {} if origin is None else origin.parts
    found: dict[str, Block] = {}
    for layer in model.layers:
        path = parts.get(layer.name, (layer.name,))
        if layer.weights:
            found.setdefault(path[0], {})[path] = layer
    return [*found.values()]


def _entries(weight: keras.Variable) -> int:
    return math.prod(weight.shape)


def _by_key(
    block: Block, key: Key
) -> dict[tuple[str, ...], list[keras.Variable]]:
    """The weights of layers and of those inside, by what they are."""
    found = collections.defaultdict(list)
    for path, layer in block.items():
        owners = {  # the innermost comes last
            id(weight): part
            for part in private.sublayers(layer, own=True)
            for weight in part.weights
        }
        for weight in layer.weights:
            part = owners[id(weight)]
            own = path[-1] if part is layer else part.name
            found[key(own, part, weight)].append(weight)
    return dict(found)


def _by_name(
    name: str, part: keras.Layer, weight: keras.Variable
) -> tuple[str, ...]:
    return name, weight.name


def _by_class(
    name: str, part: keras.Layer, weight: keras.Variable
) -> tuple[str, ...]:
    return type(part).__name__, weight.name
