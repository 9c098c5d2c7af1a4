"""Moves the scale of batch normalizations into the factors after them."""

from __future__ import annotations

import keras
import numpy as np

from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers import kernels
from keras_gates.layers.resconv.res_conv import ResConv
from keras_gates.surgeon.gates import see_through


def normalize_gammas(model: keras.Model) -> keras.Model:
    """Rescale each `ResConv` so that `m` measures its convolution.

    `m <- m * rms(gamma)`, `gamma <- gamma / rms(gamma)`, `beta` likewise

    The new model computes the same. It is useful for thresholds: `m` alone says
    little, since `m` and `gamma` only appear as a product. An L1 penalty on `m`
    makes `m` small and `gamma` large, also for layers that matter, as far as
    weight decay on `gamma` allows. Of two layers with the same `m`, one may
    contribute ten times as much as the other. Afterwards, every `gamma` has a
    root mean square of 1, as before training, and `m` is the former `|m| *
    rms(gamma)`, with its sign.

    Use it after sparse training, then plan and prune. Penalties and constraints
    on `m`, `gamma` or `beta` would get other values, so continue training with
    the original or the pruned model. A `ResConv` without `gamma` is not
    changed.

    Reference:

    - Xu et al., Layer Pruning via Fusible Residual Convolutional Block for
      Deep Neural Networks; where layers are ranked by `|m|`

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no `ResConv`, is not built, or has no recorded
            graph.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> inputs = keras.Input((8, 8, 4))
    >>> layer = kg.ResConv(4, 3, name="conv")
    >>> model = keras.Model(inputs, layer(inputs))
    >>> _ = layer.m.assign(0.01)
    >>> _ = layer.norm.gamma.assign([30.0, 40.0, 40.0, 30.0])
    >>> ranked = kg.transforms.normalize_gammas(model)
    >>> round(float(ranked.get_layer("conv").m), 4)
    0.3536
    """
    new = rewrite(gr.read(model))
    graph = see_through.read(new)
    sites = [site for each in [graph, *graph.nested()] for site in each.sites]
    found = {id(s.own): s.own for s in sites if isinstance(s.op, ResConv)}
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no ResConv whose m could absorb the "
            "gammas. Received: a model with other layers only. Expected: one "
            "that `to_resconv` made, say."
        )
    for layer in found.values():
        _normalize(layer)
    return new


def _normalize(layer: ResConv) -> None:
    norm = layer.norm
    if norm is None or norm.gamma is None:
        return
    gamma = kernels.values(norm.gamma)
    # Gammas of zero have no scale, but beta must be preserved.
    scale = max(np.sqrt(np.mean(gamma**2)), keras.config.epsilon())
    layer.m.assign(kernels.values(layer.m) * scale)
    norm.gamma.assign(gamma / scale)
    if norm.beta is not None:
        norm.beta.assign(kernels.values(norm.beta) / scale)
