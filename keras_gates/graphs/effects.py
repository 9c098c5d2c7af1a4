"""What a `call` does besides computing its outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import private
from keras_gates.graphs.stand_ins import ReadsInside
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.variables import values_of


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within, what a `call` does to variables and losses is noticed."""
    with private.watching() as seen:
        yield
    if seen.updated:
        names = ", ".join(f"'{v.name}'" for v in seen.updated)
        raise SideEffect(
            f"its `call` changes the state of {names}: it counts, or draws "
            "random numbers"
        )
    if seen.read:
        names = ", ".join(f"'{v.name}'" for v in seen.read)
        raise ReadsInside(
            f"its `call` computes with the values of {names}, a variable that "
            "none of its attributes holds",
            seen.read,
        )


def no_loss(*args: Any, **kwargs: Any) -> None:
    """What `add_loss` is while a `call` is run."""
    raise SideEffect("its `call` adds a loss")


@contextlib.contextmanager
def other_values(layer: keras.Layer) -> Iterator[None]:
    """Within, the variables of a layer have other values than before."""
    random, kept = np.random.default_rng(0), []
    for variable in layer.variables:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        value = values_of(variable)
        kept.append((variable, value))
        # What is a variance stays positive.
        step = random.uniform(0.05, 0.15, value.shape)
        variable.assign(
            value + (step * (1 + np.abs(value))).astype(value.dtype)
        )
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def held(layer: keras.Layer) -> dict[str, list[Any]]:
    """The attributes of a layer, containers by what is in them."""
    return {
        name: keras.tree.flatten(value)
        for name, value in private.attributes_of(layer).items()
        if name not in private.OF_CALLS | private.OF_SETTING
        and not private.is_of_tensorflow(name)
    }


def written(
    before: dict[str, list[Any]], after: dict[str, list[Any]]
) -> list[str]:
    """The names of the attributes that hold something else.

    Raises:
        SideEffect: one of them holds what has weights.
    """
    names = []
    for name, values in after.items():
        if [*map(id, before.get(name, [None]))] == [*map(id, values)]:
            continue
        if any(isinstance(x, (keras.Layer, keras.Variable)) for x in values):
            raise SideEffect(f"its `call` sets its attribute `{name}`")
        names.append(name)
    return names
