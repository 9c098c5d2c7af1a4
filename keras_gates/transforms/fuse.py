"""Fold linear layers into single convolutions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.resconv.res_conv import ResConv
from keras_gates.surgeon.gates import see_through
from keras_gates.transforms.fusing import branches
from keras_gates.transforms.fusing import chains
from keras_gates.transforms.fusing import scales
from keras_gates.transforms.fusing.wiring import Wiring
from keras_gates.transforms.fusing.wiring import shared_layers

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.transforms.fusing.edits import Edits


def fuse(model: keras.Model, batch_norm: bool = True) -> keras.Model:
    """Fold linear layers into single convolutions.

    The new model computes the same in inference, with fewer layers:

    - A `ResConv` becomes one convolution.
    - Parallel branches that are added become one convolution if they are
      linear, and if the kernel of one of them covers the others. Linear
      branches are a convolution with batch normalization, a 1x1 convolution, an
      identity, a scale, and an average pooling that counts the zeros of its
      padding. Pruned networks of ResConvs and trained RepVGGs have such
      branches.
    - A batch normalization or a scalar `Rescaling` is folded into a neighboring
      convolution or Dense layer; a positive `Rescaling` also moves across
      layers like ReLU and max pooling.

    Layers stay as they are where zero padding or an unknown size prevents
    folding. Layers that are called several times stay, too, except ResConvs.

    Train first, then fuse: a folded batch normalization no longer behaves as in
    training.

    Reference:

    - Xu et al., Layer Pruning via Fusible Residual Convolutional Block for
      Deep Neural Networks, equations 1 to 10

    Args:
        model: A built functional or Sequential model. It is not changed.
        batch_norm: Whether to fold batch normalizations outside of ResConvs
            and added branches. Defaults to `True`.

    Returns:
        A new model, not compiled. A fused layer has the name of its convolution
        or ResConv.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or has no recorded graph.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> inputs = keras.Input((32, 32, 3))
    >>> x = kg.ResConv(8, 3, activation="relu", name="first")(inputs)
    >>> x = kg.ResConv(8, 3, activation="relu", name="second")(x)
    >>> model = keras.Model(inputs, x)
    >>> fused = kg.fuse(model)
    >>> [(type(x).__name__, x.name) for x in fused.layers[1:]]
    [('Conv2D', 'first'), ('Conv2D', 'second')]
    """
    graph, fused = see_through.read_to_write(model), None
    while (edits := _edits(graph, batch_norm)) or fused is None:
        fused = rewrite(graph, functools.partial(_edit, edits))
        # Fused layers may let their neighbors fuse, such as the batch
        # normalization after an addition. A layer without fused parts has not
        # changed, so layers are looked into once.
        graph = gr.read(fused)
    return fused


def _edit(edits: Edits, recall: Recall) -> Any:
    edit = edits.get(id(recall.site))
    return None if edit is None else edit(recall)


def _edits(graph: Graph, batch_norm: bool) -> Edits:
    """The edits, `{id of a site: edit}`; no two touch the same site."""
    graphs = [graph, *graph.nested()]
    shared = shared_layers(graphs)
    edits: Edits = {}
    fused: dict[int, keras.Layer] = {}
    for each in graphs:
        wiring = Wiring(each, shared)
        for site in each.sites:
            if isinstance(site.op, ResConv):
                edits[id(site)] = functools.partial(_fused, fused)
        for find in (branches.find, chains.find, scales.find):
            find(each, wiring, edits, batch_norm)
    return edits


def _fused(fused: dict[int, keras.Layer], recall: Recall) -> Any:
    """The convolution of a ResConv, made once, in its place."""
    op = recall.op
    if id(op) not in fused:
        fused[id(op)] = op.fuse()
    return fused[id(op)](*recall.args)
