"""Drops shifts like the reference code of Network Slimming."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.plan import plan

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.options import Thresholds


def drop_betas(
    model: keras.Model, thresholds: Thresholds, **options: Any
) -> keras.Model:
    """Copy a model without the betas of closed channels.

    `beta = 0 where gamma is closed`

    A channel with gamma 0 still emits beta. The surgeon carries this constant
    forward, so that pruning is exact; the authors' code drops it. To reproduce
    their procedure, prune this copy with the same thresholds. **This changes
    the function**, often so much that the model is useless until it is
    fine-tuned. It saves the channel that otherwise stays to hold the constants
    of the others before a convolution with zero padding.

    Reference:

    - [Liu et al., 2017, Learning Efficient Convolutional Networks through
      Network Slimming](https://arxiv.org/abs/1708.06519)

    Args:
        model: A built model with batch normalizations. It is not changed.
        thresholds: As in `surgeon.plan`; they must name `"batch_norm"`.
        **options: Options of `surgeon.plan`.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError, ValueError: As `surgeon.plan`.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.resnet(8)
    >>> closed = {"batch_norm": kg.Quantile(0.5, "gate")}
    >>> copy = kg.transforms.drop_betas(model, closed)
    >>> small = kg.surgeon.prune(copy, closed)
    """
    masks = plan(model, thresholds, **options).masks()
    copy = rewrite(gr.read(model))
    graph = see_through.read(copy)
    variables = gr.own_variables(graph)
    for name, source in gates_of(graph).items():
        beta = getattr(source.layer, "beta", None)
        # Other layers with gates may have a weight of this name.
        if beta is None or source.kind != "batch_norm":
            continue
        if name in masks:
            beta = variables.get(id(beta), beta)
            beta.assign(np.where(masks[name], 0.0, values_of(beta)))
    return copy
