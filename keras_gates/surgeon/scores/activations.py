"""Criteria based on activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.without_gradients import without_gradients
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.materialize import with_gates
from keras_gates.surgeon.scores import inside
from keras_gates.surgeon.scores.probes import Meter

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.rules.virtual import VirtualGate
    from keras_gates.surgeon.scores.batches import Batch


def apoz(
    graph: Graph, labelling: Labelling, batches: Iterable[Batch]
) -> NDArray[np.float64]:
    """One minus the average percentage of zeros of each unit."""
    return _mean(graph, labelling, batches, _is_nonzero)


def _is_nonzero(y: Any) -> Any:
    """1 where a tensor is not zero, 0 where it is, NaN where not finite."""
    return ops.cast(ops.not_equal(y, 0), y.dtype) + 0 * y


def mean_activation(
    graph: Graph, labelling: Labelling, batches: Iterable[Batch]
) -> NDArray[np.float64]:
    """The mean of the absolute activations of each unit."""
    return _mean(graph, labelling, batches, ops.abs)


def _mean(
    graph: Graph,
    labelling: Labelling,
    batches: Iterable[Batch],
    measure: Callable[[Any], Any],
) -> NDArray[np.float64]:
    """A measure of each unit, over samples, positions and places."""
    meters: list[tuple[VirtualGate, Meter]] = []

    def metered(gate: VirtualGate, x: keras.KerasTensor) -> keras.KerasTensor:
        meter = Meter(measure, gate.axis)
        meters.append((gate, meter))
        return meter(x)

    within = inside.find(graph, labelling)
    made: IdentityDict[keras.Operation, inside.InsideMeter] = IdentityDict()
    make = functools.partial(inside.InsideMeter, measure=measure)

    def edit(recall: Recall) -> Any:
        units = within.get(recall.op)
        return units and inside.probed(recall, made, units, make)

    model = with_gates(graph, metered, edit)
    samples = 0
    for batch in batches:
        with without_gradients():
            model(batch.x, training=False)
        samples += batch.size
    sums, places = np.zeros((2, groups.size(graph)))
    means = [(g.units, ops.convert_to_numpy(m.sums)) for g, m in meters]
    means += [(within[op].places, meter.means) for op, meter in made.items()]
    for units, values in means:
        own = units >= 0
        np.add.at(sums, units[own], values[own] / samples)
        np.add.at(places, units[own], 1)
    scores: NDArray[np.float64] = sums / np.maximum(places, 1)
    return scores
