"""Give the filters of convolutions a shape to learn."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.configs import config_of
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.stripconv.strip_conv import StripConv

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph


def to_stripconv(
    model: keras.Model,
    skeleton_regularizer: Any = None,
    skeleton_constraint: Any = None,
    layers: Any = None,
) -> Any:
    """A copy of a model with `StripConv` layers in place of `Conv2D`.

    The skeletons start at one, so that the copy computes what the model does.

    Reference:

    - [Meng et al., 2020, Pruning Filter in Filter](
      https://arxiv.org/abs/2009.14410)

    Args:
        model: A built functional or Sequential model. It stays as it is.
        skeleton_regularizer: Regularizer of each skeleton, such as
            `keras_gates.regularizers.L1(1e-5)`. Defaults to `None`.
        skeleton_constraint: Constraint of each skeleton, such as
            `keras_gates.constraints.HardThreshold(0.01)`. Defaults to `None`.
        layers: Names of the convolutions to turn. Defaults to `None`: every
            `Conv2D` without groups and with a kernel larger than 1x1, whose
            stripes are more than its filters.

    Returns:
        A new model, not compiled. The layers keep their names and weights.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built or has no recorded graph, or if
            one of `layers` is no `Conv2D` of it that has stripes.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")]
    ... )
    >>> striped = kg.to_stripconv(model, kg.regularizers.L1(1e-5))
    >>> type(striped.get_layer("conv")).__name__
    'StripConv'
    """
    graph = gr.read(model)
    chosen = _chosen(graph, layers)
    made = {}
    options = {
        "skeleton_regularizer": skeleton_regularizer,
        "skeleton_constraint": skeleton_constraint,
    }

    def edit(recall: Any) -> Any:
        op = recall.op
        if id(op) not in chosen:
            return None
        if id(op) not in made:
            made[id(op)] = _strip_conv(op, options)
        outputs = made[id(op)](*recall.args, **recall.kwargs)
        _copy(op, made[id(op)])
        return outputs

    return rewrite(graph, edit)


def _chosen(graph: Graph, names: Any) -> Any:
    """`{id: layer}` of the convolutions to turn."""
    sites = [s for g in [graph, *graph.nested()] for s in g.sites]
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
    wanted = {
        id(site.op): site.op
        for site in sites
        if (_is_plain(site.op) and max(site.op.kernel_size) > 1)
        or (names is not None and site.op.name in names)
    }
    if names is not None:
        wanted = {i: op for i, op in wanted.items() if op.name in names}
    strangers = [op.name for op in wanted.values() if not _is_plain(op)]
    found = {op.name for op in wanted.values()}
    missing = [name for name in names or () if name not in found]
    if strangers or missing or not wanted:
        raise ValueError(
            f"`to_stripconv` finds no stripes in {_told(strangers, missing)} "
            f"of model '{graph.model.name}'. Expected: layers of the class "
            "keras.layers.Conv2D, without groups and LoRA. Name such layers "
            "in `layers`."
        )
    return wanted


def _is_plain(op: keras.Operation) -> Any:
    """Whether a layer is a convolution with stripes."""
    return (
        type(op) is keras.layers.Conv2D
        and not gr.has_own_call(op)
        and op.groups == 1
        and not op.lora_enabled
    )


def _told(strangers: Any, missing: Any) -> Any:
    if not strangers and not missing:
        return "any layer"
    parts = [f"layer '{name}'" for name in strangers]
    parts += [f"a layer '{name}' (there is none)" for name in missing]
    return ", ".join(parts)


def _strip_conv(conv: Any, options: Any) -> Any:
    config = {**config_of(conv), **options}
    layer = StripConv.from_config(config)
    layer.trainable = conv.trainable
    return layer


def _copy(conv: Any, layer: keras.Layer) -> None:
    layer.kernel.assign(conv.kernel)
    if conv.use_bias:
        layer.bias.assign(conv.bias)
