"""Dissolve gates: find neighbours whose weights can take the factors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.rule import IDENTITY
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass
class Folds:
    """Where each gate's factors go.

    Attributes:
        factors: `(id of layer, weight name)` -> list of `(role, vector)`,
            over all channels that the layer has before the cut.
        scales: step key of a gate that nothing can take -> its factors,
            shaped like the labels of its output.
        taken: step key of a gate -> the names of the layers that took it.
    """

    factors: dict = dataclasses.field(default_factory=dict)
    scales: dict = dataclasses.field(default_factory=dict)
    taken: dict = dataclasses.field(default_factory=dict)

    def take(self, steps: list[Step], places: list[Any]) -> None:
        """Note the places at which the factors of some gates go."""
        for step in steps:
            self.taken[step.key] = tuple(p[0].path for p in places)
        for target, name, role, vector in places:
            key = (id(target.call.op), name)
            self.factors.setdefault(key, []).append((role, vector))


def fold(decision: Decision, closed: dict[int, NDArray[np.bool_]]) -> Folds:
    """Find the `Folds` of all gates that are still there."""
    folder = _Folder(decision)
    found, gates = Folds(_shut(decision, closed)), {}
    for step in decision.labelling.steps:
        if step.is_gate and step in decision.present:
            gates.setdefault(id(step.call.op), {}).setdefault(step.key, step)
    for op, steps in gates.items():
        pairs = [
            (step, _factors(decision, step, closed.get(op)))
            for step in steps.values()
        ]
        places = folder.before_all(pairs)
        if places is not None:
            found.take([step for step, _ in pairs], places)
            continue
        for step, factors in pairs:
            places = folder.before_all([(step, factors)])
            if places is None:
                places = folder.behind(step, factors)
            if places is None:
                found.scales[step.key] = factors
            else:
                found.take([step], places)
    return found


def _shut(
    decision: Decision, closed: dict[int, NDArray[np.bool_]]
) -> dict[Any, Any]:
    """Zeros for the closed factors that are weights of layers that stay."""
    found = {}
    for step in decision.present:
        shut = closed.get(id(step.call.op))
        if step.position is None and shut is not None and shut.any():
            for name, role in step.rule.zeroed(step.call).items():
                zeros = [(role, np.where(shut, 0.0, 1.0))]
                found[id(step.call.op), name] = zeros
    return found


def _factors(
    decision: Decision, step: Step, shut: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """A gate's factors: 0 where closed, and 1 where nothing is left."""
    labels = step.flow.labels[0]
    factors = step.rule.factors(step.call, labels.ndim).astype("float64")
    if shut is not None:
        mask = step.rule.factors(step.call, labels.ndim, shut)
        factors = np.where(mask, 0.0, factors)
    if not _fits(factors, labels):
        return factors
    factors = np.broadcast_to(factors, labels.shape)
    return np.where(decision.mask(labels), factors, 1.0)


def _fits(factors: NDArray[np.float64], labels: NDArray[np.int64]) -> bool:
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


