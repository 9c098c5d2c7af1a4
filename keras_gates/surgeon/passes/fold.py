"""Dissolves gates: finds neighbors whose weights can absorb the factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.passes.label import StepKey


class RoleFactors(NamedTuple):
    """What a weight is multiplied by along one of its axes.

    Attributes:
        role: the role of the axis.
        vector: the factors; float, `(channels,)`, over all channels that the
            layer has before the cut.
    """

    role: str
    vector: NDArray[np.float64]


class Place(NamedTuple):
    """A weight that takes the factors of a gate.

    Attributes:
        step: a call of the layer.
        weight: the name of the weight.
        factors: what it is multiplied by.
    """

    step: Step
    weight: str
    factors: RoleFactors


# The name of a weight and the role of one of its axes.
_WeightAxis = tuple[str, str]
# The same weight, as it is found from each recorded call of its layer.
_BySite = dict["Site", Place]


class GateFactors(NamedTuple):
    """The factors of one call of a gate.

    Attributes:
        step: the call.
        values: float, shaped like the labels of its output; 0 where the gate
            is closed, 1 where no channel is left. Where the gate's axis has
            no units, shaped like the output.
    """

    step: Step
    values: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """Where each gate's factors go.

    Attributes:
        by_weight: layer -> name of a weight -> what it is multiplied by. See
            `factors_of`.
        scales: step key of a gate that nothing can take -> its factors; float,
            shaped like the labels of its output.
    """

    by_weight: IdentityDict[keras.Operation, dict[str, list[RoleFactors]]]
    scales: Mapping[StepKey, NDArray[np.float64]]

    def factors_of(
        self, layer: keras.Operation, weight: str
    ) -> Sequence[RoleFactors]:
        """What a weight of a layer is multiplied by, one after another."""
        of_layer = self.by_weight.get(layer)
        return () if of_layer is None else of_layer.get(weight, ())


def fold(decision: Decision) -> Folds:
    """Find the `Folds` of all gates that are still there."""
    search, places = _Search(decision), _inside(decision)
    scales: dict[StepKey, NDArray[np.float64]] = {}
    calls_of: IdentityDict[keras.Operation, dict[StepKey, Step]]
    calls_of = IdentityDict()
    for step in decision.steps():
        if step.is_gate:
            calls_of.setdefault(step.call.op, {}).setdefault(step.key, step)
    for calls in calls_of.values():
        gates = [_factors(decision, step) for step in calls.values()]
        found = search.before_all(gates)
        if found is not None:
            places += found
            continue
        for gate in gates:
            found = search.before_all([gate])
            if found is None:
                found = search.after(gate)
            if found is None:
                scales[gate.step.key] = gate.values
            else:
                places += found
    return Folds(_by_weight(places), scales)


def _by_weight(
    places: list[Place],
) -> IdentityDict[keras.Operation, dict[str, list[RoleFactors]]]:
    found: IdentityDict[keras.Operation, dict[str, list[RoleFactors]]]
    found = IdentityDict()
    for step, weight, factors in places:
        by_name = found.setdefault(step.call.op, {})
        by_name.setdefault(weight, []).append(factors)
    return found


def _inside(decision: Decision) -> list[Place]:
    """What is multiplied by factors that are in layers that stay."""
    found: IdentityDict[keras.Operation, list[Place]] = IdentityDict()
    for step in decision.steps():
        if not step.is_selection:
            found[step.call.op] = [
                Place(step, weight, RoleFactors(role, factors))
                for weight, role, factors in _own_factors(decision, step)
            ]
    return [place for places in found.values() for place in places]


def _own_factors(
    decision: Decision, step: Step
) -> list[tuple[str, str, NDArray[np.float64]]]:
    """`(weight, role, factors)` for what is closed inside a layer."""
    rule, call = step.rule, step.call
    shut = decision.closed.get(call.op)
    if rule.inner_units(call):
        roles = step.flow.roles.items()
        kept = {role: decision.mask(ids) for role, ids in roles}
        return rule.inner_factors(call, step.flow, kept, shut)
    if shut is None or not shut.any():
        return []
    factors = np.where(shut, 0.0, 1.0)
    return [(name, role, factors) for name, role in rule.zeroed(call).items()]


def _factors(decision: Decision, step: Step) -> GateFactors:
    """A gate's factors: 0 where closed, and 1 where nothing is left."""
    labels = step.flow.labels[0]
    factors = step.rule.factors(step.call, labels.ndim).astype("float64")
    shut = decision.closed.get(step.call.op)
    if shut is not None:
        mask = step.rule.factors(step.call, labels.ndim, shut)
        factors = np.where(mask, 0.0, factors)
    if not _fits(factors, labels):
        return GateFactors(step, factors)
    factors = np.broadcast_to(factors, labels.shape)
    return GateFactors(step, np.where(decision.mask(labels), factors, 1.0))


def _fits(factors: NDArray[np.float64], labels: NDArray[np.intp]) -> bool:
    """Whether each of the factors belongs to a unit."""
    return all(
        f in (1, e) for f, e in zip(factors.shape, labels.shape, strict=True)
    )


