"""The cost of each step, as a polynomial in the numbers of kept units.

A cost is linear in each size by itself: the multiply-adds of a kernel are
`positions * taps * in * out`. So its coefficients follow from the costs with
some of the sizes whole and the others 0, which the rules tell.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.expected.arithmetic import either
from keras_gates.surgeon.expected.arithmetic import grouped
from keras_gates.surgeon.expected.arithmetic import picked
from keras_gates.surgeon.rules import costs

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.expected.circuit import Circuit
    from keras_gates.surgeon.expected.circuit import Kept
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

    Shapes = Mapping[Tensor, tuple[int | None, ...]]

# With so many sizes a cost is asked for 2 ** 8 times.
_MOST = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """The number of kept units.

    Attributes:
        places: the classes of each unit, of which one must be kept; int,
            `(units, most)`.
        factors: for a unit that is made of several factors, as a filter is
            of stripes, their numbers; int, `(units, factors)`. The size is
            the number of open ones then. None for any other.
    """

    places: NDArray[np.intp]
    factors: NDArray[np.intp] | None = None

    @property
    def whole(self) -> int:
        return len(self.places) if self.factors is None else self.factors.size

    def kept(self, xp: Any, kept: Kept) -> Any:
        """The number of those that are kept, `(...)`."""
        found = picked(xp, kept.classes, self.places)
        if self.factors is not None:
            own = [
                xp.take(kept.factors, column, axis=-1)
                for column in self.factors.T
            ]
            found = found * sum(own[1:], own[0])
        return xp.sum(found, axis=-1)

    def gone(self, xp: Any, kept: Kept) -> Any:
        """How far any of those that are kept has gone, `(...)`."""
        found = picked(xp, kept.classes, self.places)
        return 1 - xp.prod(found, axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Price:
    """The cost of a step that is present.

    Attributes:
        steps: those that it is paid for once, if any of them is there.
        sizes: what it depends on.
        terms: `(coefficient, numbers of the sizes that it is multiplied by)`.
        lacking: units of which one must have gone for it to be paid; None
            where it is paid in any case.
    """

    steps: tuple[Step, ...]
    sizes: tuple[Size, ...]
    terms: tuple[tuple[float, tuple[int, ...]], ...]
    lacking: Size | None = None

    def of(self, xp: Any, kept: Kept) -> Any:
        """The remaining cost, `(...)`."""
        sizes = [size.kept(xp, kept) for size in self.sizes]
        there = either([kept.steps[step] for step in self.steps])
        if self.lacking is not None:
            there = there * self.lacking.gone(xp, kept)
        total = there * 0
        for factor, numbers in self.terms:
            term = there * factor
            for number in numbers:
                term = term * sizes[number]
            total = total + term
        return total


def multiply_adds(circuit: Circuit, shapes: Shapes) -> list[Price]:
    """The prices of all countable steps in MACs."""
    found = []
    for step in _calls(circuit.labelling):
        price = _of_step(circuit, step, shapes)
        if price is not None and price.terms:
            found.append(price)
    for step in circuit.counting:
        if step.rule.writes_out(step.call):
            found += _of_writing(circuit, step, shapes)
    return found


def _of_writing(
    circuit: Circuit, step: Step, shapes: Shapes
) -> Iterator[Price]:
    """The MACs of a step's written-out form."""
    call, rule, tensor = step.call, step.rule, step.call.inputs[0]
    sizes = {
        axis: size
        for (own, axis), size in _axes(circuit.labelling, step).items()
        if own is tensor
    }

    def of_sizes(kept: Sequence[int]) -> float:
        shape = list(shapes[tensor])
        for axis, size in zip(sizes, kept, strict=True):
            shape[axis] = size
        return float(rule.written_macs(call, tuple(shape)))

    price = _priced((step,), [*sizes.values()], of_sizes)
    for lacking in sizes.values():
        if price.terms:
            yield dataclasses.replace(price, lacking=lacking)


def parameters(circuit: Circuit) -> list[Price]:
    """The prices of all layers in parameters."""
    by_op: dict[int, list[Step]] = {}
    for step in _calls(circuit.labelling):
        if isinstance(step.call.op, keras.Layer) and not step.is_gate:
            by_op.setdefault(id(step.call.op), []).append(step)
    found = []
    for steps in by_op.values():
        price = _of_layer(circuit, steps)
        if price.terms:
            found.append(price)
    return found


def _calls(labelling: Labelling) -> list[Step]:
    return [s for s in labelling.steps if s.position is None]


def _of_step(circuit: Circuit, step: Step, shapes: Shapes) -> Price | None:
    """The MACs of one call; None where they are not known."""
    call, rule = step.call, step.rule
    own = costs.weight_shapes(call.op)

    def macs(weights: Any, tensors: Shapes) -> int | None:
        try:
            return costs.call_macs(call, rule, weights, tensors)
        except ValueError:
            return None

    if step.is_gate or not macs(own, shapes):
        return None
    if rule.packing is not None:
        whole = float(
            macs(rule.packing.packed_shapes(call, {}, None), shapes) or 0
        )
        return _of_stripes(circuit, (step,), whole, 0.0)
    roles = _roles(circuit, step)
    whole = rule.counts is None and step.flow.mixes
    axes = {} if whole else _axes(circuit.labelling, step)

    def of_sizes(kept: Sequence[int]) -> float:
        by_role = dict(zip(roles, kept, strict=False))
        weights = costs.cut_weight_shapes(call, rule, by_role)
        tensors = {t: list(shapes[t]) for t in (*call.inputs, *call.outputs)}
        tensors.update((t, list(shapes[t])) for t in call.times)
        for (tensor, axis), size in zip(axes, kept[len(roles) :], strict=True):
            tensors[tensor][axis] = size
        left = {t: tuple(sizes) for t, sizes in tensors.items()}
        return float(macs(weights, left) or 0)

    return _priced((step,), [*roles.values(), *axes.values()], of_sizes)


