"""Make layers from their configs, with the objects that configs name."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import create
from keras_gates.graphs import twins as tw

# What a config names, and gives back as something else of that name.
_NAMED = (
    *(types.FunctionType, types.MethodType, keras.initializers.Initializer),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
)


def recreate(op: keras.Operation, changes: Any) -> Any:
    """A new operation from a config; without what the config forgets."""
    return from_configs(op, changes)[0]


def from_configs(
    op: keras.Operation,
    *changes: Any,
    accepted: Callable[..., Any] | None = None,
) -> list[keras.Operation]:
    """New operations of the same class, from one config of `op`.

    Keras records the arguments of constructors, which may be more than
    `get_config` tells.

    Args:
        op: a layer or operation.
        *changes: for each new one, the changes to the config.
        accepted: `new ones -> bool`: whether this config serves. If none
            does, it is the first from which they can be made.

    Raises:
        ValueError: the config does not round-trip.
    """
    auto = getattr(op, "_auto_config", None)
    ways = (
        lambda: living(op, op.get_config()),
        lambda: living(op, {**auto.config, "name": op.name}),
        lambda: by_object(op),
    )
    first = error = None
    for way in ways:
        try:
            with warnings.catch_warnings():
                # Keras warns of lambdas, which are put back as they were.
                warnings.simplefilter("ignore", UserWarning)
                made = [_from_config(op, way(), each) for each in changes]
        except Exception as failure:
            error = error or failure
            continue
        if accepted is None or accepted(made):
            return made
        first = first or made
    if first is not None:
        return first
    if not isinstance(op, keras.Layer):
        made = [_from_attributes(op, each) for each in changes]
        if None not in made:
            return made
    raise ValueError(
        f"'{op.name}' (of type {type(op).__name__}) can't be recreated "
        f"from its config: {error} Give the class a `get_config()` that "
        "returns every argument of its constructor, and register custom "
        "functions with `keras.saving.register_keras_serializable`."
    ) from error


def living(op: keras.Operation, config: dict[str, Any]) -> dict[str, Any]:
    """A config with copies of what the layer holds in place of their names.

    Args:
        op: a layer or operation.
        config: its config.
    """
    held, config = create.held(op), dict(config)
    for key, value in config.items():
        live = held.get(key)
        if isinstance(live, _NAMED):
            config[key] = tw.Twins(None).of(live)
        inner = isinstance(value, dict) and isinstance(
            value.get("config"), dict
        )
        if inner and isinstance(live, keras.Layer):
            config[key] = {**value, "config": living(live, value["config"])}
    return config


def config_of(op: keras.Operation) -> Any:
    """The config of a layer, with the very functions that it holds.

    Raises:
        Exception: whatever Keras raises for one without a config.
    """
    try:
        return living(op, op.get_config())
    except Exception:
        return by_object(op)


def by_object(op: keras.Layer) -> dict[str, Any]:
    """A config with objects where Keras has no config of these.

    A `functools.partial`, a callable object and a regularizer without
    `get_config` can't be serialized, and yet constructors take them.
    """
    shell, hidden = _without_objects(op)
    config = type(op).get_config(shell)
    _put_back(config, hidden)
    return config


def _without_objects(op: keras.Layer) -> tuple[keras.Layer, dict[str, Any]]:
    """A stand-in for a layer that asks for its config, and what it lacks.

    Returns:
        `(the layer without the objects, {name: object or such a dict})`, with
        a dict for each layer inside.
    """
    shell, hidden = object.__new__(type(op)), {}
    state = vars(shell)
    state.update(vars(op))
    for name, value in create.held(op).items():
        if _is_argument(value):
            # Any function that Keras knows; not all may be None.
            state[name], hidden[name] = keras.activations.linear, value
        elif isinstance(value, keras.Layer) and name in _INNER:
            state[name], hidden[name] = _without_objects(value)
    return shell, hidden


# Where wrappers and recurrent layers hold the layer that does the work.
_INNER = ("layer", "cell", "forward_layer", "backward_layer")


def _is_argument(value: Any) -> bool:
    """Whether an object is what a layer was told, and not a part of it."""
    if create.is_of(type(value), keras.__name__):
        return False
    if isinstance(value, keras.Layer):
        # One with weights is no function that a copy could share.
        return not value.weights
    return callable(value) and not isinstance(value, type)


def _put_back(config: dict[str, Any], hidden: dict[str, Any]) -> None:
    for name, value in hidden.items():
        key = name if name in config else name.lstrip("_")
        inner = config.get(key)
        if isinstance(value, dict):
            # A recurrent layer tells the config of its cell as its own.
            nested = isinstance(inner, dict) and "config" in inner
            _put_back(inner["config"] if nested else config, value)
        elif key in config:
            config[key] = tw.Twins(None).of(value)


def _from_config(
    op: keras.Operation,
    config: dict[str, Any],
    changes: dict[str, int | tuple[int]],
) -> keras.Operation:
    if type(op) is keras.layers.Lambda and not changes:
        return _same_function(op)
    new = type(op).from_config(merged(config, changes))
    if isinstance(op, keras.Layer):
        new.trainable = op.trainable
        for part, twin in zip(
            op._flatten_layers(include_self=False),
            new._flatten_layers(include_self=False),
            strict=False,
        ):
            twin.trainable = part.trainable
    return new


def _same_function(op: keras.Operation) -> Any:
    """A Lambda layer again; its config holds bytecode, without globals."""
    return keras.layers.Lambda(
        op.function,
        op._output_shape,
        op.mask,
        op.arguments,
        name=op.name,
        dtype=op.dtype_policy,
        trainable=op.trainable,
    )


def _from_attributes(op: keras.Operation, changes: Any) -> Any:
    """A bare operation again, from the attributes of its arguments.

    Keras has no config of one that was given numbers or arrays of NumPy. The
    new one gets Python's, so that a model with it can be saved.

    Returns:
        None if it does not keep each argument under its name.
    """
    names = inspect.signature(type(op).__init__).parameters
    wanted = [name for name in names if name not in ("self", "name")]
    if not all(hasattr(op, name) for name in wanted):
        return None
    config = {name: _plain(getattr(op, name)) for name in wanted}
    return type(op)(**merged(config, changes), name=op.name)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, and arrays of whole ones as lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(x) for x in value)
    # An array of fractions is data, which no backend takes as a list.
    whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return value.tolist() if whole or isinstance(value, np.generic) else value


def merged(
    config: dict[str, Any], changes: dict[str, int | tuple[int]]
) -> dict[str, Any]:
    """A config with changes; the configs of inner layers are merged too."""
    config = dict(config)
    for key, value in changes.items():
        old = config.get(key)
        inner = isinstance(value, dict) and isinstance(old, dict)
        config[key] = merged(old, value) if inner else value
    return config
