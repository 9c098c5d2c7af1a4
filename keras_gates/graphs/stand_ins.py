"""Symbolic tensors in place of a layer's variables.

Keras computes with a variable immediately, so `x * self.scale` could not be
recorded. With a symbolic tensor in its place, each use is an operation.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_gates.graphs import private


class SideEffect(Exception):
    """A `call` has side effects."""


class ReadsInside(SideEffect):
    """A `call` computes with the values of variables.

    Args:
        message: the message.
        variables: the variables, which may be those of layers inside.
    """

    def __init__(self, message: str, variables: list[keras.Variable]) -> None:
        super().__init__(message)
        self.variables = variables


class StandIn(keras.KerasTensor):
    """What a `call` finds in place of a variable.

    Args:
        variable: the variable.
        dtype: the type in which the layer reads it.
        label: the attribute of the layer that holds it.
    """

    def __init__(
        self, variable: keras.Variable, dtype: str, label: str
    ) -> None:
        super().__init__(tuple(variable.shape), dtype, name=variable.name)
        self.variable = variable
        self.label = label.strip("_")
        self.trainable = variable.trainable
        self.path = variable.path

    @property
    def value(self) -> StandIn:
        return self

    def __getitem__(self, key: Any) -> Any:
        # Keras records no index that is itself symbolic.
        if isinstance(key, keras.KerasTensor):
            return keras.ops.take(self, key, axis=0)
        return super().__getitem__(key)

    def assign(self, value: Any) -> None:
        """Refuse: the layer has a state."""
        raise SideEffect(f"it assigns its variable '{self.variable.name}'")

    assign_add = assign_sub = assign


@contextlib.contextmanager
def in_place(
    layer: keras.Layer, inside: Sequence[keras.Layer] = ()
) -> Iterator[list[StandIn]]:
    """Within, attributes of a layer that hold variables hold stand-ins.

    The variables of layers inside stay: those layers are called with them.
    But a table that is looked up by a constant is no symbolic call.

    Args:
        layer: the layer.
        inside: layers inside whose variables have stand-ins as well.

    Yields:
        The stand-ins.
    """
    made: dict[int, StandIn] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(layer, made))
        for part in private.sublayers(layer):
            read = any(part is each for each in inside)
            if read or type(part) is keras.layers.Embedding:
                stack.enter_context(_replaced(part, made, part.name))
        yield list(made.values())


def owners(
    layer: keras.Layer, variables: list[keras.Variable]
) -> list[keras.Layer]:
    """The layers inside a layer whose attributes hold one of some variables."""
    wanted = set(map(id, variables))
    return [
        part
        for part in private.sublayers(layer)
        if any(
            id(x) in wanted
            for name, value in vars(part).items()
            if name not in private.common_names()
            for x in keras.tree.flatten(private.unwrapped(value))
            if isinstance(x, keras.Variable)
        )
    ]


def _replaced(
    layer: keras.Layer, made: dict[int, StandIn], label: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """The scope in which a layer's own variables have stand-ins.

    Args:
        layer: the layer.
        made: gets them, by the ids of the variables.
        label: what they are called; by default, what their attribute is.
    """

    def stand_in(value: Any, name: str) -> Any:
        if not isinstance(value, keras.Variable):
            return value
        if id(value) not in made:
            dtype = private.read_dtype(layer, value)
            made[id(value)] = StandIn(value, dtype, label or name)
        return made[id(value)]

    found: dict[str, Any] = {}
    for name, value in sorted(vars(layer).items()):
        if name in private.common_names() or private.is_of_tensorflow(name):
            continue
        value = private.unwrapped(value)
        if _holds_variables(value):
            # A list that Keras tracks would track the stand-ins, too.
            found[name] = keras.tree.map_structure(
                functools.partial(stand_in, name=name), _untracked(value)
            )
    return private.attributes_set(layer, found)


def _holds_variables(value: Any) -> bool:
    if isinstance(value, keras.Variable):
        return True
    if not isinstance(value, (list, tuple, dict)):
        return False
    return any(isinstance(x, keras.Variable) for x in keras.tree.flatten(value))


def _untracked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untracked(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_untracked(x) for x in value]
    return value
