"""Simplifies 1x1 convolutions that only select channels."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.passes.worth import GATHERING
from keras_gates.surgeon.rules.rule import channel_axis

if TYPE_CHECKING:
    from keras_gates.graphs.rewrite import Recall

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


def simplify_selections(model: keras.Model) -> keras.Model:
    """Remove 1x1 convolutions that copy channels, or gather instead.

    `separate_shortcuts` starts its convolutions as identities. If these were
    not trained before channels were pruned, each column of a kernel has a
    single 1, or only zeros if its channel was removed before. If the result is
    the identity, the layer is removed. If it selects channels, a gather
    (`keras.ops.take`) replaces it where that is cheaper: moving a value takes
    as long as about 16 multiply-adds, so it is not for a kernel of 16 inputs or
    fewer. The remaining convolutions keep their cost: compare with the network
    *before* `separate_shortcuts`.

    The function does not change. Removed convolutions can't be trained any
    more: simplify before fine-tuning to keep the network small, or not at all
    to let the shortcuts learn.

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        A new model with the same weights, not compiled.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or has no recorded graph.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.resnet(14)
    >>> separated = kg.separate_shortcuts(model)
    >>> kg.stats.compare(model, separated).macs_removed < 0
    True
    >>> back = kg.transforms.simplify_selections(separated)
    >>> kg.stats.compare(model, back).macs_removed
    0.0
    """
    made: IdentityDict[keras.Operation, list[keras.Operation]]
    made = IdentityDict()

    def edit(recall: Recall) -> Any:
        op = recall.op
        indices = _selected(op)
        if indices is None:
            return None
        x = recall.args[0]
        if recall.site.node.outputs[0].dtype != x.dtype:
            return None  # In mixed precision, the layer casts as well.
        inputs = values_of(op.kernel).shape[-2]
        if np.array_equal(indices, np.arange(inputs)):
            return x
        if not _cheaper(inputs, indices):
            return None
        if op not in made:
            zeros = bool((indices < 0).any())
            made[op] = _operations(op, len(x.shape), zeros)
        for operation in made[op][:-1]:
            x = operation(x)
        # The channel of zeros is the last one.
        picked = np.where(indices < 0, inputs, indices).tolist()
        return made[op][-1](x, indices=picked)

    return rewrite(see_through.read_to_write(model), edit)


def _cheaper(inputs: int, indices: NDArray[np.intp]) -> bool:
    """Whether moving values costs less than multiplying all inputs."""
    moved = indices.size
    if (indices < 0).any():
        moved += inputs + 1
    return GATHERING * moved < inputs * indices.size


def _operations(
    op: keras.Operation, rank: int, zeros: bool
) -> list[keras.Operation]:
    """A gather with the layer's name, after padding for selected zeros."""
    axis = channel_axis(op, rank)
    take = _operation("numpy.Take")(axis=axis)
    take.name = op.name
    if not zeros:
        return [take]
    widths = tuple((0, int(a == axis)) for a in range(rank))
    pad = _operation("numpy.Pad")(widths)
    pad.name = f"{op.name}_zero"
    return [pad, take]


def _operation(name: str) -> type[Any]:
    found = gr.operation(name)
    if found is None:
        raise ValueError(
            f"This version of Keras has no operation '{name}', which "
            "`simplify_selections` needs for gathers. Install another "
            "version."
        )
    return found


def _selected(op: keras.Operation) -> NDArray[np.intp] | None:
    """For each output, the input that a layer copies, or -1 for zero.

    None if it does more than that.
    """
    if type(op) in _CONVOLUTIONS:
        single = {*op.kernel_size, *op.strides, op.groups} == {1}
    else:
        single = type(op) is keras.layers.Dense
    if (
        gr.has_own_call(op)
        or not single
        or op.activation is not keras.activations.linear
    ):
        return None
    if op.quantization_mode is not None or op.lora_enabled:
        return None
    if op.use_bias and values_of(op.bias).any():
        return None
    kernel = values_of(op.kernel)
    kernel = kernel.reshape(kernel.shape[-2:])
    indices = np.where(kernel.any(0), kernel.argmax(0), -1)
    only = np.zeros_like(kernel)
    filled = np.flatnonzero(indices >= 0)
    only[indices[filled], filled] = 1
    return indices if np.array_equal(kernel, only) else None
