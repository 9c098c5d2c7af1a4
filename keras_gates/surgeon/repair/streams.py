"""Let the last branch before a sum take up what the others are off by.

Where a branch is added to a residual stream, what counts is the sum. The last
layer of the branch is fitted to what the sum of the original is, less what the
other operands are now, so that errors of a stream do not add up block by
block.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_gates.graphs import graph as gr
from keras_gates.graphs.readers import sole_reader
from keras_gates.surgeon.repair.norms import is_norm
from keras_gates.surgeon.repair.readers import readers_of
from keras_gates.surgeon.repair.readers import values_of
from keras_gates.surgeon.rules.virtual import VirtualGate

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.repair.forms import Array
    from keras_gates.surgeon.repair.readers import Reader

_SUMS = tuple(filter(None, (keras.layers.Add, gr.operation("numpy.Add"))))
# A normalization that hardly passes a channel on says nothing about it.
_LEAST = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A sum that a branch is the last operand of.

    Attributes:
        total: the sum, in the original.
        others: its other operands, in the smaller model.
        norm: the normalization at the end of the branch, or None.
    """

    total: Tensor
    others: tuple[Tensor, ...]
    norm: keras.layers.BatchNormalization | None

    def before_norm(self, wanted: Array, plain: Array) -> Array:
        """What the branch's last kernel has to compute, `(rows, channels)`.

        Args:
            wanted: what the branch has to add.
            plain: what the kernel of the original computes, for channels of
                which the normalization passes next to nothing on.
        """
        if self.norm is None:
            return wanted
        norm = self.norm
        spread = np.sqrt(values_of(norm.moving_variance) + norm.epsilon)
        scale = (
            np.ones_like(spread) if not norm.scale else values_of(norm.gamma)
        )
        shift = values_of(norm.beta) if norm.center else 0.0
        passed = np.abs(scale / spread)
        clear = passed > _LEAST * passed.max()
        back = (wanted - shift) * spread / np.where(clear, scale, 1.0)
        return np.where(clear, back + values_of(norm.moving_mean), plain)


def stream_of(
    new: Reader, old: Reader, graphs: tuple[Graph, Graph]
) -> Stream | None:
    """The `Stream` that a kernel ends a branch of; None where there is none.

    Args:
        new: the kernel in the smaller model.
        old: that in the original.
        graphs: those of the original and of the smaller model.
    """
    if new.activation is not keras.activations.linear or new.form.folded:
        return None
    made, before = (
        _sum_behind(graph, reader.call)
        for graph, reader in zip(graphs[::-1], (new, old), strict=True)
    )
    if made is None or before is None:
        return None
    call, operand, norm = made
    others = tuple(t for t in call.inputs if t is not operand)
    shapes = {tuple(t.shape) for t in call.inputs}
    if len(others) != len(call.inputs) - 1 or len(shapes) != 1:
        return None
    if any(_waits(graphs[1], t, new.call) for t in others):
        return None
    return Stream(before[0].outputs[0], others, norm)


def _sum_behind(
    graph: Graph, call: Call
) -> tuple[Call, Tensor, keras.layers.BatchNormalization | None] | None:
    """The sum that a call's output goes into, with its operand there."""
    tensor, norm = call.outputs[0], None
    while True:
        reader = sole_reader(graph, tensor)
        if reader is None:
            return None
        if isinstance(reader.op, _SUMS):
            return reader, tensor, norm
        if norm is None and is_norm(reader):
            norm = reader.op
        elif not isinstance(reader.op, VirtualGate):
            return None
        tensor = reader.outputs[0]


def _waits(graph: Graph, tensor: Tensor, call: Call) -> bool:
    """Whether a tensor depends on a kernel that is fitted after a call's."""
    order = {each: number for number, each in enumerate(graph.calls)}
    left, seen = [tensor], set()
    while left:
        producer = left.pop().producer
        if producer is None or producer in seen:
            continue
        seen.add(producer)
        if order[producer] >= order[call] and readers_of(producer):
            return True
        left += producer.inputs
    return False
