"""The first-order Taylor criterion: what the loss does without a channel.

For a gate of factor `a` on a tensor, the loss changes by about
`-a * dL/da` when the gate closes (Molchanov et al. 2017,
https://arxiv.org/abs/1611.06440).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs.rewrite import rewrite
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.scores.probes import Nudge

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph

_L = keras.layers
_RANDOM = (
    *(_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D),
    *(_L.SpatialDropout3D, _L.AlphaDropout),
    *(_L.GaussianDropout, _L.GaussianNoise),
)


def of_groups(graph: Graph, batches: Any, objective: Any) -> Any:
    """`sum |a * dL/da|` over batches of each unit, and over its places.

    Args:
        graph: the `Graph` with its virtual gates.
        batches: `Batch`es; read once.
        objective: the `Objective`.
    """
    nudges = []

    def nudged(gate: Any, x: Any) -> Any:
        nudge = Nudge(gate.axis, dtype=gate.dtype_policy)
        nudges.append((gate, nudge))
        return nudge(x)

    model = with_gates(graph, nudged, _without_noise)
    found = objective.gradients(model, [n for _, n in nudges], batches)
    sums = np.zeros(groups.size(graph))
    for (gate, _), values in zip(nudges, found, strict=True):
        inside = gate.units >= 0
        np.add.at(sums, gate.units[inside], values[inside])
    return sums


def of_gates(graph: Graph, batches: Any, objective: Any) -> Any:
    """`{path: sum |a * dL/da|}` over batches, of the factors of each gate."""
    sites, nudges = {}, {}
    for call in graph.calls:
        if rule_of(call).is_gate:
            sites.setdefault(id(call.op), call)
    if not sites:
        raise ValueError(
            f"Model '{graph.model.name}' has no gates to score. Put some into "
            'it with keras_gates.insert_gates, or score of="groups".'
        )

    def nudged(recall: Any) -> Any:
        call = sites.get(id(recall.op))
        if call is None:
            return _without_noise(recall)
        if call.path not in nudges:
            axis = getattr(recall.op, "axis", None)
            nudges[call.path] = Nudge(axis, dtype=recall.op.dtype_policy)
        return nudges[call.path](recall())

    model = rewrite(graph, nudged, stock=True)
    found = objective.gradients(model, list(nudges.values()), batches)
    return dict(zip(nudges, found, strict=True))


def _without_noise(recall: Any) -> Any:
    """Dropout passed over: scores are for the network in inference."""
    return recall.args[0] if isinstance(recall.op, _RANDOM) else None
