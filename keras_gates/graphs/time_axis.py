"""Moves the time axis of TimeDistributed into the batch, and back.

A model in TimeDistributed is read as if its calls saw one sample for each
step. These operations stand before it and after it; in no model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

AXIS = 1


@dataclasses.dataclass(eq=False)
class FoldTime:
    """Takes the axis of time into the batch."""

    name: str

    def call(self, x: Any) -> Any:
        return keras.ops.reshape(x, (-1, *x.shape[AXIS + 1 :]))

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        shape = (*x.shape[:AXIS], *x.shape[AXIS + 1 :])
        return keras.KerasTensor(shape, x.dtype)


@dataclasses.dataclass(eq=False)
class UnfoldTime:
    """Puts it back: `x` is what was folded."""

    name: str

    def call(self, y: Any, x: Any) -> Any:
        return keras.ops.reshape(y, (-1, x.shape[AXIS], *y.shape[1:]))

    def compute_output_spec(self, y: Any, x: Any) -> keras.KerasTensor:
        shape = (y.shape[0], x.shape[AXIS], *y.shape[1:])
        return keras.KerasTensor(shape, y.dtype)


def is_fold(op: Any) -> bool:
    """Whether an operation is one of these."""
    return isinstance(op, (FoldTime, UnfoldTime))


def distributes(op: keras.Operation) -> bool:
    """Whether an operation calls a layer step by step."""
    return type(op) is keras.layers.TimeDistributed


def layer_of(op: keras.Operation) -> keras.Operation:
    """The layer inside, or the operation itself."""
    return op.layer if distributes(op) else op


def again(op: keras.Layer, model: keras.Model) -> keras.Layer:
    """TimeDistributed like `op`, of the model that became of its own."""
    if not distributes(op):
        return model
    config = keras.Layer.get_config(op)
    return type(op)(model, **config)
