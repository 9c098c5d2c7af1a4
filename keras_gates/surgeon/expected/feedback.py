"""How much a recurrent layer reads its own units if these are partly open."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.expected.arithmetic import constant
from keras_gates.surgeon.expected.arithmetic import grouped
from keras_gates.surgeon.expected.arithmetic import picked
from keras_gates.surgeon.gates import loops

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Feedback:
    """A step that reads its own outputs.

    Attributes:
        classes: those of its units, each once; int, `(classes,)`.
        factors: the numbers of the factors inside its loop of each class;
            int, `(classes, most)`. None where it has none, so that all units
            are read.
        outputs: for each output, the coordinates of each class; int,
            `(classes, most)`.
        states: for each initial state, the place among the classes of each
            coordinate; int, `(size, 1)`.
    """

    classes: NDArray[np.intp]
    factors: NDArray[np.intp] | None
    outputs: dict[Tensor, NDArray[np.intp]]
    states: dict[Tensor, NDArray[np.intp]]

    def read(
        self, xp: Any, demand: Mapping[Tensor, Any], live: Any, factors: Any
    ) -> Any:
        """How far each class is read, by other units or from outside.

        Args:
            xp: `numpy` or `keras.ops`.
            demand: how far each coordinate of an output is demanded.
            live: how far the step is there, `(...)`.
            factors: how far each factor is open, `(..., factors)`.

        Returns:
            `(..., classes)`.
        """
        if self.factors is None:
            ones = xp.ones_like(factors[..., :1])
            inside = ones * constant(xp, np.ones(self.classes.size))
        else:
            inside = picked(xp, factors, self.factors)
        found = live[..., None] * inside
        for tensor, places in self.outputs.items():
            if tensor in demand:
                # What opens a unit inside opens it outside as well: the two
                # are one event, and no two that may both happen.
                outside = picked(xp, demand[tensor], places)
                found = xp.maximum(found, outside)
        return found


def find(
    graph: Graph, labelling: Labelling, starts: Mapping[int, int], count: int
) -> dict[Step, Feedback]:
    """The steps that read their own outputs.

    Args:
        graph: the `Graph`.
        labelling: its `Labelling`.
        starts: id of a layer with factors -> the number of its first one.
        count: how many factors there are.
    """
    gates = loops.gated(graph)
    found = {}
    for step in labelling.steps:
        if not step.rule.feeds_back:
            continue
        every = [np.ones(x.shape, bool) for x in step.flow.labels]
        if step.rule.recalls(step.call, step.flow, every, None) is not None:
            gate = gates.get(step.call.op)
            first = None if gate is None else starts.get(id(gate))
            found[step] = _of_step(step, labelling, first, count)
    return found


def _of_step(
    step: Step, labelling: Labelling, first: int | None, count: int
) -> Feedback:
    units = labelling.classes[step.flow.roles["out"]]
    classes, at = np.unique(units, return_inverse=True)
    none = classes.size
    inside = None
    if first is not None:
        numbers = np.arange(first, first + units.size)
        inside = grouped(at.reshape(-1), numbers, none, count)

    def places(tensor: Tensor) -> NDArray[np.intp]:
        """The place of each coordinate's class, `none` for none."""
        own = labelling.classes[labelling.labels[tensor]].ravel()
        found = np.minimum(np.searchsorted(classes, own), none - 1)
        return np.where(classes[found] == own, found, none)

    outputs = {}
    for tensor in step.outputs:
        owners = places(tensor)
        there = np.flatnonzero(owners < none)
        outputs[tensor] = grouped(owners[there], there, none, owners.size)
    states = {
        step.inputs[index]: places(step.inputs[index])[:, None]
        for index in step.flow.states
    }
    return Feedback(classes, inside, outputs, states)
