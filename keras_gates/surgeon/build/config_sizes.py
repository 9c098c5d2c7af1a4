"""The numbers in a layer's config that may be sizes, and values to try."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import configs
from keras_gates.graphs import private
from keras_gates.graphs.attribute_paths import Path
from keras_gates.layers.gate import Gate

Config: TypeAlias = dict[str, Any]
# An old size, and the new one.
Resized: TypeAlias = tuple[int, int]

# What every layer has in its config, or what names a class.
_OTHERS = frozenset(
    (
        *("name", "dtype", "trainable", "seed", "module", "class_name"),
        *("registered_name",),
    )
)


def numbers(config: Config) -> dict[Path, int | float]:
    """The numbers in a config by path, those in lists and dicts included."""
    return {
        path: value
        for path, value in _leaves(config, ())
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def switches(layer: keras.Layer, config: Config) -> dict[Path, Any]:
    """What may leave out a gate, or bring a bias in: path -> other value."""
    found: dict[Path, Any] = {
        path: not value
        for path, value in _leaves(config, ())
        if isinstance(value, bool)
    }
    for key, value in private.attributes_of(layer).items():
        if isinstance(value, Gate) and key in config:
            found[key,] = None
    return found


def unset(config: Config) -> list[Path]:
    """The keys that are None, which may stand for a size that follows."""
    return [path for path, value in _leaves(config, ()) if value is None]


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        pairs = [(k, v) for k, v in value.items() if k not in _OTHERS]
    elif isinstance(value, (list, tuple)):
        pairs = [*enumerate(value)]
    else:
        yield path, value
        return
    for key, each in pairs:
        yield from _leaves(each, (*path, key))


def proposals(
    value: int | float, resized: Collection[Resized]
) -> list[int | float]:
    """What a number may become where sizes change; the likeliest first.

    It may be a size itself, a part of one (`heads` of `heads * size`), a
    multiple of one, or a ratio of two: `int(ratio * width)`.
    """
    found: list[int | float] = []
    for old, new in resized:
        if isinstance(value, float):
            # A width that it was multiplied by. To cut off what is after the
            # point, or to round, makes the new size of the second one.
            width = old / value if value > 0 else 0
            if width >= 1 and math.isclose(width, round(width), rel_tol=0.02):
                found += [new / round(width), (new + 0.25) / round(width)]
        elif value == old:
            found.insert(0, new)
        elif value > 1 and old % value == 0:
            found += [new // (old // value)] * (new % (old // value) == 0)
        elif value > old > 1 and value % old == 0:
            found.append(new * (value // old))
    return [x for x in dict.fromkeys(found) if x != value and x > 0]


def changes(config: Config, edits: Mapping[Path, Any]) -> Config:
    """The keys of a config with other values at some paths.

    Args:
        config: the config.
        edits: path -> new value.
    """
    found: Config = {}
    for path, value in edits.items():
        key, *rest = path
        found.setdefault(key, copy.deepcopy(config[key]) if rest else None)
        found[key] = _replaced(found[key], rest, value)
    return found


def _replaced(value: Any, path: list[Any], new: Any) -> Any:
    if not path:
        return new
    key, *rest = path
    if isinstance(value, tuple):
        items = list(value)
        items[key] = _replaced(items[key], rest, new)
        return tuple(items)
    value[key] = _replaced(value[key], rest, new)
    return value


def value_at(config: Config, path: Path) -> Any:
    """The value at a path of a config."""
    value: Any = config
    for key in path:
        value = value[key]
    return value


def own_config(layer: keras.Layer, recorded: bool = False) -> Config | None:
    """The config that a layer tells of itself, or None if it has none.

    Args:
        layer: the layer.
        recorded: whether the arguments of its constructor will do, as Keras
            has recorded them, or as the layer keeps them.
    """
    try:
        return dict(layer.get_config())
    except Exception:  # a class without a config may raise anything
        return _arguments(layer) if recorded else None


def _arguments(layer: keras.Layer) -> Config | None:
    config = private.recorded_config(layer)
    if config is not None:
        return config
    try:
        return configs.kept_arguments(layer)
    except ValueError:
        return None
