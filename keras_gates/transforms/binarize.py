"""Sets gates to 0 or 1, for fine-tuning before pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.factor_layer import FactorLayer
from keras_gates.layers.gated_recurrent import GatedRecurrent
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.plan import plan

if TYPE_CHECKING:
    from keras_gates.surgeon.closing.options import Thresholds
    from keras_gates.surgeon.rules.source import Source


def binarize(
    model: keras.Model, thresholds: Plan | Thresholds, **options: Any
) -> keras.Model:
    """Copy a model with its gates frozen at 0 (closed) or 1 (open).

    `factor = 0 if closed else 1`

    This is the authors' procedure: set the gates, fine-tune the rest of the
    network for some epochs, then prune with `prune(copy, 0.5)`. It changes the
    function, since open factors become 1. To keep the function, prune at once:
    `prune` folds open factors in exactly.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623)

    Args:
        model: A built model with gates. It is not changed.
        thresholds: As in `surgeon.plan`, or a `Plan` for this model.
        **options: Options of `surgeon.plan`, if `thresholds` is not a `Plan`.

    Returns:
        A new model, not compiled. Its gates are not trainable, and their
        penalties are removed from the loss. The inner layer of a
        `GatedAttention` or `GatedRecurrent` stays trainable.

    Raises:
        TypeError: If `thresholds` is a `Plan` and options are given.
        ValueError: If the thresholds close factors of something other than a
            gate layer (gammas of a batch normalization, say), which can't be
            set to 1; or as in `surgeon.plan`.

    Example:
    >>> import keras
    >>> import numpy as np
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate(name="gate")
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), gate, keras.layers.Dense(2)]
    ... )
    >>> gate.set_weights([np.array([0.9, 0.01, 1.3, 0.02])])
    >>> copy = kg.binarize(model, 0.05)
    >>> copy.get_layer("gate").get_weights()[0].tolist()
    [1.0, 0.0, 1.0, 0.0]
    >>> copy.get_layer("gate").trainable
    False
    """
    if not isinstance(thresholds, Plan):
        decided = plan(model, thresholds, **options)
    elif not options:
        decided = thresholds
    else:
        raise TypeError(
            "A `Plan` already has its options. Also received: "
            f"{', '.join(sorted(options))}."
        )
    masks = decided.masks()
    _check(gates_of(see_through.read(model)), masks)
    copy = rewrite(gr.read(model))
    graph = see_through.read(copy)
    own = IdentityDict((call.op, call.site.own) for call in graph.calls)
    variables = gr.own_variables(graph)
    for name, source in gates_of(graph).items():
        if name in masks:
            variable = variables.get(id(source.variable), source.variable)
            closed = 0.0 if source.closed is None else source.closed
            variable.assign(np.where(masks[name], closed, source.opened))
            gate = _gate_of(own[source.layer])
            if gate is not None:
                gate.freeze_factor()
    return copy


def _gate_of(layer: keras.Operation) -> FactorLayer | None:
    """The gate that a layer is, or that it has in its loop."""
    if isinstance(layer, GatedRecurrent):
        return layer.gate
    return layer if isinstance(layer, FactorLayer) else None


def _check(
    sources: dict[str, Source], masks: dict[str, NDArray[np.bool_]]
) -> None:
    """Refuse masks of layers that are not gates."""
    strangers = [
        name
        for name in masks
        if name not in sources or _gate_of(sources[name].layer) is None
    ]
    if strangers:
        raise ValueError(
            "`binarize` sets gate layers to 0 or 1, but these thresholds "
            f"also close others: {', '.join(map(repr, strangers))}. Leave "
            "them out of `thresholds`, or prune the model directly."
        )
