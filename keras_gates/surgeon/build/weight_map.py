"""What became of each weight: which part is left, and times what."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import time_axis
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass
class Cut:
    """How a weight of the model became one of the pruned model.

    Attributes:
        old: the weight that it was.
        positions: axis -> the positions that were kept along it.
        factor: what it was multiplied by, along its axes; None for 1.
    """

    old: keras.Variable
    positions: dict
    factor: np.ndarray | None = None

    def of(self, array: Any, power: Any) -> Any:
        """What is left of an array like the old weight.

        Args:
            array: the array.
            power: that of the factor which it is multiplied by.
        """
        for axis, positions in self.positions.items():
            array = np.take(array, positions, axis)
        if self.factor is None:
            return array
        if power >= 0:
            return array * self.factor**power
        # A factor of 0 let no gradient through: nothing is known of it.
        zeros = np.zeros_like(self.factor)
        inverse = np.divide(1, self.factor, out=zeros, where=self.factor != 0)
        return array * inverse**-power


def cuts_of(
    decision: Decision, folds: Folds, pruned: keras.Model
) -> dict[int, Cut]:
    """`{id of a weight: its Cut}` for the weights of a pruned model.

    Args:
        decision: the `Decision`.
        folds: the `Folds`.
        pruned: what `rebuild` made of them.
    """
    cuts = {}
    for step in decision.labelling.steps:
        layer = step.call.op
        if step not in decision.present or not isinstance(layer, keras.Layer):
            continue
        new = _layer_at(pruned, step.path)
        # In a gate's place there may be a Rescaling of its name.
        if type(new) is not type(layer):
            continue
        parts = zip(step.rule.parts(layer), step.rule.parts(new), strict=True)
        for before, after in parts:
            _cut_part(step, decision, folds, before, after, cuts)
    return cuts


def _layer_at(model: keras.Model, path: str) -> keras.Layer | None:
    """The layer at a path such as "tower/hidden", or None."""
    for name in path.split("/"):
        model = time_axis.layer_of(model)
        found = [layer for layer in model.layers if layer.name == name]
        if not found:
            return None
        model = found[0]
    return model


def _cut_part(
    step: Step,
    decision: Decision,
    folds: Folds,
    before: keras.Layer,
    after: keras.Layer,
    cuts: dict[int, Cut],
) -> None:
    axes = step.rule.axes_of(step.call)
    index = {
        role: np.flatnonzero(decision.mask(ids))
        for role, ids in step.flow.roles.items()
    }
    olds, news = (named_weights(part, axes) for part in (before, after))
    if len(olds) != len(news):  # A bias was added: their names tell.
        olds = [(name, dict(olds).get(name)) for name, _ in news]
    for (name, old), (_, new) in zip(olds, news, strict=True):
        if old is None or id(new) in cuts:
            continue
        rank, roles = len(old.shape), axes.get(name, ())
        axis_of = {r: rank - len(roles) + i for i, r in enumerate(roles)}
        positions = {a: index[r] for r, a in axis_of.items() if r in index}
        factor = None
        for role, vector in folds.factors_of(step.call.op, name):
            shape = [1] * rank
            shape[axis_of[role]] = -1
            vector = vector[index[role]].astype("float64").reshape(shape)
            factor = vector if factor is None else factor * vector
        cuts[id(new)] = Cut(old, positions, factor)
