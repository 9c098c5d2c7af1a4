"""Gates at 0 or 1, for fine-tuning before the cut."""

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
    """A copy of a model whose gates are 0 where closed, else 1, and frozen.

    `factor = 0 if closed else 1`

    The authors' way to finish: set the gates, fine-tune the rest of the
    network for some epochs, then prune; `prune(copy, 0.5)` removes what is
    closed. It changes the function, since open factors become 1. Where that
    is not wanted, prune at once: `prune` folds open factors in exactly.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623)

    Args:
        model: A built model with gates. It stays as it is.
        thresholds: As in `surgeon.plan`, or a `Plan` for this model.
        **options: Options of `surgeon.plan`, if `thresholds` is no `Plan`.

    Returns:
        A new model, not compiled. Its gates are not trainable, and their
        penalties are gone from the loss. What is gated inside a
        `GatedAttention` or a `GatedRecurrent` goes on training.

    Raises:
        TypeError: If `thresholds` is a `Plan` and options are given.
        ValueError: If the thresholds close what is no gate layer (gammas of
            a batch normalization, say), which has no 1 to be set to; or as
            `surgeon.plan`.

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
            "A `Plan` has its options already. Received as well: "
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
    """The gate that a layer is, or that it has inside its loop."""
    if isinstance(layer, GatedRecurrent):
        return layer.gate
    return layer if isinstance(layer, FactorLayer) else None


def _check(
    sources: dict[str, Source], masks: dict[str, NDArray[np.bool_]]
) -> None:
    """Refuse masks of layers that hold more than a factor to set."""
    strangers = [
        name
        for name in masks
        if name not in sources or _gate_of(sources[name].layer) is None
    ]
    if strangers:
        raise ValueError(
            "`binarize` sets gate layers to 0 or 1, and these thresholds are "
            f"for others as well: {', '.join(map(repr, strangers))}. Leave "
            "them out of `thresholds`, or prune the model at once."
        )
