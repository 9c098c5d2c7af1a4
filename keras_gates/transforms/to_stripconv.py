"""Converts convolutions to ones that learn the shape of their filters."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates._checks import renamed
from keras_gates.graphs import graph as gr
from keras_gates.graphs import patterns
from keras_gates.graphs.configs import config_of
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.stripconv.strip_conv import StripConv
from keras_gates.surgeon.gates import see_through
from keras_gates.transforms.gating.penalty import penalty_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.graphs.rewrite import Recall

# Why a layer can't be converted, if `_is_plain` is false.
_REASON = "it is no keras.layers.Conv2D without groups and LoRA"


@renamed(layers="include")
def to_stripconv(
    model: keras.Model,
    strength: float | None = None,
    *,
    skeleton_regularizer: Any = None,
    skeleton_constraint: Any = None,
    include: Patterns = None,
    exclude: Patterns = None,
) -> keras.Model:
    """Copy a model with `StripConv` layers instead of `Conv2D`.

    The skeletons start at one, so the copy computes the same as the model.

    Reference:

    - [Meng et al., 2020, Pruning Filter in Filter](
      https://arxiv.org/abs/2009.14410)

    Args:
        model: A built functional or Sequential model. It is not changed.
        strength: A number >= 0: the strength of `regularizers.L1` on each
            skeleton. Defaults to `None`: no penalty, or that of
            `skeleton_regularizer`.
        skeleton_regularizer: A regularizer of each skeleton, in place of
            `strength`.
        skeleton_constraint: Constraint of each skeleton, such as
            `keras_gates.constraints.HardThreshold(0.01)`. Defaults to `None`.
        include: What to convert: one or a list of layer names (`*` stands for
            anything), layers and layer classes. Defaults to `None`: every
            `Conv2D` without groups and with a kernel larger than 1x1, whose
            stripes are more than its filters.
        exclude: What to leave out, likewise.

    Returns:
        A new model, not compiled. The layers keep their names and weights.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model is not built or has no recorded graph, or if
            nothing can be converted, or a pattern fits no `Conv2D` that has
            stripes.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")]
    ... )
    >>> striped = kg.to_stripconv(model, 1e-5)
    >>> type(striped.get_layer("conv")).__name__
    'StripConv'
    """
    graph = see_through.read_to_write(model)
    options = {
        "skeleton_regularizer": penalty_of(
            strength,
            skeleton_regularizer,
            "skeleton_regularizer",
            "to_stripconv",
        ),
        "skeleton_constraint": skeleton_constraint,
    }
    turned = _turned(graph, include, exclude)
    made: dict[int, StripConv] = {}

    def edit(recall: Recall) -> Any:
        op = recall.op
        if id(op) not in turned:
            return None
        if id(op) not in made:
            made[id(op)] = _strip_conv(op, options)
        outputs = made[id(op)](*recall.args, **recall.kwargs)
        _copy(op, made[id(op)])
        return outputs

    return rewrite(graph, edit)


def _turned(graph: Graph, include: Patterns, exclude: Patterns) -> set[int]:
    """The ids of the convolutions to convert."""
    chosen = patterns.chosen_layers(
        graph,
        "convolutions",
        lambda op: "" if _is_plain(op) else _REASON,
        include,
        exclude,
    )
    if include is None:
        # A stripe of a 1x1 kernel is a filter, so these must be requested.
        chosen = [op for op in chosen if max(op.kernel_size) > 1]
    if not chosen:
        raise ValueError(
            "`to_stripconv` finds no layer with stripes in model "
            f"'{graph.model.name}'. Expected: layers of the class "
            "keras.layers.Conv2D, without groups and LoRA, with kernels "
            "larger than 1x1. Name those with 1x1 kernels in `include`."
        )
    return {id(op) for op in chosen}


def _is_plain(op: keras.Operation) -> bool:
    """Whether a layer is a convolution with stripes."""
    return (
        type(op) is keras.layers.Conv2D
        and not gr.has_own_call(op)
        and op.groups == 1
        and not op.lora_enabled
    )


def _strip_conv(conv: keras.Layer, options: dict[str, Any]) -> StripConv:
    config = {**config_of(conv), **options}
    layer: StripConv = StripConv.from_config(config)
    layer.trainable = conv.trainable
    return layer


def _copy(conv: keras.Layer, layer: StripConv) -> None:
    layer.kernel.assign(conv.kernel)
    if layer.bias is not None:
        layer.bias.assign(conv.bias)
