"""Computes TimeDistributed with a single call of its layer.

Its own `call` calls the layer once for each step, or in a function that is not
recorded. All steps at once are samples as any others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.graphs.stand_ins import SideEffect


def call_of(layer: keras.Layer) -> Callable[..., Any]:
    """The `call` of a layer, or what computes the same."""
    if time_axis.distributes(layer):
        return functools.partial(_all_steps, layer.layer)
    call: Callable[..., Any] = layer.call
    return call


def _all_steps(
    layer: keras.Layer,
    inputs: Any,
    training: bool | None = None,
    mask: Any = None,
) -> Any:
    masked = "mask" in inspect.signature(layer.call).parameters
    if mask is not None and masked:
        raise SideEffect("it passes its layer a mask for each step")
    told = {"training": training} if private.takes_training(layer) else {}
    sizes = keras.ops.shape(inputs)
    x = keras.ops.reshape(inputs, (-1, *sizes[time_axis.AXIS + 1 :]))
    y = layer(x, **told)
    if not isinstance(y, keras.KerasTensor):
        raise SideEffect("its layer returns more than one tensor")
    steps = sizes[time_axis.AXIS]
    return keras.ops.reshape(y, (-1, steps, *keras.ops.shape(y)[1:]))
