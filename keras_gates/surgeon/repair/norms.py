"""Batch normalizations: their statistics, and what their means stand for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.readers import sole_reader
from keras_gates.surgeon.repair.fit import Errors
from keras_gates.surgeon.repair.readers import values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.repair.forms import Array
    from keras_gates.surgeon.repair.readers import Reader


@dataclasses.dataclass(frozen=True, eq=False)
class Shift:
    """A normalization whose mean stands for the bias of what it reads.

    Attributes:
        norm: the layer.
    """

    norm: keras.layers.BatchNormalization

    def move(self, added: Array) -> None:
        """Let it find `added` in what it reads, `(channels,)`."""
        mean = self.norm.moving_mean
        mean.assign((values_of(mean) - added).astype("float32"))


def shift_behind(graph: Graph, readers: Sequence[Reader]) -> Shift | None:
    """The `Shift` of a layer without a bias; None where there is none."""
    first = readers[0]
    linear = first.activation is keras.activations.linear
    if len(readers) > 1 or first.bias is not None or not linear:
        return None
    call = sole_reader(graph, first.call.outputs[0])
    if call is None or not is_norm(call):
        return None
    rank = len(first.call.outputs[0].shape)
    alone = sum(other.op is call.op for other in graph.calls) == 1
    same = call.op.axis % rank == first.form.axis_out % rank
    return Shift(call.op) if alone and same and not first.form.folded else None


def is_norm(call: Call) -> bool:
    """Whether a call is one of a batch normalization with its statistics."""
    op = call.op
    return (
        type(op) is keras.layers.BatchNormalization
        and not gr.has_own_call(op)
        and call.kwargs.get("training") is not True
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """What a normalization does in inference: `x * scale + shift`.

    Attributes:
        scale: `(channels,)`.
        shift: `(channels,)`.
    """

    scale: Array
    shift: Array

    @classmethod
    def of(cls, norm: keras.layers.BatchNormalization) -> Affine:
        """That of a layer as it is."""
        mean, variance = map(
            values_of, (norm.moving_mean, norm.moving_variance)
        )
        return cls.with_statistics(norm, mean, variance)

    @classmethod
    def with_statistics(
        cls,
        norm: keras.layers.BatchNormalization,
        mean: Array,
        variance: Array,
    ) -> Affine:
        """That of a layer if it had these statistics."""
        scale = 1 / np.sqrt(variance + norm.epsilon)
        if norm.scale:
            scale = scale * values_of(norm.gamma)
        shift = -mean * scale
        return cls(
            scale, shift + values_of(norm.beta) if norm.center else shift
        )

    def __call__(self, x: Array) -> Array:
        return x * self.scale + self.shift


@dataclasses.dataclass(eq=False)
class Readings:
    """What a normalization reads, and what it should make of it.

    Attributes:
        x: what it reads in the smaller model, `(rows, channels)`.
        y: what that of the original puts out, `(rows, channels)`.
        held_out: `(rows,)`, bool.
    """

    x: Array
    y: Array
    held_out: NDArray[np.bool_]

    def error(self, affine: Affine) -> float:
        """The relative error on what is held out."""
        y = self.y[self.held_out]
        whole = ((y - y.mean(axis=0)) ** 2).sum()
        wrong = ((y - affine(self.x[self.held_out])) ** 2).sum()
        if whole <= 0:
            return 0.0 if wrong <= 0 else float("inf")
        return float(np.sqrt(wrong / whole))


def measure_again(
    norm: keras.layers.BatchNormalization, readings: Readings
) -> Errors | None:
    """Set the statistics to those of what is read, if that is better.

    Returns:
        The errors on what is held out; None where they did not become less.
    """
    before = readings.error(Affine.of(norm))
    fitted = readings.x[~readings.held_out]
    found = Affine.with_statistics(
        norm, fitted.mean(axis=0), fitted.var(axis=0)
    )
    after = readings.error(found)
    if not after < before:
        return None
    for weight, values in (
        (norm.moving_mean, readings.x.mean(axis=0)),
        (norm.moving_variance, readings.x.var(axis=0)),
    ):
        weight.assign(values.astype("float32"))
    return Errors(before, after)
