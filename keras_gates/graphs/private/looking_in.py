"""What a layer does in a call: what it reads, converts, and is told."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.masking import set_keras_mask
from keras.src.backend.common.variables import AutocastScope
from keras.src.layers.layer import CallContext

from keras_gates.graphs.private.training import autocasts


class Watch(keras.StatelessScope):
    """Within, what is done to variables and losses is noted, and not done.

    Assumes: `Variable.value` asks the innermost scope by
    `get_current_value`, `Variable.assign` tells it by `add_update`, and
    `add_loss` of a layer by `add_loss`; symbolic calls of layers and
    operations open a scope of their own.

    Attributes:
        read: the variables whose values were asked for.
        updated: those that were assigned.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.read: list[keras.Variable] = []
        self.updated: list[keras.Variable] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.append(variable)
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        self.updated.append(update[0])
        super().add_update(update)


def watching() -> Watch:
    """A `Watch`, for a `with` statement.

    Assumes: whoever reads a variable asks for its `value`.
    """
    return Watch()


def read_dtype(layer: keras.Layer, variable: keras.Variable) -> str:
    """The type in which the `call` of a layer reads a variable of its own.

    Assumes: it is the compute type of the layer, if both are of floats and
    neither says otherwise.
    """
    floats = map(
        keras.backend.is_float_dtype, (variable.dtype, layer.compute_dtype)
    )
    casts = layer.autocast and autocasts(variable) and all(floats)
    return str(layer.compute_dtype if casts else variable.dtype)


def computing(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which Keras runs the `call` of a layer.

    Assumes: it is an `AutocastScope` of its compute type, where layers
    autocast.
    """
    floats = keras.backend.is_float_dtype(layer.compute_dtype)
    casts = layer.autocast and floats
    dtype = layer.compute_dtype if casts else None
    scope: contextlib.AbstractContextManager[Any] = AutocastScope(dtype)
    return scope


def input_conversion(layer: keras.Layer) -> Callable[[Any], Any]:
    """What Keras does to each argument of a layer before its `call`.

    Assumes: it converts arrays and casts floats by the policy of the layer,
    unless `_convert_input_args` is unset.
    """

    def convert(x: Any) -> Any:
        if not layer._convert_input_args or not hasattr(x, "dtype"):
            return x
        mask = get_keras_mask(x)
        y = layer.dtype_policy.convert_input(
            x, layer.autocast, layer.input_dtype
        )
        if mask is not None and y is not x:
            set_keras_mask(y, mask)
        return y

    return convert


def takes_training(layer: keras.Layer) -> bool:
    """Whether the `call` of a layer is told of training.

    Assumes: `_call_has_training_arg` says so.
    """
    return bool(getattr(layer, "_call_has_training_arg", False))


@contextlib.contextmanager
def told(training: bool | None) -> Iterator[None]:
    """Within, layers that are called hear that the layer around them trains.

    Assumes: what the outermost call was told is in the `CallContext` that is
    the global attribute "current_call_ctx".
    """
    name = "current_call_ctx"
    before = global_state.get_global_attribute(name)
    context = CallContext(entry_layer=None)
    context.training = training
    global_state.set_global_attribute(name, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


def default_of_training(layer: keras.Layer) -> Any:
    """Whether the `call` of a layer trains if it is not told.

    Assumes: Keras takes the default of the argument `training`.
    """
    parameter = inspect.signature(layer.call).parameters.get("training")
    default = None if parameter is None else parameter.default
    return None if default is inspect.Parameter.empty else default


@functools.cache
def operation_names() -> frozenset[str]:
    """The names of what each operation holds, whatever its class.

    Assumes: an operation without arguments holds no more than that.
    """
    return frozenset(vars(keras.Operation()))
