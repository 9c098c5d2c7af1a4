"""Detects side effects of a `call`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import private
from keras_gates.graphs.stand_ins import ReadsInside
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.variables import values_of

# Operations that call functions of the user's.
_CALLING = {
    cls: function
    for cls, function in (
        (private.operation("core.AssociativeScan"), "associative_scan"),
        (private.operation("core.Cond"), "cond"),
        (private.operation("core.ForiLoop"), "fori_loop"),
        (private.operation("core.Map"), "map"),
        (private.operation("core.Scan"), "scan"),
        (private.operation("core.Switch"), "switch"),
        (private.operation("core.VectorizedMap"), "vectorized_map"),
        (private.operation("core.WhileLoop"), "while_loop"),
    )
    if cls is not None
}


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


@contextlib.contextmanager
def no_functions() -> Iterator[None]:
    """Within, operations that call functions are noticed.

    A function reads what it has from where it was made, tensors and weights of
    the layer. No record has that.
    """
    seen: list[keras.Operation] = []

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(op: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(op)
            return call(op, *args, **kwargs)

        return noted

    with contextlib.ExitStack() as stack:
        for cls in _CALLING:
            call = noting(cls.symbolic_call)
            stack.enter_context(private.symbolic_call_set(cls, call))
        try:
            yield
        except Exception as error:
            if not seen:
                raise
            raise SideEffect(_calls(seen[0])) from error
    if seen:
        raise SideEffect(_calls(seen[0]))


def _calls(op: keras.Operation) -> str:
    return (
        f"its `call` uses `keras.ops.{_CALLING[type(op)]}`, which calls "
        "functions whose code is not recorded"
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