def _passes(how: str | None, factors: NDArray[np.float64]) -> bool:
    """Whether these factors pass an operation that scales as `how`."""
    if how == LINEAR:
        return True
    if how == POSITIVE:
        return bool((factors >= 0).all())
    if how == PRESERVES_ZERO:
        return bool(np.isin(factors, (0.0, 1.0)).all())
    return False


class _Search:
    """Walks from a gate to the weights that can absorb its factors.

    Each walk returns a list of `Place`s, or None if a path ends at something
    that can't absorb the factors. Factors have the shape of the labels of the
    tensor that they are walked to.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.labels = decision.labelling.labels
        self.outputs = set(decision.labelling.graph.outputs)
        self.producer: dict[Tensor, Step] = {}
        self.readers: dict[Tensor, list[tuple[Step, int]]] = {}
        self.sites: IdentityDict[keras.Operation, set[Site]] = IdentityDict()
        for step in decision.labelling.steps:
            self.sites.setdefault(step.call.op, set()).add(step.site)
        for step in decision.steps():
            for tensor in step.outputs:
                self.producer[tensor] = step
            gone = decision.dropped.get(step.key, ())
            for index, tensor in enumerate(step.inputs):
                if index not in gone:
                    self.readers.setdefault(tensor, []).append((step, index))

    def before_all(self, gates: Sequence[GateFactors]) -> list[Place] | None:
        """Places before all calls of a gate, each once, or None.

        A layer that is called more than once takes the factors if they are
        the same after each of its calls.
        """
        found: IdentityDict[keras.Operation, dict[_WeightAxis, _BySite]]
        found = IdentityDict()
        for step, factors in gates:
            if (factors == 1).all():
                continue
            # Where the gate's axis has no units, no walk can follow.
            if not _fits(factors, step.flow.labels[0]):
                return None
            places = self._upstream(step, step.inputs[0], factors)
            if places is None:
                return None
            for place in places:
                by_axis = found.setdefault(place.step.call.op, {})
                axis = (place.weight, place.factors.role)
                by_axis.setdefault(axis, {})[place.step.site] = place
        chosen = []
        for op, by_axis in found.items():
            for by_site in by_axis.values():
                first, *rest = by_site.values()
                vector = first.factors.vector
                same = all(
                    np.array_equal(vector, other.factors.vector)
                    for other in rest
                )
                if by_site.keys() != self.sites[op] or not same:
                    return None
                chosen.append(first)
        return chosen

    def after(self, gate: GateFactors) -> list[Place] | None:
        """Places after one call of a gate, or None."""
        step, factors = gate
        if not _fits(factors, step.flow.labels[0]):
            return None
        return self._downstream(step, step.outputs[0], factors)

    def _together(self, gate: Step, step: Step) -> bool:
        """Whether what is done to `step` happens in all calls of `gate`."""
        if len(step.site.calls) != len(gate.site.calls):
            return False
        alone = len(gate.site.calls) == 1
        scope = step.path.rpartition("/")[0]
        return alone or scope == gate.path.rpartition("/")[0]

    def _places(
        self,
        step: Step,
        taking: dict[str, str] | None,
        tensor: Tensor,
        factors: NDArray[np.float64],
    ) -> list[Place] | None:
        """The weights `{name: role}` of a step, with their factors, or None."""
        if not taking:
            return None
        labels = self.labels[tensor]
        factors = np.broadcast_to(factors, labels.shape)
        places = []
        part = step.rule.parts(step.call.op)[0]
        for number, (name, role) in enumerate(taking.items()):
            if getattr(part, name, None) is None:
                if number == 0:
                    return None
                continue
            vector = _vector(factors, step.flow.roles.get(role), labels)
            if vector is None:
                return None
            places.append(Place(step, name, RoleFactors(role, vector)))
        return places

    def _upstream(
        self, gate: Step, tensor: Tensor, factors: NDArray[np.float64]
    ) -> list[Place] | None:
        """Factors into what produces `tensor`, for its only reader."""
        if len(self.readers.get(tensor, ())) != 1 or tensor in self.outputs:
            return None
        step = self.producer.get(tensor)
        if step is None or not self._together(gate, step):
            return None
        if _passes(step.rule.behind(step.call), factors):
            taking = step.rule.takes(step.call, "out")
            places = self._places(step, taking, tensor, factors)
            if places is not None:
                return places
        scaling = step.rule.scaling(step.call)
        if step.flow.mixes or not _passes(scaling, factors):
            return None
        return self._through(gate, step, tensor, factors)

    def _through(
        self,
        gate: Step,
        step: Step,
        tensor: Tensor,
        factors: NDArray[np.float64],
    ) -> list[Place] | None:
        """Upstream past a step that the factors pass, to all it reads."""
        if self._has_offset(step):
            return None
        number = step.outputs.index(tensor)
        gone = self.decision.dropped.get(step.key, ())
        one_of = step.rule.one_takes_all(step.call)
        places: list[Place] = []
        for index, before in enumerate(step.inputs):
            source = step.flow.sources[number][index]
            if index in gone or source is None:
                continue
            if one_of and step.rule.carries(step.call, index) is None:
                continue
            units = self.labels[before] if step.rule.blends else None
            shape = self.labels[before].shape
            back = _back(factors, source, shape, units)
            whole = index not in step.flow.untied
            found = (
                None
                if back is None or not (whole or not one_of)
                else self._upstream(gate, before, back)
            )
            if found is not None and one_of:
                return found
            if found is None and not one_of:
                return None
            places += found or []
        return places or None

    def _has_offset(self, step: Step) -> bool:
        """Whether a dropped operand left a constant that is added."""
        return step.rule.merging and step.key in self.decision.dropped

    def _downstream(
        self, gate: Step, tensor: Tensor, factors: NDArray[np.float64]
    ) -> list[Place] | None:
        """Factors into everything that reads `tensor`."""
        readers = self.readers.get(tensor, ())
        if not readers or tensor in self.outputs:
            return None
        places: list[Place] = []
        for step, index in readers:
            if not self._together(gate, step):
                return None
            found = None
            # A layer that is called elsewhere, too, would scale there as
            # well; upstream, that is looked at when all places are known.
            if len(self.sites[step.call.op]) == 1:
                taking = step.rule.takes_input(step.call, step.flow, index)
                found = self._places(step, taking, tensor, factors)
            if found is None:
                found = self._onward(gate, step, index, factors)
            if found is None:
                return None
            places += found
        return places

    def _onward(
        self, gate: Step, step: Step, index: int, factors: NDArray[np.float64]
    ) -> list[Place] | None:
        """Downstream past a step that the factors pass."""
        carries = step.rule.carries(step.call, index)
        if step.flow.mixes or not _passes(carries, factors):
            return None
        if self._has_offset(step):
            return None
        units = self.labels[step.inputs[index]]
        places: list[Place] = []
        for number, tensor in enumerate(step.outputs):
            source = step.flow.sources[number][index]
            if source is None:
                return None
            onward = _forth(factors, source, units, step.rule.blends)
            if onward is None:
                return None
            found = self._downstream(gate, tensor, onward)
            if found is None:
                return None
            places += found
        return places


def _vector(
    factors: NDArray[np.float64],
    ids: NDArray[np.intp] | None,
    labels: NDArray[np.intp],
) -> NDArray[np.float64] | None:
    """The factors along a role, whose units say which axis it is."""
    if ids is None:
        return None
    axes = lb.varying(labels)
    if not axes:
        return np.broadcast_to(factors.ravel(), ids.shape)
    # Along other axes there may be what goes as one, as that of a head.
    for axis in reversed(axes):
        vector = lb.along(factors, axis)
        own = lb.along(labels, axis)
        if vector is not None and own is not None and len(own) == len(ids):
            return vector
    return None


def _back(
    factors: NDArray[np.float64],
    source: NDArray[np.intp] | str,
    shape: tuple[int, ...],
    units: NDArray[np.intp] | None = None,
) -> NDArray[np.float64] | None:
    """Factors of the outputs, as factors of what they stem from.

    With `units`, an output may come of more coordinates than the one that
    stands for them; all of a unit get its factor then.
    """
    if not isinstance(source, np.ndarray):  # IDENTITY
        return factors
    found = np.ones(math.prod(shape))
    wide = np.broadcast_to(factors, source.shape)
    inside = source >= 0
    found[source[inside]] = wide[inside]
    agrees = (found[source[inside]] == wide[inside]).all()
    if agrees and units is not None and not _covers(source, found.size):
        every = units.ravel()
        order = every[source[inside]]
        spread = dict(zip(order.tolist(), wide[inside].tolist(), strict=True))
        found = np.array([spread.get(unit, 1.0) for unit in every.tolist()])
        agrees = (found[source[inside]] == wide[inside]).all()
    return found.reshape(shape) if agrees else None


def _forth(
    factors: NDArray[np.float64],
    source: NDArray[np.intp] | str,
    units: NDArray[np.intp],
    blends: bool,
) -> NDArray[np.float64] | None:
    """Factors of an input, as factors of the outputs; None if they differ.

    Args:
        factors: those of the input.
        source: as in `Flow`.
        units: the labels of the input.
        blends: whether an output may come of more coordinates of its unit
            than of the one that stands for them.
    """
    if not isinstance(source, np.ndarray):  # IDENTITY
        return factors
    flat = np.broadcast_to(factors, units.shape).ravel()
    if blends and not _alike(flat, source, units):
        return None
    return np.where(source >= 0, flat[source], 1.0)


def _covers(source: NDArray[np.intp], size: int) -> bool:
    """Whether each coordinate of an input is the source of an output."""
    return np.unique(source[source >= 0]).size == size


def _alike(
    flat: NDArray[np.float64],
    source: NDArray[np.intp],
    units: NDArray[np.intp],
) -> bool:
    """Whether the coordinates that one of them stands for have one factor."""
    if _covers(source, flat.size):
        return True
    _, numbers = np.unique(units, return_inverse=True)
    numbers = numbers.reshape(-1)
    first = np.zeros(numbers.max() + 1)
    first[numbers] = flat
    return bool((first[numbers] == flat).all())
