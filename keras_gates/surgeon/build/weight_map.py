"""What became of each weight: which part is left, and times what."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import time_axis
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """How a weight of the model became one of the pruned model.

    Attributes:
        old: the weight that it was.
        positions: axis -> the positions that were kept along it, `(kept,)`.
        factors: axis -> what it was multiplied by along it: float64,
            `(kept,)`.
    """

    old: keras.Variable
    positions: dict[int, NDArray[np.intp]]
    factors: dict[int, NDArray[np.float64]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def factor(self) -> NDArray[np.float64] | None:
        """The product of `factors`; with extent 1 where it does not vary."""
        found: NDArray[np.float64] | None = None
        for axis, vector in self.factors.items():
            shape = [1] * len(self.old.shape)
            shape[axis] = -1
            along = vector.reshape(shape)
            found = along if found is None else found * along
        return found

    def then(self, later: Cut) -> Cut:
        """This cut and one of what it left, as one."""
        positions, factors = dict(self.positions), dict(later.factors)
        for axis, kept in later.positions.items():
            first = self.positions.get(axis)
            positions[axis] = kept if first is None else first[kept]
        for axis, vector in self.factors.items():
            at = later.positions.get(axis)
            left = vector if at is None else vector[at]
            factors[axis] = left * factors.get(axis, 1.0)
        return Cut(self.old, positions, factors)

    def apply(
        self, array: NDArray[np.float64], power: int
    ) -> NDArray[np.float64]:
        """What is left of an array like the old weight.

        Args:
            array: the array, of the shape of the old weight.
            power: that of the factor which it is multiplied by.
        """
        for axis, positions in self.positions.items():
            array = np.take(array, positions, axis)
        factor = self.factor
        if factor is None:
            return array
        if power >= 0:
            return np.asarray(array * factor**power)
        # A factor of 0 let no gradient through: nothing is known of it.
        zeros = np.zeros_like(factor)
        inverse = np.divide(1, factor, out=zeros, where=factor != 0)
        return np.asarray(array * inverse**-power)


def cuts_of(
    decision: Decision, folds: Folds, pruned: keras.Model
) -> dict[int, Cut]:
    """`{id of a weight: its Cut}` for the weights of a pruned model.

    By their ids: Keras compares variables by their values.

    Args:
        decision: the `Decision`.
        folds: the `Folds`.
        pruned: what `rebuild` made of them.
    """
    cuts: dict[int, Cut] = {}
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
            for weight, cut in _cuts_of_part(
                step, decision, folds, before, after
            ):
                cuts.setdefault(id(weight), cut)
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


def _cuts_of_part(
    step: Step,
    decision: Decision,
    folds: Folds,
    before: keras.Layer,
    after: keras.Layer,
) -> list[tuple[keras.Variable, Cut]]:
    """Each weight of a part of a new layer that an old one became."""
    axes = step.rule.axes_of(step.call)
    index = kept_positions(decision, step)
    olds: list[tuple[str, Any]] = named_weights(before, axes)
    news = named_weights(after, axes)
    if len(olds) != len(news):  # A bias was added: their names tell.
        olds = [(name, dict(olds).get(name)) for name, _ in news]
    found = []
    for (name, old), (_, new) in zip(olds, news, strict=True):
        if old is None:
            continue
        rank, roles = len(old.shape), axes.get(name, ())
        positions = {
            axis: index[role]
            for axis, role in enumerate(roles, rank - len(roles))
            if role in index
        }
        factors: dict[int, NDArray[np.float64]] = {}
        for role, vector in folds.factors_of(step.call.op, name):
            axis = rank - len(roles) + roles.index(role)
            kept = vector[index[role]].astype("float64")
            factors[axis] = kept * factors.get(axis, 1.0)
        found.append((new, Cut(old, positions, factors)))
    return found
