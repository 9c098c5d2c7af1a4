"""The first-order Taylor criterion: the change of the loss without a channel.

For a gate of factor `a` on a tensor, the loss changes by about
`-a * dL/da` when the gate closes (Molchanov et al. 2017,
https://arxiv.org/abs/1611.06440).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.rewrite import rewrite
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.scores import inside
from keras_gates.surgeon.scores.probes import Nudge

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.rules.virtual import VirtualGate
    from keras_gates.surgeon.scores.batches import Batch
    from keras_gates.surgeon.scores.objective import Objective

_L = keras.layers
_RANDOM = (
    *(_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D),
    *(_L.SpatialDropout3D, _L.AlphaDropout),
    *(_L.GaussianDropout, _L.GaussianNoise),
)


def unit_scores(
    graph: Graph,
    labelling: Labelling,
    batches: Iterable[Batch],
    objective: Objective,
) -> NDArray[np.float64]:
    """`sum |a * dL/da|` over batches of each unit, and over its places.

    Args:
        graph: the `Graph` with its virtual gates.
        labelling: the `Labelling` that its groups are of.
        batches: `Batch`es; read once.
        objective: the `Objective`.
    """
    nudges: list[tuple[VirtualGate, Nudge]] = []

    def nudged(gate: VirtualGate, x: keras.KerasTensor) -> keras.KerasTensor:
        nudge = Nudge(gate.axis, dtype=gate.dtype_policy)
        nudges.append((gate, nudge))
        return nudge(x)

    within = inside.find(graph, labelling)
    probes: list[tuple[NDArray[np.intp], Nudge | inside.InsideNudge]] = []
    made: IdentityDict[keras.Operation, inside.InsideNudge] = IdentityDict()

    def edit(recall: Recall) -> Any:
        units = within.get(recall.op)
        if units is None:
            return _without_noise(recall)
        return inside.probed(recall, made, units, inside.InsideNudge)

    model = with_gates(graph, nudged, edit)
    probes = [(gate.units, nudge) for gate, nudge in nudges]
    probes += [(within[op].places, probe) for op, probe in made.items()]
    sizes = objective.gradients(model, [n for _, n in probes], batches)
    sums = np.zeros(groups.size(graph))
    for (units, _), values in zip(probes, sizes, strict=True):
        own = units >= 0
        np.add.at(sums, units[own], values[own])
    return sums


def gate_scores(
    graph: Graph, batches: Iterable[Batch], objective: Objective
) -> dict[str, NDArray[np.float64]]:
    """`{path: sum |a * dL/da|}` over batches, of the factors of each gate."""
    # By id: a gate of the user's class may compare by value.
    first_calls: dict[int, Call] = {}
    nudges: dict[str, Nudge | inside.InsideNudge] = {}
    for call in graph.calls:
        if rule_of(call).is_gate:
            first_calls.setdefault(id(call.op), call)
    within, paths = inside.of_gates(graph)
    made: IdentityDict[keras.Operation, inside.InsideNudge] = IdentityDict()
    if not first_calls and not within:
        raise ValueError(
            f"Model '{graph.model.name}' has no gates to score. Put some into "
            'it with keras_gates.insert_gates, or score of="groups".'
        )

    def nudged(recall: Recall) -> Any:
        call = first_calls.get(id(recall.op))
        units = within.get(recall.op)
        if units is not None:
            outputs = inside.probed(recall, made, units, inside.InsideNudge)
            nudges[paths[recall.op]] = made[recall.op]
            return outputs
        if call is None:
            return _without_noise(recall)
        if call.path not in nudges:
            axis = getattr(recall.op, "axis", None)
            nudges[call.path] = Nudge(axis, dtype=recall.op.dtype_policy)
        return nudges[call.path](recall())

    model = rewrite(graph, nudged, stock=True)
    sizes = objective.gradients(model, list(nudges.values()), batches)
    return dict(zip(nudges, sizes, strict=True))


def _without_noise(recall: Recall) -> Any:
    """Dropout passed over: scores are for the network in inference."""
    return recall.args[0] if isinstance(recall.op, _RANDOM) else None
