"""Finds the slices of weights that belong to the units of groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.label import Step


class WeightSlices(NamedTuple):
    """A weight, in slices along one axis.

    Attributes:
        variable: the user's variable.
        shape: what its values are shaped to first: that of the variable, or
            with the last axis in two, gates and units.
        axis: the axis of `shape` that the units are on.
        role: "out", "channel", or what the kernel reads along it.
        reads: whether the kernel reads the units, and makes others.
        classes: the class of each slice's unit; int, `(slices,)`.
    """

    variable: keras.Variable
    shape: tuple[int, ...]
    axis: int
    role: str
    reads: bool
    classes: NDArray[np.intp]


def slices_of(graph: Graph, found: Groups) -> Iterator[WeightSlices]:
    """All weights of a graph that units are on, each axis once.

    Weights inside a layer that is seen through count where its parts hold
    them as they are.
    """
    own = gr.own_variables(graph)
    done: set[tuple[int, int]] = set()
    for step in found.labelling.steps:
        if step.position is not None or not isinstance(
            step.call.op, keras.Layer
        ):
            continue
        for each in _of_step(step, found.labelling.classes):
            variable = own.get(id(each.variable), each.variable)
            key = id(variable), each.axis
            if key in done or variable.shape != each.variable.shape:
                continue
            done.add(key)
            yield each._replace(variable=variable)


def _of_step(step: Step, classes: NDArray[np.intp]) -> Iterator[WeightSlices]:
    axes, flow = step.rule.axes_of(step.call), step.flow
    reads = set(flow.reads.values()) if flow.mixes else set()
    # What stays inside a layer, as a head, is read where it is closed.
    inner = [e for e in step.rule.inner_units(step.call) if e.name]
    closing = {pair for each in inner for pair in each.zeroed}
    for part in step.rule.parts(step.call.op):
        for name, weight in named_weights(part, axes):
            roles, shape = axes.get(name, ()), tuple(weight.shape)
            for at, role in enumerate(roles):
                ids = None if role is None else flow.roles.get(role)
                axis = len(shape) - len(roles) + at
                if role is None or ids is None or axis < 0:
                    continue
                if ids.ndim != 1 or len(ids) != shape[axis]:
                    continue
                read = role in reads or (name, role) in closing
                own = WeightSlices(
                    weight, shape, axis, role, read, classes[ids]
                )
                if role == "gates":
                    # A recurrent unit has a column in each gate's part.
                    units = flow.roles["out"]
                    whole = (*shape[:-1], len(ids) // len(units), len(units))
                    own = own._replace(
                        shape=whole,
                        axis=len(whole) - 1,
                        role="out",
                        classes=classes[units],
                    )
                yield own