def _of_layer(circuit: Circuit, steps: list[Step]) -> Price:
    """The parameters of a layer."""
    step = steps[0]
    call, rule = step.call, step.rule
    roles = _roles(circuit, step)
    if rule.packing is not None:
        none = {"in": np.zeros(0, np.intp)}
        every, biases = (
            costs.parameters(rule.packing.packed_shapes(call, index, None))
            for index in ({}, none)
        )
        return _of_stripes(circuit, tuple(steps), every - biases, biases)

    def of_roles(kept: Sequence[int]) -> float:
        by_role = dict(zip(roles, kept, strict=True))
        return float(
            costs.parameters(costs.cut_weight_shapes(call, rule, by_role))
        )

    return _priced(tuple(steps), list(roles.values()), of_roles)


def _priced(
    steps: tuple[Step, ...],
    sizes: list[Size],
    cost: Callable[[Sequence[int]], float],
) -> Price:
    """The `Price` whose value is `cost` where each size is whole or 0."""
    wholes = [size.whole for size in sizes]
    matter = [
        n
        for n in range(len(sizes))
        if cost([0 if n == m else w for m, w in enumerate(wholes)])
        != cost(wholes)
    ][:_MOST]
    values: dict[tuple[int, ...], float] = {}
    terms = []
    for count in range(len(matter) + 1):
        for some in itertools.combinations(matter, count):
            rest = sum(v for key, v in values.items() if set(key) < set(some))
            own = cost(
                [
                    w if m in some or m not in matter else 0
                    for m, w in enumerate(wholes)
                ]
            )
            values[some] = own - rest
            if values[some]:
                scale = float(np.prod([wholes[m] for m in some]))
                numbers = tuple(matter.index(m) for m in some)
                terms.append((values[some] / scale, numbers))
    return Price(steps, tuple(sizes[m] for m in matter), tuple(terms))


def _roles(circuit: Circuit, step: Step) -> dict[str, Size]:
    """The sizes that the axes of a step's weights have."""
    named = {
        role for axes in step.rule.axes_of(step.call).values() for role in axes
    }
    classes = circuit.labelling.classes
    return {
        role: Size(classes[ids][:, None])
        for role, ids in step.flow.roles.items()
        if role in named
    }


def _of_stripes(
    circuit: Circuit, steps: tuple[Step, ...], kernel: float, biases: float
) -> Price:
    """The price of a layer whose kernel is packed, stripe by stripe.

    Args:
        circuit: the `Circuit`.
        steps: the calls of the layer.
        kernel: what all stripes cost with all of their input channels.
        biases: what the biases cost besides.
    """
    roles, stripes = _roles(circuit, steps[0]), _stripes(circuit, steps[0])
    of_kernel = [stripes, *(s for n, s in roles.items() if n == "in")]
    out = [s for n, s in roles.items() if n == "out"]
    scale = float(np.prod([size.whole for size in of_kernel]))
    terms = [(kernel / scale, tuple(range(len(of_kernel))))]
    terms += [(biases / s.whole, (len(of_kernel),)) for s in out]
    return Price(steps, (*of_kernel, *out), tuple(terms))


def _stripes(circuit: Circuit, step: Step) -> Size:
    """The number of kept stripes of a strip convolution."""
    classes = circuit.labelling.classes
    opened = step.rule.opened_by(step.call, step.flow)
    ids = step.flow.roles["out"]
    start = circuit.start_of(step.call.op)
    if opened is None or start is None:
        each = step.flow.roles.get("stripe", ids)
        return Size(classes[each][:, None])
    factors = opened.reshape(len(ids), -1) + start
    return Size(classes[ids][:, None], factors)


def _axes(labelling: Labelling, step: Step) -> dict[tuple[Tensor, int], Size]:
    """The axes of a call's tensors along which something may be removed."""
    found = {}
    pairs = [
        *zip(step.call.inputs, step.inputs, strict=True),
        *zip(step.call.outputs, step.outputs, strict=True),
    ]
    for tensor, labelled in pairs:
        labels = labelling.labels[labelled]
        for axis in lb.varying(labels):
            classes = labelling.classes[labels]
            rows = np.moveaxis(classes, axis, 0).reshape(labels.shape[axis], -1)
            owners = np.repeat(np.arange(len(rows)), rows.shape[1])
            pair = np.unique(np.stack([owners, rows.ravel()]), axis=1)
            none = len(labelling.classes)
            places = grouped(pair[0], pair[1], len(rows), none)
            found[tensor, axis] = Size(places)
    return found
