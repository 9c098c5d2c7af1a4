"""What keeps the variables and layers of a layer, and its state."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from collections.abc import Container
from typing import Any

import keras

from keras_gates.graphs.private.tables import common_names
from keras_gates.graphs.private.tables import unwrapped


def tracker_of(layer: keras.Layer) -> Any:
    """What finds the variables and layers among a layer's attributes.

    Assumes: it is in `_tracker`.
    """
    return vars(layer)["_tracker"]


def stores_of(tracker: Any) -> dict[str, list[Any]]:
    """The lists into which a tracker puts what it finds, by kind.

    Assumes: `config` is `{kind: (test, list)}`.
    """
    return {kind: store for kind, (_, store) in tracker.config.items()}


def start_tracking(new: keras.Layer, like: keras.Layer) -> Any:
    """Give a layer that holds nothing yet a tracker; returns that.

    Assumes: a tracker is made of `config`, with lists of its own, and
    `exclusions`, which is `{kind: kinds}`.
    """
    old = tracker_of(like)
    config: dict[str, tuple[Any, list[Any]]] = {
        kind: (test, []) for kind, (test, _) in old.config.items()
    }
    exclusions = {k: list(kinds) for k, kinds in old.exclusions.items()}
    tracker = vars(new)["_tracker"] = type(old)(config, exclusions)
    return tracker


def tracker_state(tracker: Any) -> dict[str, Any]:
    """What a tracker holds, but for what `set_found` sets.

    Assumes: nothing else in it goes by the id of an object.
    """
    return {k: v for k, v in vars(tracker).items() if k != "stored_ids"}


def set_found(tracker: Any, found: dict[str, list[Any]]) -> None:
    """Let a tracker know what it has found, by kind.

    Assumes: `stored_ids` is `{kind: ids of what is in the list}`.
    """
    ids = {kind: {id(x) for x in store} for kind, store in found.items()}
    vars(tracker)["stored_ids"] = ids


def container_tracker(value: Any) -> Any:
    """The tracker of a list, dict or set that a layer holds, or None.

    Assumes: it is in the container's `tracker`.
    """
    return getattr(value, "tracker", None)


def tracked(kind: type[Any], values: Any, tracker: Any) -> Any:
    """A container of Keras with values; `tracker` sees what is put in later.

    Assumes: such a container is made of these two.
    """
    return kind(values, tracker)


def state_of(op: keras.Operation) -> dict[str, Any]:
    """What an operation holds, but for what `find_parameters` sets.

    Assumes: on torch, the parameters are `_torch_params` in `_modules`.
    """
    state = dict(vars(op))
    if _holds_parameters(op):
        parts = state["_modules"].items()
        state["_modules"] = {k: v for k, v in parts if k != "_torch_params"}
    return state


def find_parameters(old: keras.Operation, new: keras.Operation) -> None:
    """Let the torch module that a layer is find its parameters, as `old` did.

    Assumes: `_track_variables` makes `_torch_params` of the variables.
    """
    if _holds_parameters(old):
        new._track_variables()


def _holds_parameters(op: keras.Operation) -> bool:
    return "_torch_params" in vars(op).get("_modules", ())


def uncompiled() -> dict[str, Any]:
    """What a model holds for its training before it is compiled.

    Assumes: a model without arguments holds that, and what each layer does.
    `_compute_loss_has_training_arg` follows from the class.
    """
    held = vars(keras.Model())
    names = held.keys() - common_names() - {"_compute_loss_has_training_arg"}
    return {name: held[name] for name in names}


def books_without(value: Any, names: Container[str]) -> Any:
    """What TensorFlow keeps of the attributes of a layer, without some.

    Assumes: that is in lists of references, which have a `name`, and in dicts
    by name.
    """
    value = unwrapped(value)
    if isinstance(value, list):
        return [x for x in value if getattr(x, "name", None) not in names]
    if isinstance(value, dict):
        return {k: x for k, x in value.items() if k not in names}
    return value


class Unwrapped(Exception):
    """A function on a layer is not made as it is known to be."""


def rewrapped(
    function: types.FunctionType, old: keras.Layer, new: keras.Layer
) -> Callable[..., Any]:
    """The function in which a layer wraps its `build`, for another layer.

    Assumes: its closure holds nothing but the layer and methods of it, and
    `__wrapped__` is the method.

    Raises:
        Unwrapped: the closure holds something else.
    """
    cells = []
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        if isinstance(value, types.MethodType) and value.__self__ is old:
            value = types.MethodType(value.__func__, new)
        elif value is old:
            value = new
        else:
            raise Unwrapped(function)
        cells.append(types.CellType(value))
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        argdefs=function.__defaults__,
        closure=tuple(cells),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    wrapped: Any = vars(function)["__wrapped__"]
    return functools.update_wrapper(
        made, types.MethodType(wrapped.__func__, new)
    )
