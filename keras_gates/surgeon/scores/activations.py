"""Criteria that look at what comes out on data."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from keras import ops

from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.scores.probes import Meter

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph


def apoz(graph: Graph, batches: Any) -> Any:
    """One minus the average percentage of zeros of each unit."""
    return _mean(graph, batches, _is_there)


def _is_there(y: Any) -> Any:
    """1 where it is not zero, 0 where it is, NaN where it is not finite."""
    return ops.cast(ops.not_equal(y, 0), y.dtype) + 0 * y


def mean_activation(graph: Graph, batches: Any) -> Any:
    """The mean of the absolute activations of each unit."""
    return _mean(graph, batches, ops.abs)


def _mean(graph: Graph, batches: Any, measure: Any) -> Any:
    """A measure of each unit, over samples, positions and places."""
    meters = []

    def metered(gate: Any, x: Any) -> Any:
        meter = Meter(measure, gate.axis)
        meters.append((gate, meter))
        return meter(x)

    model = with_gates(graph, metered)
    samples = 0
    for batch in batches:
        model(batch.x, training=False)
        samples += batch.size
    sums, places = np.zeros((2, groups.size(graph)))
    for gate, meter in meters:
        inside = gate.units >= 0
        found = ops.convert_to_numpy(meter.sums)[inside] / samples
        np.add.at(sums, gate.units[inside], found)
        np.add.at(places, gate.units[inside], 1)
    return sums / np.maximum(places, 1)
