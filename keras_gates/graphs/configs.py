"""Creates layers from their configs, with the objects that configs name."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import create
from keras_gates.graphs import private
from keras_gates.graphs import twins as tw

# What a config names, and gives back as something else of that name.
_NAMED = (
    *(types.FunctionType, types.MethodType, keras.initializers.Initializer),
    *(keras.regularizers.Regularizer, keras.constraints.Constraint),
)


def from_configs(
    op: keras.Operation,
    *changes: dict[str, Any],
    accepted: Callable[[list[keras.Operation]], bool] | None = None,
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
    ways: tuple[Callable[[keras.Operation], dict[str, Any]], ...] = (
        _told,
        _recorded,
        by_object,
        kept_arguments,
    )
    first: list[keras.Operation] | None = None
    error: Exception | None = None
    for way in ways:
        try:
            with warnings.catch_warnings():
                # Keras warns of lambdas, which are put back as they were.
                warnings.simplefilter("ignore", UserWarning)
                made = [_from_config(op, way(op), each) for each in changes]
        except Exception as failure:
            error = error or failure
            continue
        if accepted is None or accepted(made):
            return made
        first = first or made
    if first is not None:
        return first
    if not isinstance(op, keras.Layer) and _keeps_arguments(op):
        return [_from_attributes(op, each) for each in changes]
    raise ValueError(
        f"'{op.name}' (of type {type(op).__name__}) can't be recreated "
        f"from its config: {error} Give the class a `get_config()` that "
        "returns every argument of its constructor, and register custom "
        "functions with `keras.saving.register_keras_serializable`."
    ) from error


def _told(op: keras.Operation) -> dict[str, Any]:
    return living(op, op.get_config())


def _recorded(op: keras.Operation) -> dict[str, Any]:
    config = private.recorded_config(op)
    if config is None:
        raise ValueError(f"Keras has no record of how '{op.name}' was created.")
    return living(op, {**config, "name": op.name})


def kept_arguments(op: keras.Operation) -> dict[str, Any]:
    """What a layer was told, if it keeps each argument under its name.

    Some `get_config` ask for attributes that are not there, or tell what the
    constructor does not take.

    Raises:
        ValueError: it keeps less, or is not a layer.
    """
    if not isinstance(op, keras.Layer) or not _keeps_arguments(op):
        raise ValueError(f"'{op.name}' does not keep its arguments.")
    config = {name: getattr(op, name) for name in _arguments(op)}
    parameters = inspect.signature(type(op).__init__).parameters.values()
    if any(x.kind is x.VAR_KEYWORD for x in parameters):
        config = {"dtype": op.dtype_policy, **config, "name": op.name}
    return living(op, config)


def living(op: keras.Operation, config: dict[str, Any]) -> dict[str, Any]:
    """A config with copies of what the layer holds in place of their names.

    Args:
        op: a layer or operation.
        config: its config.
    """
    held, config = private.attributes_of(op), dict(config)
    for key, value in config.items():
        live = held.get(key)
        if isinstance(live, _NAMED):
            config[key] = tw.Twins(None).twin(live)
        inner = isinstance(value, dict) and isinstance(
            value.get("config"), dict
        )
        if inner and isinstance(live, keras.Layer):
            config[key] = {**value, "config": living(live, value["config"])}
    return config


def config_of(op: keras.Operation) -> dict[str, Any]:
    """The config of a layer, with the very functions that it holds.

    Raises:
        Exception: whatever Keras raises for one without a config.
    """
    try:
        return _told(op)
    except Exception:
        return by_object(op)


def by_object(op: keras.Operation) -> dict[str, Any]:
    """A config with objects where Keras has no config of these.

    A `functools.partial`, a callable object and a regularizer without
    `get_config` can't be serialized, nor is every layer that is an activation
    made from its config, and yet constructors take them.
    """
    shell, hidden = _without_objects(op)
    config: dict[str, Any] = type(op).get_config(shell)
    _put_back(config, hidden)
    return config


def _without_objects(
    op: keras.Operation,
) -> tuple[keras.Operation, dict[str, Any]]:
    """A stand-in for a layer that asks for its config, and what it lacks.

    Returns:
        `(the layer without the objects, {name: object or such a dict})`, with
        a dict for each layer inside.
    """
    shell: keras.Operation = object.__new__(type(op))
    hidden: dict[str, Any] = {}
    state = vars(shell)
    state.update(vars(op))
    for name, value in private.attributes_of(op).items():
        if _is_argument(name, value):
            # Any function that Keras knows; not all may be None.
            state[name], hidden[name] = keras.activations.linear, value
        elif isinstance(value, keras.Layer) and name in private.INNER_LAYERS:
            state[name], hidden[name] = _without_objects(value)
    return shell, hidden


def _is_argument(name: str, value: Any) -> bool:
    """Whether an object is what a layer was told, and not a part of it."""
    if isinstance(value, keras.Layer):
        # One with weights is no function that a copy could share. Keras 3.9
        # takes a layer of its own for an activation, but not its config.
        return not value.weights and name not in private.INNER_LAYERS
    if create.is_of(type(value), keras.__name__):
        return False
    return callable(value) and not isinstance(value, type)


def _put_back(config: dict[str, Any], hidden: dict[str, Any]) -> None:
    for name, value in hidden.items():
        key = name if name in config else name.lstrip("_")
        inner = config.get(key)
        if isinstance(value, dict):
            # A recurrent layer tells the config of its cell as its own.
            nested = isinstance(inner, dict) and "config" in inner
            _put_back(config[key]["config"] if nested else config, value)
        elif key in config:
            config[key] = tw.Twins(None).twin(value)


def _from_config(
    op: keras.Operation,
    config: dict[str, Any],
    changes: dict[str, Any],
) -> keras.Operation:
    if type(op) is keras.layers.Lambda and not changes:
        return _same_function(op)
    new = type(op).from_config(merged(config, changes))
    if isinstance(op, keras.Layer):
        # The config that Keras makes for a class without `get_config` has a
        # name only if the constructor takes `name` or `**kwargs`, so called.
        new.name = changes.get("name", op.name)
        new.trainable = op.trainable
        for part, twin in zip(
            private.sublayers(op),
            private.sublayers(new),
            strict=False,
        ):
            twin.trainable = part.trainable
    return new


def _same_function(op: keras.layers.Lambda) -> keras.layers.Lambda:
    """A Lambda layer again; its config holds bytecode, without globals."""
    return keras.layers.Lambda(
        op.function,
        private.lambda_shape_of(op),
        op.mask,
        op.arguments,
        name=op.name,
        dtype=op.dtype_policy,
        trainable=op.trainable,
    )


def _arguments(op: keras.Operation) -> list[str]:
    parameters = inspect.signature(type(op).__init__).parameters.values()
    return [
        x.name
        for x in parameters
        if x.name not in ("self", "name")
        and x.kind not in (x.VAR_KEYWORD, x.VAR_POSITIONAL)
    ]


def _keeps_arguments(op: keras.Operation) -> bool:
    """Whether an operation keeps each argument under its name."""
    return all(hasattr(op, name) for name in _arguments(op))


def _from_attributes(
    op: keras.Operation, changes: dict[str, Any]
) -> keras.Operation:
    """A bare operation again, from the attributes of its arguments.

    Keras has no config of one that was given numbers or arrays of NumPy. The
    new one gets Python's, so that a model with it can be saved.
    """
    config = {name: _plain(getattr(op, name)) for name in _arguments(op)}
    return type(op)(**merged(config, changes), name=op.name)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's, and arrays of whole ones as lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(x) for x in value)
    # An array of fractions is data, which no backend takes as a list.
    whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return value.tolist() if whole or isinstance(value, np.generic) else value


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A config with changes; the configs of inner layers are merged too."""
    config = dict(config)
    for key, value in changes.items():
        old = config.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            config[key] = merged(old, value)
        else:
            config[key] = value
    return config
