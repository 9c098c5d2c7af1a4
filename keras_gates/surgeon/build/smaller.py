"""What a layer of a user's class is to become, and how close another is."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs.attribute_paths import Path
from keras_gates.graphs.attribute_paths import parts_of

if TYPE_CHECKING:
    from keras_gates.surgeon.build.part_weights import Wanted

# Path of a config key -> its new value.
Edits: TypeAlias = Mapping[Path, Any]
Shapes: TypeAlias = dict[Path, tuple[int, ...]]


class NotKept(Exception):
    """The class of a layer can't be kept; the message is a clause."""


@dataclasses.dataclass(frozen=True, eq=False)
class Smaller:
    """What a layer of a user's class is to become.

    Attributes:
        layer: the layer, or model, as it is.
        args: the positional arguments of its call, with symbolic tensors.
        kwargs: those by keyword.
        model: a model of its parts at their final sizes, of the tensors among
            the arguments.
        weights: by path, what its weights are to be.
    """

    layer: keras.Layer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    model: keras.Model
    weights: Mapping[Path, Wanted]

    @property
    def shapes(self) -> Shapes:
        """The shapes of the weights by path."""
        return {path: each.shape for path, each in self.weights.items()}


def weight_shapes(layer: keras.Layer) -> Shapes:
    """The shapes of the weights of a layer by path."""
    found = parts_of(layer).variables
    return {path: tuple(x.shape) for path, x in found.items()}


def differences(got: Shapes, wanted: Shapes) -> set[tuple[Path, int]]:
    """The axes that differ, -1 for all of them, by path."""
    wrong = {(path, -1) for path in got.keys() ^ wanted.keys()}
    for path in got.keys() & wanted.keys():
        if len(got[path]) != len(wanted[path]):
            wrong.add((path, -1))
            continue
        pairs = zip(got[path], wanted[path], strict=True)
        wrong |= {(path, axis) for axis, (a, b) in enumerate(pairs) if a != b}
    return wrong


def known_classes(
    layer: keras.Layer,
) -> contextlib.AbstractContextManager[Any]:
    """Within, configs may speak of the classes of what a layer holds."""
    classes = {type(x) for x in private.sublayers(layer, own=True)}
    scope: contextlib.AbstractContextManager[Any]
    scope = keras.saving.custom_object_scope({c.__name__: c for c in classes})
    return scope


def build_like(new: keras.Operation, smaller: Smaller) -> Any:
    """Call a layer on symbolic inputs like those that it is to be called on.

    Warnings about it are those that the layer of the user has given before.
    """
    inputs = [
        keras.Input(batch_shape=kt.shape, dtype=kt.dtype)
        for kt in smaller.model.inputs
    ]
    args, kwargs = sampled.filled((smaller.args, smaller.kwargs), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return new(*args, **kwargs)
