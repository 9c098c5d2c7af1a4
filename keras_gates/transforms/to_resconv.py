"""Converts convolutions to ones with a fusible shortcut."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.resconv.res_conv import ResConv
from keras_gates.surgeon.gates import see_through
from keras_gates.transforms.finding.convolutions import read_convolutions
from keras_gates.transforms.fusing import edits as ed
from keras_gates.transforms.gating.penalty import penalty_of

if TYPE_CHECKING:
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.transforms.finding.convolutions import Convolution
    from keras_gates.transforms.fusing.edits import Edits

# The initial values of `g`.
STARTS = {"same": "zeros", "residual": "ones"}
# Arguments set by the convolution and its batch normalization.
_GIVEN = (
    *("name", "filters", "kernel_size", "strides", "padding", "data_format"),
    *("dilation_rate", "groups", "activation", "use_bias", "batch_norm"),
)


def to_resconv(
    model: keras.Model,
    strength: float | None = None,
    *,
    m_regularizer: Any = None,
    start: str = "same",
    include: Patterns = None,
    exclude: Patterns = None,
    **arguments: Any,
) -> keras.Model:
    """Convert each convolution of a model to a `ResConv`.

    A convolution and its batch normalization become one `ResConv` with the
    convolution's name and the weights of both; activations and all other layers
    stay, including the shortcuts of residual blocks.
    `print(kg.transforms.find_convolutions(model))` shows which convolutions are
    left out, and why.

    Reference:

    - Xu et al., Layer Pruning via Fusible Residual Convolutional Block for
      Deep Neural Networks, section 3

    Args:
        model: A built functional or Sequential model. It is not changed.
        strength: A number >= 0: the strength of `regularizers.L1` on the
            layer scaling factor `m` of each convolution. Defaults to `None`:
            no penalty, or that of `m_regularizer`.
        m_regularizer: A regularizer of each `m`, in place of `strength`.
        start: `"same"`: the shortcuts start at `g = 0`, and the new model
            computes the same as the model. `"residual"`: they start at `g = 1`,
            as in the paper, for training from scratch; this changes the
            function.
        include: What to convert: one or a list of layer names (`*` stands for
            anything), layers and layer classes. Defaults to `None`: everything
            that can be converted.
        exclude: What to leave out, likewise.
        **arguments: Further arguments of each `ResConv`, such as
            `g_regularizer` or `m_constraint`.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError: If an argument is of the wrong type, or an argument is set by
            the convolution itself, such as `filters`.
        ValueError: If no convolution can be converted, a pattern fits none,
            `start` is unknown, or the model has no recorded graph.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.plain_resnet(8)
    >>> gated = kg.to_resconv(model, 1e-3, exclude="conv1")
    >>> gated.get_layer("stage1_block1_conv1").shortcut_kind
    'identity'
    """
    if start not in list(STARTS):
        raise ValueError(
            f"Unknown start. Received: start={start!r}. Expected: one of "
            f"{list(STARTS)}."
        )
    strange = [name for name in arguments if name in _GIVEN]
    if strange:
        raise TypeError(
            "`to_resconv` can't change the arguments of a convolution. "
            f"Received: {', '.join(strange)}. Expected: arguments of ResConv "
            "that a convolution does not have, such as g_regularizer. Leave "
            "them out."
        )
    arguments = {
        "m_regularizer": penalty_of(
            strength, m_regularizer, "m_regularizer", "to_resconv"
        ),
        "g_initializer": STARTS[start],
        **arguments,
    }
    graph = see_through.read_to_write(model)
    found = read_convolutions(graph, include, exclude)
    if not found.converted:
        reasons = [f"'{x.name}': {x.reason}" for x in found.left_out]
        raise ValueError(
            f"No convolution of model '{model.name}' can be a ResConv: "
            f"{'; '.join(reasons[:5]) or 'there is none'}. See "
            "print(keras_gates.transforms.find_convolutions(model))."
        )
    edits: Edits = {}
    for conv in found.converted:
        edits[id(conv.site)] = functools.partial(_converted, conv, arguments)
        if conv.norm is not None:
            edits[id(conv.norm)] = ed.passed
    return rewrite(graph, lambda recall: _edit(edits, recall))


def _edit(edits: Edits, recall: Recall) -> Any:
    edit = edits.get(id(recall.site))
    return None if edit is None else edit(recall)


def _converted(
    conv: Convolution, arguments: dict[str, Any], recall: Recall
) -> Any:
    """The call of the new layer, with the weights of the old ones."""
    new = ResConv(**{**conv.arguments, **arguments})
    outputs = new(*recall.args)
    _copy(recall.op, new.conv)
    if conv.norm is not None:
        _copy(conv.norm.op, new.norm)
    return outputs


def _copy(old: keras.Layer, new: keras.Layer) -> None:
    # A grouped convolution may have become a depthwise one.
    arrays = [
        np.array(a).reshape(w.shape)
        for a, w in zip(old.get_weights(), new.weights, strict=True)
    ]
    new.set_weights(arrays)
    new.trainable = old.trainable
