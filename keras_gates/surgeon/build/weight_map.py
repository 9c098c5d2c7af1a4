"""The cut of each weight: the remaining part, and its factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import time_axis
from keras_gates.graphs.attribute_paths import Parts
from keras_gates.graphs.attribute_paths import parts_of
from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.build.weights import kept_positions
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.graphs.opened import Opened
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """How a weight of the pruned model was cut from one of the model.

    Attributes:
        old: the weight that it was.
        positions: axis -> the positions that were kept along it, `(kept,)`.
        factors: axis -> what it was multiplied by along it: float64,
            `(kept,)`.
        shape: that which the axes are those of; that of the old weight, or
            one of the same numbers.
        wanted: the shape of the new weight, likewise.
    """

    old: keras.Variable
    positions: dict[int, NDArray[np.intp]]
    factors: dict[int, NDArray[np.float64]] = dataclasses.field(
        default_factory=dict
    )
    shape: tuple[int, ...] | None = None
    wanted: tuple[int, ...] | None = None

    @property
    def factor(self) -> NDArray[np.float64] | None:
        """The product of `factors`; with extent 1 where it does not vary."""
        found: NDArray[np.float64] | None = None
        rank = len(self.old.shape if self.shape is None else self.shape)
        for axis, vector in self.factors.items():
            shape = [1] * rank
            shape[axis] = -1
            along = vector.reshape(shape)
            found = along if found is None else found * along
        return found

    def then(self, later: Cut) -> Cut | None:
        """The composition of this cut with a later one.

        None where the axes of the weight in between are not those of both.
        """
        if self.wanted is not None or later.shape is not None:
            return None
        positions, factors = dict(self.positions), dict(later.factors)
        for axis, kept in later.positions.items():
            first = self.positions.get(axis)
            positions[axis] = kept if first is None else first[kept]
        for axis, vector in self.factors.items():
            at = later.positions.get(axis)
            left = vector if at is None else vector[at]
            factors[axis] = left * factors.get(axis, 1.0)
        return Cut(self.old, positions, factors, self.shape, later.wanted)

    def apply(
        self, array: NDArray[np.float64], power: int
    ) -> NDArray[np.float64]:
        """The cut of an array like the old weight.

        Args:
            array: the array, of the shape of the old weight.
            power: that of the factor which it is multiplied by.
        """
        if self.shape is not None:
            array = array.reshape(self.shape)
        for axis, positions in self.positions.items():
            array = np.take(array, positions, axis)
        array = self._scaled(array, power)
        return array if self.wanted is None else array.reshape(self.wanted)

    def _scaled(
        self, array: NDArray[np.float64], power: int
    ) -> NDArray[np.float64]:
        factor = self.factor
        if factor is None:
            return array
        if power >= 0:
            return np.asarray(array * factor**power)
        # A factor of 0 passes no gradient, so its state is unknown.
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
    inside = _Inside()
    for step in decision.labelling.steps:
        layer = step.call.op
        if step.is_selection or not isinstance(layer, keras.Layer):
            continue
        if step not in decision.present:
            continue
        new, depth = _layer_at(pruned, step.path)
        if any(scope.site.opened is not None for scope in step.call.scopes):
            found = inside.cuts(step, decision, folds, new, depth)
            for weight, cut in found:
                cuts.setdefault(id(weight), cut)
            continue
        # In a gate's place there may be a Rescaling of its name.
        same = type(new) is type(step.rule.base(layer))
        if not same and not step.rule.holds(new):
            continue
        for weight, cut in _cuts(step, decision, folds, new):
            cuts.setdefault(id(weight), cut)
    return cuts


class _Inside:
    """The weights of layers that were seen through.

    What a step holds are weights of a copy of the user's layer, or of a layer
    that stands for an operation on one.
    """

    def __init__(self) -> None:
        # Copy of a layer -> its parts.
        self._parts: IdentityDict[keras.Layer, Parts] = IdentityDict()
        # Weight in place of another -> the weight of the copy.
        self._bare: IdentityDict[keras.Variable, keras.Variable]
        self._bare = IdentityDict()
        self._seen: set[int] = set()

    def cuts(
        self,
        step: Step,
        decision: Decision,
        folds: Folds,
        new: keras.Layer | None,
        depth: int,
    ) -> Iterator[tuple[keras.Variable, Cut]]:
        """Each new weight of a step, and its part of the user's weight.

        Args:
            step: a step in such a layer.
            decision: the `Decision`.
            folds: the `Folds`.
            new: what is in its place, or in that of a layer around it.
            depth: of how many models that is in.
        """
        scopes = step.call.scopes
        opened = [s.site.opened for s in scopes if s.site.opened is not None]
        self._note(opened)
        kept = depth < len(scopes)
        twin = scopes[depth].site.opened if kept else None
        layer = self._counterpart(step.call.op, new, twin)
        if type(layer) is not type(step.call.op):
            layer = step.call.op  # it stands for operations on weights
            if twin is None:
                return
        for weight, cut in _cuts(step, decision, folds, layer):
            held = self._bare.get(cut.old, cut.old)
            old = self._of(opened[0].layer, opened[0].twin, held)
            if twin is not None and layer is step.call.op and new is not None:
                found = self._of(new, twin.twin, held)
            else:
                found = weight
            if old is None or found is None:
                continue
            reshaped = _reshaped(cut, old, found)
            if reshaped is not None:
                yield found, reshaped

    def _note(self, opened: list[Opened]) -> None:
        for each in opened:
            if id(each) not in self._seen:
                self._seen.add(id(each))
                for variable, place in each.bare:
                    held = getattr(place.layer, place.name)
                    self._bare.setdefault(held, variable)

    def _counterpart(
        self,
        op: keras.Layer,
        new: keras.Layer | None,
        twin: Opened | None,
    ) -> keras.Layer | None:
        """What a layer inside became; None for what is not a layer inside."""
        if twin is None or new is None:
            return new
        path = self._of_layer(twin.twin).layer_paths().get(op)
        return None if path is None else self._of_layer(new).layers.get(path)

    def _of(
        self, layer: keras.Layer, twin: keras.Layer, weight: keras.Variable
    ) -> keras.Variable | None:
        """The weight of a layer that is where `weight` is in a like one."""
        path = self._of_layer(twin).variable_paths().get(weight)
        if path is None:
            return None
        return self._of_layer(layer).variables.get(path)

    def _of_layer(self, layer: keras.Layer) -> Parts:
        if layer not in self._parts:
            self._parts[layer] = parts_of(layer)
        return self._parts[layer]


def _reshaped(cut: Cut, old: keras.Variable, new: keras.Variable) -> Cut | None:
    """A cut of what holds the numbers of `old`, as one of `old`."""
    shape: tuple[int, ...] | None = tuple(cut.old.shape)
    wanted: tuple[int, ...] | None = tuple(new.shape)
    if math.prod(cut.old.shape) != math.prod(old.shape):
        return _of_some(cut, old, new)
    if shape == tuple(old.shape) and len(old.shape) == len(new.shape):
        shape = wanted = None
    return dataclasses.replace(cut, old=old, shape=shape, wanted=wanted)


def _of_some(cut: Cut, old: keras.Variable, new: keras.Variable) -> Cut | None:
    """The same where some of the numbers are held, along the axes of all.

    None where `new` is no such cut.
    """
    before = len(cut.old.shape) - len(old.shape)
    whole = {
        axis + before: axis
        for axis, size in enumerate(old.shape)
        if axis + before >= 0 and cut.old.shape[axis + before] == size
    }
    positions = {whole[a]: x for a, x in cut.positions.items() if a in whole}
    factors = {whole[a]: x for a, x in cut.factors.items() if a in whole}
    sizes = [len(positions.get(a, range(n))) for a, n in enumerate(old.shape)]
    fits = sizes == list(new.shape) and len(factors) == len(cut.factors)
    return Cut(old, positions, factors) if fits else None


def _layer_at(model: keras.Model, path: str) -> tuple[keras.Layer | None, int]:
    """The layer at a path such as "tower/hidden", or its outer layer.

    Returns:
        `(layer, number of models that it is in)`; None if there is none.
    """
    found: keras.Layer = model
    names = path.split("/")
    for depth, name in enumerate(names):
        found = time_axis.layer_of(found)
        if not isinstance(found, keras.Model):
            return found, depth - 1
        alike = [layer for layer in found.layers if layer.name == name]
        if not alike:
            return None, depth
        found = alike[0]
    return found, len(names) - 1


def _cuts(
    step: Step, decision: Decision, folds: Folds, new: keras.Layer
) -> Iterator[tuple[keras.Variable, Cut]]:
    """Each weight of a new layer that the one of a step became."""
    olds, news = step.rule.parts(step.call.op), step.rule.parts(new)
    for before, after in zip(olds, news, strict=True):
        yield from _cuts_of_part(step, decision, folds, before, after)


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
    numbers = step.rule.rescaled(decision.removed(step, 0))
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
            kept = vector[index[role]].astype("float64")
            axis = rank - len(roles) + roles.index(role)
            factors[axis] = kept * factors.get(axis, 1.0)
        number = numbers.get(name)
        if number is not None:
            along = np.full(len(positions.get(0, range(old.shape[0]))), number)
            factors[0] = along * factors.get(0, 1.0)
        cut = _reshaped(Cut(old, positions, factors), old, new)
        if cut is not None:
            found.append((new, cut))
    return found
