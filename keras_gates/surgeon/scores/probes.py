"""Layers that watch a tensor and leave it as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


class Meter(keras.layers.Layer):
    """Adds up a measure of its input, channel by channel.

    Args:
        measure: a function of a tensor, elementwise.
        axis: the channel axis.
    """

    def __init__(
        self, measure: Callable[[Any], Any], axis: int, **kwargs: Any
    ) -> None:
        # What it watches goes on as it is, in whatever precision.
        super().__init__(dtype="float32", autocast=False, **kwargs)
        self.measure = measure
        self.axis = axis

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        # Keras takes `2 * x` for sparse; nothing is measured on symbols.
        return keras.KerasTensor(x.shape, x.dtype)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.sums = self.add_weight(
            shape=(input_shape[self.axis],),
            initializer="zeros",
            trainable=False,
        )

    def call(self, x: Any) -> Any:
        axis = self.axis % len(x.shape)
        rest = [a for a in range(len(x.shape)) if a != axis]
        means = ops.mean(ops.cast(self.measure(x), "float32"), axis=rest)
        self.sums.assign(
            self.sums + means * ops.cast(ops.shape(x)[0], "float32")
        )
        return x


class Nudge(keras.layers.Layer):
    """`x * (1 + nudge)`, with nudges of 0: their gradients are of interest.

    With a factor of 1 instead, a small gradient step would be lost in
    float32 rounding.

    Args:
        axis: the channel axis, or None for one nudge for all.
    """

    def __init__(self, axis: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = () if self.axis is None else (input_shape[self.axis],)
        self.nudge = self.add_weight(
            shape=shape, initializer="zeros", dtype="float32", autocast=False
        )

    def call(self, x: Any) -> Any:
        nudge = self.nudge
        if self.axis is not None:
            shape = [1] * len(x.shape)
            shape[self.axis] = -1
            nudge = ops.reshape(nudge, shape)
        return x + x * ops.cast(nudge, x.dtype)
