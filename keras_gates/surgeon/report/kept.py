"""The positions of the original channels that stay, by axis."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras
import numpy as np

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.solving.solve import Solution

# Axis -> the positions along it that stay, in order.
Axes: TypeAlias = dict[int, list[int]]
# Layer -> "output" or the name of a weight -> its axes.
Kept: TypeAlias = dict[str, dict[str, Axes]]


def find(solution: Solution) -> Kept:
    """What stays of each layer.

    A layer that goes has no weights here, and none of its outputs stays. Of a
    layer that is called several times, the first call that stays counts.
    """
    decision = solution.decision
    found: Kept = {}
    present: set[str] = set()
    for step in decision.labelling.steps:
        if step.position is not None or step.path in present:
            continue
        if not isinstance(step.call.op, keras.Layer):
            continue
        here = step in decision.present
        axes = _output(step, decision, here)
        weights = _weights(step, decision) if here else {}
        if axes or weights:
            found[step.path] = {"output": axes, **weights}
        if here:
            present.add(step.path)
    return found


def _output(step: Step, decision: Decision, here: bool) -> Axes:
    labels = step.flow.labels[0]
    if not here:
        return {axis: [] for axis in lb.varying(labels)}
    masks = lb.axis_masks(decision.mask(labels))
    if masks is None:  # no positions along an axis tell what stays
        return {}
    return {
        axis: np.flatnonzero(masks[axis]).tolist()
        for axis in lb.varying(labels)
    }


def _weights(step: Step, decision: Decision) -> dict[str, Axes]:
    """Those of the weights that are cut by position, each with its axes."""
    layer, rule = step.call.op, step.rule
    if rule.packing is not None:
        return {}
    index, named = kept_positions(decision, step), rule.axes_of(step.call)
    found: dict[str, Axes] = {}
    for part in rule.parts(layer):
        for name, weight in named_weights(part, named):
            roles = named.get(name, ())
            first = len(weight.shape) - len(roles)
            axes = {
                axis: index[role].tolist()
                for axis, role in enumerate(roles, first)
                if role in index
            }
            if axes:
                found[name] = axes
    return found


def to_json(kept: Kept) -> Any:
    """The same as JSON can hold it: the first n positions are an `n`."""
    return {
        layer: {
            name: {str(axis): _short(at) for axis, at in axes.items()}
            for name, axes in arrays.items()
        }
        for layer, arrays in kept.items()
    }


def from_json(data: Any) -> Kept:
    """What `to_json` was given."""
    return {
        layer: {
            name: {int(axis): _long(at) for axis, at in axes.items()}
            for name, axes in arrays.items()
        }
        for layer, arrays in data.items()
    }


def _short(at: list[int]) -> list[int] | int:
    return len(at) if at == list(range(len(at))) else at


def _long(at: list[int] | int) -> list[int]:
    return list(range(at)) if isinstance(at, int) else list(at)