class _Folder:
    """Walks from a gate to the weights that can take its factors.

    Each walk returns a list of `(step, weight, role, vector)`, or None if
    some path ends at something that can't take the factor.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.labels = decision.labelling.labels
        self.outputs = set(decision.labelling.graph.outputs)
        self.producer, self.users, self.sites = {}, {}, {}
        for step in decision.labelling.steps:
            self.sites.setdefault(id(step.call.op), set()).add(id(step.site))
            if step not in decision.present:
                continue
            for tensor in step.outputs:
                self.producer[tensor] = step
            gone = decision.dropped.get(step.key, ())
            for index, tensor in enumerate(step.inputs):
                if index not in gone:
                    self.users.setdefault(tensor, []).append((step, index))

    def _together(self, gate: Step, step: Step) -> bool:
        """Whether what is done to `step` happens in all calls of `gate`."""
        if len(step.site.calls) != len(gate.site.calls):
            return False
        alone = len(gate.site.calls) == 1
        scope = step.path.rpartition("/")[0]
        return alone or scope == gate.path.rpartition("/")[0]

    def _place(
        self,
        step: Step,
        taken: dict[str, str] | None,
        tensor: Tensor,
        factors: NDArray[np.float64],
    ) -> None:
        """The weights `{name: role}` of a step, with their factors, or None."""
        if not taken:
            return None
        factors = np.broadcast_to(factors, self.labels[tensor].shape)
        places = []
        part = step.rule.parts(step.call.op)[0]
        for number, (name, role) in enumerate(taken.items()):
            if getattr(part, name, None) is None:
                if number == 0:
                    return None
                continue
            ids = step.flow.roles.get(role)
            vector = _vector(factors, ids, self.labels[tensor])
            if vector is None:
                return None
            places.append((step, name, role, vector))
        return places

    def before_all(self, pairs: Any) -> list[Any] | None:
        """Places in front of all calls of a gate, each once, or None.

        A layer that is called more than once takes the factors if they are
        the same behind each of its calls.

        Args:
            pairs: `(step, factors)` of the gate's calls.
        """
        found = {}
        for step, factors in pairs:
            if (factors == 1).all():
                continue
            # Where the gate's axis has no units, no walk can follow.
            if not _fits(factors, step.flow.labels[0]):
                return None
            places = self.upstream(step, step.inputs[0], factors)
            if places is None:
                return None
            for place in places:
                target, name, role, _ = place
                key = (id(target.call.op), name, role)
                found.setdefault(key, {})[id(target.site)] = place
        for (op, *_), by_site in found.items():
            first, *rest = (vector for *_, vector in by_site.values())
            same = all(np.array_equal(first, other) for other in rest)
            if by_site.keys() != self.sites[op] or not same:
                return None
        return [next(iter(by_site.values())) for by_site in found.values()]

    def behind(self, step: Step, factors: NDArray[np.float64]) -> None:
        """Places behind one call of a gate, or None."""
        if not _fits(factors, step.flow.labels[0]):
            return None
        return self.downstream(step, step.outputs[0], factors)

    def upstream(
        self, gate: Step, tensor: Tensor, factors: NDArray[np.float64]
    ) -> None:
        """Factors into what produces `tensor`, for its only reader."""
        if len(self.users.get(tensor, ())) != 1 or tensor in self.outputs:
            return None
        step = self.producer.get(tensor)
        if step is None or not self._together(gate, step):
            return None
        if _passes(step.rule.behind(step.call), factors):
            taken = step.rule.takes(step.call, "out")
            places = self._place(step, taken, tensor, factors)
            if places is not None:
                return places
        if step.flow.mixes or not _passes(
            step.rule.scaling(step.call), factors
        ):
            return None
        return self._through(gate, step, tensor, factors)

    def _through(
        self,
        gate: Step,
        step: Step,
        tensor: Tensor,
        factors: NDArray[np.float64],
    ) -> None:
        """Upstream past a step that the factors pass, to all it reads."""
        if self._has_offset(step):
            return None
        number = step.outputs.index(tensor)
        gone = self.decision.dropped.get(step.key, ())
        one_of = step.rule.one_takes_all(step.call)
        places = []
        for index, before in enumerate(step.inputs):
            source = step.flow.sources[number][index]
            if index in gone or source is None:
                continue
            units = self.labels[before] if step.rule.blends else None
            shape = self.labels[before].shape
            back = _back(factors, source, shape, units)
            whole = index not in step.flow.untied
            found = (
                None
                if back is None or not (whole or not one_of)
                else self.upstream(gate, before, back)
            )
            if found is not None and one_of:
                return found
            if found is None and not one_of:
                return None
            places += found or []
        return places or None

    def _has_offset(self, step: Step) -> bool:
        """Whether a dropped operand left a constant behind."""
        return step.rule.merging and step.key in self.decision.dropped

    def downstream(
        self, gate: Step, tensor: Tensor, factors: NDArray[np.float64]
    ) -> None:
        """Factors into everything that reads `tensor`."""
        users = self.users.get(tensor, ())
        if not users or tensor in self.outputs:
            return None
        places = []
        for step, index in users:
            if not self._together(gate, step):
                return None
            found = None
            # A layer that is called elsewhere, too, would scale there as
            # well; upstream, that is looked at when all places are known.
            if len(self.sites[id(step.call.op)]) == 1:
                taken = step.rule.takes_input(step.call, step.flow, index)
                found = self._place(step, taken, tensor, factors)
            if found is None:
                found = self._onward(gate, step, index, factors)
            if found is None:
                return None
            places += found
        return places

    def _onward(
        self, gate: Step, step: Step, index: int, factors: NDArray[np.float64]
    ) -> None:
        """Downstream past a step that the factors pass."""
        carries = step.rule.carries(step.call, index)
        if step.flow.mixes or not _passes(carries, factors):
            return None
        if self._has_offset(step):
            return None
        places = []
        for number, tensor in enumerate(step.outputs):
            source = step.flow.sources[number][index]
            if source is None:
                return None
            shape = self.labels[step.inputs[index]].shape
            if isinstance(source, str) and source == IDENTITY:
                onward = factors
            else:
                flat = np.broadcast_to(factors, shape).ravel()
                units = self.labels[step.inputs[index]]
                if step.rule.blends and not _alike(flat, source, units):
                    return None
                onward = np.where(source >= 0, flat[source], 1.0)
            found = self.downstream(gate, tensor, onward)
            if found is None:
                return None
            places += found
        return places


def _vector(
    factors: NDArray[np.float64],
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The factors along a role, whose units say which axis it is."""
    if ids is None:
        return None
    axes = lb.varying(labels)
    if not axes:
        return np.broadcast_to(factors.ravel(), ids.shape)
    vector = lb.along(factors, axes[-1])
    return vector if vector is not None and len(vector) == len(ids) else None


def _back(
    factors: NDArray[np.float64],
    source: NDArray[np.int64] | str,
    shape: tuple[int, ...],
    units: NDArray[np.int64] | None = None,
) -> NDArray[np.float64] | None:
    """Factors of the outputs, as factors of what they stem from.

    With `units`, an output may come of more coordinates than the one that
    stands for them; all of a unit get its factor then.
    """
    if isinstance(source, str) and source == IDENTITY:
        return factors
    found = np.ones(int(np.prod(shape)))
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


def _covers(source: NDArray[np.int64], size: int) -> bool:
    """Whether each coordinate of an input is the source of an output."""
    return np.unique(source[source >= 0]).size == size


def _alike(
    flat: NDArray[np.float64],
    source: NDArray[np.int64],
    units: NDArray[np.int64],
) -> bool:
    """Whether the coordinates that one of them stands for have one factor."""
    if _covers(source, flat.size):
        return True
    _, numbers = np.unique(units, return_inverse=True)
    numbers = numbers.reshape(-1)
    first = np.zeros(numbers.max() + 1)
    first[numbers] = flat
    return bool((first[numbers] == flat).all())
