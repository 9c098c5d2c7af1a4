"""Criteria that look at what comes out on data."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.graphs.without_gradients import without_gradients
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.scores.probes import Meter

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.rules.virtual import VirtualGate
    from keras_gates.surgeon.scores.batches import Batch


def apoz(graph: Graph, batches: Iterable[Batch]) -> NDArray[np.float64]:
    """One minus the average percentage of zeros of each unit."""
    return _mean(graph, batches, _is_nonzero)


def _is_nonzero(y: Any) -> Any:
    """1 where a tensor is not zero, 0 where it is, NaN where not finite."""
    return ops.cast(ops.not_equal(y, 0), y.dtype) + 0 * y


def mean_activation(
    graph: Graph, batches: Iterable[Batch]
) -> NDArray[np.float64]:
    """The mean of the absolute activations of each unit."""
    return _mean(graph, batches, ops.abs)


def _mean(
    graph: Graph, batches: Iterable[Batch], measure: Callable[[Any], Any]
) -> NDArray[np.float64]:
    """A measure of each unit, over samples, positions and places."""
    meters: list[tuple[VirtualGate, Meter]] = []

    def metered(gate: VirtualGate, x: keras.KerasTensor) -> keras.KerasTensor:
        meter = Meter(measure, gate.axis)
        meters.append((gate, meter))
        return meter(x)

    model = with_gates(graph, metered)
    samples = 0
    for batch in batches:
        with without_gradients():
            model(batch.x, training=False)
        samples += batch.size
    sums, places = np.zeros((2, groups.size(graph)))
    for gate, meter in meters:
        inside = gate.units >= 0
        means = ops.convert_to_numpy(meter.sums)[inside] / samples
        np.add.at(sums, gate.units[inside], means)
        np.add.at(places, gate.units[inside], 1)
    scores: NDArray[np.float64] = sums / np.maximum(places, 1)
    return scores
