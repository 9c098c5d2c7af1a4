"""Layers as objects: what they hold, and what is set on them for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras


def attributes_of(op: keras.Operation) -> dict[str, Any]:
    """The attributes of a layer or operation by name.

    Assumes: they are in its `__dict__`; those that are layers, on torch, in
    `_modules`.
    """
    return {**vars(op), **vars(op).get("_modules", {})}


def sublayers(op: Any, own: bool = False) -> list[keras.Layer]:
    """All layers inside a layer, at any depth; none for an operation.

    Assumes: `_flatten_layers` walks to those in nested and subclassed models,
    as `model.layers` does not.

    Args:
        op: the layer.
        own: whether the layer itself comes first.
    """
    if not isinstance(op, keras.Layer):
        return []
    return list(op._flatten_layers(include_self=own))


def has_sublayers(op: keras.Operation) -> bool:
    """Whether a layer holds layers of its own.

    Assumes: `_layers` lists them.
    """
    return isinstance(op, keras.Layer) and bool(op._layers)


def rename(op: keras.Operation, name: str) -> None:
    """Give a layer or operation another name, before it is called.

    Assumes: it is the attribute `name`, which the config tells; where Keras
    records the arguments of the constructor, it may be among them.
    """
    op.name = name
    auto = getattr(op, "_auto_config", None)
    if auto is not None and "name" in auto.config:
        auto.config["name"] = name


def copy_trainable(old: keras.Model, new: keras.Model) -> None:
    """Give a model the flag of another, leaving its layers' own alone.

    Assumes: `_trainable` is the model's own flag, and setting `trainable`
    sets those of its layers too.
    """
    new._trainable = old._trainable


def recorded_config(op: keras.Operation) -> dict[str, Any] | None:
    """The arguments of the constructor, which Keras records, or None.

    Assumes: `_auto_config.config` holds them.
    """
    auto = getattr(op, "_auto_config", None)
    return None if auto is None else dict(auto.config)


def lambda_shape_of(layer: keras.layers.Lambda) -> Any:
    """The argument `output_shape` of a Lambda layer.

    Assumes: it is kept as `_output_shape`, and the other arguments as they
    are called.
    """
    return layer._output_shape


def attention_projection(layer: keras.Layer, name: str) -> keras.Layer | None:
    """The projection of the query, key, value or output of attention.

    Assumes: it is a layer that is called `_query_dense`, and so on.
    """
    return getattr(layer, f"_{name}_dense", None)


@contextlib.contextmanager
def overheard(
    layer: keras.Layer, hear: Callable[[Any, Any], None]
) -> Iterator[None]:
    """Within, `hear` is told what a layer is called on, and what it returns.

    Assumes: a call of a layer asks the instance for `call`.

    Args:
        layer: a layer of one argument.
        hear: `(inputs, outputs) -> None`.
    """
    call = layer.call

    def told(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, *args, **kwargs)
        hear(inputs, outputs)
        return outputs

    with set_on(layer, "call", told):
        yield


def rebuild_at_init(layer: keras.Layer) -> None:
    """Build a layer as its constructor does, where it needs no shape.

    Assumes: the constructor calls `_build_at_init` at its end, if at all. The
    lowest Keras lacks it.
    """
    layer._build_at_init()


@contextlib.contextmanager
def known_output(op: keras.Operation, output: Any) -> Iterator[None]:
    """Within, a symbolic call of `op` gives `output`; no backend traces it.

    Assumes: a symbolic call asks the instance's `compute_output_spec` for its
    output, and nothing else.
    """
    with set_on(op, "compute_output_spec", lambda *a, **k: output):
        yield


@contextlib.contextmanager
def added_by(
    layer: keras.Layer, add: Callable[..., keras.Variable]
) -> Iterator[None]:
    """Within, `build` makes the weights of a layer by `add`.

    Assumes: `build` calls the instance's `add_weight`, whose first arguments
    are `shape`, `initializer` and `dtype`.

    Args:
        layer: the layer.
        add: is called in place of `add_weight`, with all arguments by
            name; where they can't be named, Keras' own method is.
    """

    def add_weight(*args: Any, **kwargs: Any) -> keras.Variable:
        named = dict(zip(("shape", "initializer", "dtype"), args, strict=False))
        if len(named) < len(args) or named.keys() & kwargs.keys():
            return type(layer).add_weight(layer, *args, **kwargs)
        return add(**named, **kwargs)

    with set_on(layer, "add_weight", add_weight):
        yield


@contextlib.contextmanager
def set_on(op: Any, name: str, value: Any) -> Iterator[None]:
    """Within, an attribute of the instance has another value.

    Assumes: it is found in the instance's `__dict__` before the class, and
    what is set there goes past the trackers.
    """
    state, unset = vars(op), object()
    before = state.get(name, unset)
    state[name] = value
    try:
        yield
    finally:
        state.pop(name, None)
        if before is not unset:
            state[name] = before
