"""The paths of weights and layers inside a layer, by its attributes.

Two layers of one class have their parts at the same paths, regardless of their
widths and the order in which weights were created.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict

# Names of attributes, keys of dicts and numbers in lists.
Path: TypeAlias = tuple[Any, ...]

_FOUND_BEFORE = "_layers"


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a layer, each by the shortest path to it.

    Attributes:
        layers: the layer itself, at `()`, and those inside.
        variables: the variables that these hold.
    """

    layers: dict[Path, keras.Layer]
    variables: dict[Path, keras.Variable]

    def layer_paths(self) -> IdentityDict[keras.Layer, Path]:
        """Layer -> its path."""
        return IdentityDict((x, path) for path, x in self.layers.items())

    def variable_paths(self) -> IdentityDict[keras.Variable, Path]:
        """Variable -> its path."""
        return IdentityDict((x, path) for path, x in self.variables.items())


def parts_of(layer: keras.Layer) -> Parts:
    """The parts of a layer, at any depth."""
    found = Parts({}, {})
    seen: set[int] = set()
    pending: collections.deque[tuple[Path, Any]]
    pending = collections.deque([((), layer)])
    while pending:
        path, value = pending.popleft()
        value = private.unwrapped(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, keras.Variable):
            found.variables[path] = value
        elif isinstance(value, keras.Layer):
            found.layers[path] = value
            pending += [((*path, k), v) for k, v in _attributes(value)]
        elif isinstance(value, dict):
            pending += [((*path, k), v) for k, v in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [((*path, n), v) for n, v in enumerate(value)]
    return found


def _attributes(layer: keras.Layer) -> Iterable[tuple[str, Any]]:
    """What a layer holds by name; the list of all of its layers is last."""
    held = private.attributes_of(layer)
    skipped = private.common_names() | private.OF_GRAPHS
    for name, value in held.items():
        if name not in skipped and not private.is_of_tensorflow(name):
            yield name, value
    if _FOUND_BEFORE in held:
        yield _FOUND_BEFORE, held[_FOUND_BEFORE]
