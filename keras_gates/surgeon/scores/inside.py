"""Probes of units inside attention: its heads, and their dimensions."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.layers.around_attention import AroundAttention
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.layers.arguments import Shape
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

SomeProbe = TypeVar("SomeProbe", bound="_Probe")

# What is closed by the rows of this alone is read by it.
_READ = {"output_kernel"}
# By a weight that closes units: the projection that is measured for it, and
# whether what that puts out is, or what it reads.
_MEASURED = {
    "output_kernel": ("output", False),
    "query_kernel": ("query", True),
}


@dataclasses.dataclass(frozen=True, eq=False)
class ScaledAxis:
    """An axis of a weight along which there are units inside a layer.

    Attributes:
        weight: the name of the weight.
        axis: the axis.
        units: for each place along it, the number of its unit; int.
    """

    weight: str
    axis: int
    units: NDArray[np.intp]


@dataclasses.dataclass(frozen=True, eq=False)
class Inside:
    """The units inside one layer, numbered one role after the other.

    Attributes:
        rule: the rule of the layer.
        axes: where they are closed.
        places: the place of each among the units of all groups, -1 for none;
            int, `(units,)`.
    """

    rule: Rule
    axes: tuple[ScaledAxis, ...]
    places: NDArray[np.intp]


def find(
    graph: Graph, labelling: Labelling
) -> IdentityDict[keras.Operation, Inside]:
    """What groups have inside layers, where no virtual gate can be.

    Args:
        graph: the `Graph` with its virtual gates.
        labelling: the `Labelling` that its groups are of.
    """
    found: IdentityDict[keras.Operation, Inside] = IdentityDict()
    for step in labelling.steps:
        places = graph.loops.get(step.call.op)
        names = [e.name for e in step.rule.inner_units(step.call)]
        if places is not None and all(names) and (places >= 0).any():
            found[step.call.op] = _inside(step, places)
    return found


def output_axes(
    graph: Graph, labelling: Labelling
) -> list[tuple[Step, list[tuple[int, NDArray[np.intp]]]]]:
    """The layers whose kernel of the output reads units inside them.

    Returns:
        For the first step of each layer, `(axis of the kernel, the class of
        the unit at each place)` of units that are closed there alone.
    """
    found = []
    seen: IdentityDict[keras.Operation, None] = IdentityDict()
    for step in labelling.steps:
        inner = step.rule.inner_units(step.call)
        if step.call.op in seen or not inner:
            continue
        seen[step.call.op] = None
        own = step.rule.axes_of(step.call).get("output_kernel")
        axes = [
            (own.index(each.zeroed[0][1]), each.zeroed[0][1])
            for each in inner
            if own is not None and {n for n, _ in each.zeroed} == _READ
        ]
        roles, classes = step.flow.roles, labelling.classes
        pairs = [(axis, classes[roles[role]]) for axis, role in axes]
        if pairs:
            found.append((step, pairs))
    return found


def of_gates(
    graph: Graph,
) -> tuple[
    IdentityDict[keras.Operation, Inside], IdentityDict[keras.Operation, str]
]:
    """The units that gates inside layers have factors for, and their paths."""
    found: IdentityDict[keras.Operation, Inside] = IdentityDict()
    paths: IdentityDict[keras.Operation, str] = IdentityDict()
    calls = [c for c in graph.calls if rule_of(c).inner_units(c)]
    if not any(rule_of(call).source(call) for call in calls):
        return found, paths
    for step in label(graph, selections=False).steps:
        inner = step.rule.inner_units(step.call)
        if inner and step.rule.source(step.call) is not None:
            each = _inside(step, np.zeros(0, np.intp))
            count = len(step.flow.roles[inner[0].role])
            axes = tuple(a for a in each.axes if (a.units < count).all())
            found[step.call.op] = dataclasses.replace(each, axes=axes)
            paths.setdefault(step.call.op, step.path)
    return found, paths


def _inside(step: Step, places: NDArray[np.intp]) -> Inside:
    roles, axes = step.flow.roles, step.rule.axes_of(step.call)
    found, start = [], 0
    for each in step.rule.inner_units(step.call):
        own = roles[each.role]
        order = np.argsort(own)
        for name, role in each.zeroed:
            at = order[np.searchsorted(own[order], roles[role])]
            found.append(ScaledAxis(name, axes[name].index(role), at + start))
        start += len(own)
    return Inside(step.rule, tuple(found), places)


def probed(
    recall: Recall,
    made: IdentityDict[keras.Operation, SomeProbe],
    inside: Inside,
    make: Callable[[keras.Layer, Inside], SomeProbe],
) -> Any:
    """The outputs of a call with a probe round its layer, in a new model.

    Args:
        recall: the call.
        made: the probes so far, by the layer; one more is added.
        inside: the units inside the layer.
        make: makes the probe of the layer's copy.
    """
    recall()  # builds the copy
    if recall.op not in made:
        made[recall.op] = make(recall.copy(), inside)
    return made[recall.op](*recall.args, **recall.kwargs)


class _Probe(AroundAttention):
    """What is put round an attention layer to watch it, as in inference.

    Args:
        layer: the attention layer, or what is around it.
        inside: the units inside.
    """

    inference = True

    def __init__(
        self, layer: keras.Layer, inside: Inside, **kwargs: Any
    ) -> None:
        super().__init__(dtype=layer.dtype_policy, **kwargs)
        self.layer = layer
        self.inside = inside
        self.count = 1 + max(int(a.units.max()) for a in inside.axes)
        self.supports_masking = True

    @property
    def projections(self) -> Any:
        """The weights of the attention by their names."""
        return self.inside.rule.parts(self.layer)[0]


class InsideNudge(_Probe):
    """An attention layer with `1 + nudge` as a factor of each unit inside.

    The nudges are 0: their gradients are of interest.
    """

    def build(
        self,
        query_shape: Shape,
        value_shape: Shape,
        key_shape: Shape | None = None,
    ) -> None:
        super().build(query_shape, value_shape, key_shape)
        self.nudge = self.add_weight(
            shape=(self.count,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    def other_values(
        self, training: bool | None
    ) -> list[tuple[keras.Variable, Any]]:
        part = self.projections
        found: dict[str, Any] = {}
        for each in self.inside.axes:
            weight = getattr(part, each.weight)
            value = found.get(each.weight, weight)
            shape = [1] * len(weight.shape)
            shape[each.axis] = -1
            factor = ops.reshape(ops.take(1 + self.nudge, each.units), shape)
            found[each.weight] = value * ops.cast(factor, value.dtype)
        return [(getattr(part, name), value) for name, value in found.items()]


class InsideMeter(_Probe):
    """An attention layer, with the mean of a measure of each unit inside.

    Heads and dimensions of values are measured where the kernel of the output
    reads them; dimensions of keys, where the query is projected.

    Args:
        layer: as `_Probe`.
        inside: likewise.
        measure: a function of a tensor, elementwise.
    """

    def __init__(
        self,
        layer: keras.Layer,
        inside: Inside,
        measure: Callable[[Any], Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, inside, **kwargs)
        self.measure = measure
        # (units,): the sums over samples, and of how many means each is.
        self.sums = np.zeros(self.count)
        self.parts = np.zeros(self.count)
        for each in self._axes():
            np.add.at(self.parts, each.units, 1)

    @property
    def means(self) -> NDArray[np.float64]:
        """The sums over samples of each unit, by how often it is there."""
        found: NDArray[np.float64] = self.sums / np.maximum(self.parts, 1)
        return found

    def _axes(self) -> list[ScaledAxis]:
        return [a for a in self.inside.axes if a.weight in _MEASURED]

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """All projections are heard."""
        base = self.inside.rule.base(self.layer)
        with contextlib.ExitStack() as stack:
            for each in self._axes():
                name, outputs = _MEASURED[each.weight]
                dense = private.attention_projection(base, name)
                hear = functools.partial(self._add, each, outputs)
                stack.enter_context(private.overheard(dense, hear))
            yield

    def _add(
        self, each: ScaledAxis, outputs: bool, before: Any, after: Any
    ) -> None:
        """Add a measure of what a projection reads, or puts out."""
        x = after if outputs else before
        # The last axes: heads and their dimensions.
        axis = len(x.shape) - 3 + each.axis + (not outputs)
        rest = [a for a in range(len(x.shape)) if a != axis]
        means = ops.mean(ops.cast(self.measure(x), "float32"), axis=rest)
        values = ops.convert_to_numpy(means).astype("float64") * x.shape[0]
        np.add.at(self.sums, each.units, values)
