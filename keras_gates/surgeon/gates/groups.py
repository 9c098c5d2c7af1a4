"""Coupled channels: what can only stay or go together, gates or not.

A *unit* is a class of tied channels: one of a convolution, with its place in
the normalisation behind it and in all kernels that read it; along a residual
stream, one in each layer that writes to it. A *group* holds the units of one
layer that no group before it has.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates._checks import listed
from keras_gates._checks import suggestion
from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.time_axis import is_fold
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.source import Source
from keras_gates.surgeon.rules.virtual import VirtualGate

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling


@dataclasses.dataclass(frozen=True, eq=False)
class Group(Source):
    """Units with a score each.

    Attributes:
        units: the classes of the units, in the `Groups`' labelling.
        channels: the first channel of the layer that each unit is.
        start: where its units begin among those of all groups.
    """

    units: np.ndarray = None
    channels: np.ndarray = None
    start: int = 0

    @property
    def shape(self) -> tuple[int]:
        return self.units.shape


@dataclasses.dataclass(eq=False)
class Groups:
    """All groups of a graph.

    Attributes:
        labelling: a `Labelling` without selections.
        groups: `{path of the first layer that produces it: Group}`.
        places: `{tensor: axis}` of all that layers read units from.
        kept: `{path: reason}` of layers none of whose channels can go.
    """

    labelling: object
    groups: dict
    places: dict
    kept: dict


def find(graph: Graph, exact: bool = True) -> Groups:
    """The `Groups` of a graph.

    Args:
        graph: the `Graph` of a model.
        exact: whether only exact removals are made.
    """
    labelling = label(graph, selections=False)
    places, free = _places(labelling, exact)
    taken, groups, kept, start = np.zeros(len(free), bool), {}, {}, 0
    for step in labelling.steps:
        ids = step.flow.roles.get("out")
        if ids is None or step.path in groups:
            continue
        own, at = np.unique(labelling.classes[ids], return_index=True)
        if not free[own].any():
            kept[step.path] = _why(labelling, own)
        fresh = free[own] & ~taken[own]
        at = np.sort(at[fresh])
        own = labelling.classes[ids].ravel()[at]
        if own.size:
            taken[own] = True
            groups[step.path] = Group(
                None, "group", None, units=own, channels=at, start=start
            )
            start += own.size
    return Groups(labelling, groups, places, kept)


def _places(
    labelling: Labelling, exact: bool
) -> tuple[dict[Tensor, int], NDArray[np.bool_]]:
    """Where units are read, and which units could go."""
    classes = labelling.classes
    pinned = np.zeros(len(classes), bool)
    pinned[classes[lb.FIXED]] = True
    for ids, *_ in labelling.pinned:
        pinned[classes[ids]] = True
    places, read = {}, np.zeros(len(classes), bool)
    for step in labelling.steps:
        if not step.flow.mixes or not step.inputs:
            continue
        whole = step.rule.reading(step.call) == ALL
        if whole and not exact:
            whole = not step.rule.approximates(step.call)
        for index in sorted({0, *step.flow.reads, *step.flow.states}):
            tensor = _before_folds(step.inputs[index])
            own = classes[labelling.labels[tensor]]
            axis, _ = lb.sole_axis(own)
            if whole or axis is None:
                pinned[own] = True
                continue
            places[tensor] = axis
            read[own] = True
    return places, read & ~pinned


def _before_folds(tensor: Tensor) -> Tensor:
    """The tensor that a model has for one that was folded along time."""
    while tensor.producer is not None and is_fold(tensor.producer.op):
        tensor = tensor.producer.inputs[0]
    return tensor


def _why(labelling: Labelling, own: NDArray[np.int64]) -> str:
    for ids, reason, _ in labelling.pinned:
        if np.isin(own, labelling.classes[ids]).any():
            return reason
    return "what reads its channels reads all of them together"


def insert(
    graph: Graph,
    found: Groups,
    scores: dict[str, NDArray[np.float64]] | None = None,
) -> None:
    """Put a virtual gate where units are read; changes the graph.

    Args:
        graph: the `Graph`, freshly read.
        found: its `Groups`.
        scores: `{name: array}`: the groups to take, and their scores; all,
            without any, by default.

    Raises:
        TypeError, ValueError: the scores are none of these groups.
    """
    if scores is not None:
        found = _scored(found, scores)
    classes = found.labelling.classes
    place = np.full(len(classes), -1)
    for group in found.groups.values():
        place[group.units] = group.start + np.arange(group.units.size)
    behind = {}
    for tensor, axis in found.places.items():
        _, own = lb.sole_axis(classes[found.labelling.labels[tensor]])
        units = place[own]
        if (units >= 0).any():
            call = _gate(graph, tensor, axis, units)
            behind.setdefault(id(tensor.producer), []).append(call)
    _add_calls(graph, behind)
    graph.groups = found.groups
    graph.loops = _loops(found.labelling, place)


def without(found: Groups, names: set[str]) -> Groups:
    """`Groups` without those of some names; the others stay where they are."""
    left = {n: group for n, group in found.groups.items() if n not in names}
    return dataclasses.replace(found, groups=left)


def insert_gates(graph: Graph, gates: Any) -> None:
    """Put virtual gates behind tensors, for a trial; changes the graph.

    Args:
        graph: the `Graph`, freshly read.
        gates: `{name: [(tensor, axis), ...]}`: where the channels of each
            gate are, in the same order at each place.
    """
    found, behind, start = {}, {}, 0
    for name, places_of_one in gates.items():
        for tensor, axis in places_of_one:
            size = tensor.shape[axis]
            call = _gate(graph, tensor, axis, start + np.arange(size))
            behind.setdefault(id(tensor.producer), []).append(call)
        units = np.arange(size)
        scores = np.ones(size)
        found[name] = Group(
            None,
            "group",
            None,
            scores=scores,
            units=units,
            channels=units,
            start=start,
        )
        start += size
    _add_calls(graph, behind)
    graph.groups = found


def _add_calls(graph: Graph, behind: dict[int, list[Call]]) -> None:
    """Add calls to a graph, each after the one whose id it stands under."""
    graph.calls = [
        each
        for call in graph.calls
        for each in [call, *behind.get(id(call), ())]
    ]


def _loops(
    labelling: Labelling, place: NDArray[np.int64]
) -> IdentityDict[keras.Operation, NDArray[np.int64]]:
    """The units of the layers that read their own outputs.

    What is closed behind such a layer would still be there inside: each unit
    that a score closes is zero for its layer, too.
    """
    found = IdentityDict()
    for step in labelling.steps:
        nothing = [np.zeros(x.shape, bool) for x in step.flow.labels]
        if step.rule.recalls(step.call, step.flow, nothing) is not None:
            units = labelling.classes[step.flow.roles["out"]]
            found[step.call.op] = place[units]
    return found


def _scored(found: Groups, scores: dict[str, NDArray[np.float64]]) -> Groups:
    """The groups that have scores, with them."""
    groups = {}
    known = found.groups.keys() | found.kept.keys()
    strange = "" if known & scores.keys() else " None of its keys is known: "
    strange += "they look like the scores of another model." * bool(strange)
    for name, values in scores.items():
        group, values = found.groups.get(name), np.asarray(values, "float64")
        if group is None:
            why = found.kept.get(name, "it heads no group of coupled channels")
            raise ValueError(
                f"`scores` has the key {name!r}, whose channels can't be "
                f"removed: {why}.{suggestion(name, found.groups)}{strange} "
                f"Groups of this model: {listed(found.groups)}."
            )
        groups[name] = scored(name, group, values)
    return dataclasses.replace(found, groups=groups)


def scored(name: str, source: Group, values: NDArray[np.float64]) -> Group:
    """A `Source` with scores.

    Raises:
        ValueError: they are not one finite number for each factor.
    """
    values = np.asarray(values, "float64")
    if values.shape != source.shape or not np.isfinite(values).all():
        raise ValueError(
            f"The scores of {name!r} must be finite numbers in an array of "
            f"the shape {source.shape}. Received: an array of shape "
            f"{values.shape}. Scores are for the model that they were taken "
            "of, at the widths that it had."
        )
    return dataclasses.replace(source, scores=values)


def _gate(
    graph: Graph, tensor: Tensor, axis: int, units: NDArray[np.int64]
) -> Call:
    """A gate behind what produces a tensor, for all that read it."""
    maker = tensor.producer
    number = maker.outputs.index(tensor)
    site = maker.site.behind.get(number)
    if site is None:
        op = VirtualGate(
            f"{maker.op.name}_scored",
            axis,
            units,
            getattr(maker.op, "dtype_policy", None),
        )
        site = gr.Site(op, maker.site.node, op.name)
        maker.site.behind[number] = site
    gated = dataclasses.replace(tensor, consumers=tensor.consumers)
    path = f"{maker.path}_scored"
    call = gr.Call(site, (tensor,), {}, [tensor], [gated], path, maker.scopes)
    gated.producer = call
    site.calls.append(call)
    gr.replace(graph, tensor, gated)
    tensor.consumers = [call]
    return call


def places(
    graph: Graph,
    op: keras.Layer,
    classes: NDArray[np.int64],
    closed: dict[str, NDArray[np.bool_]],
) -> list[Any]:
    """What a virtual gate closes: `(group, scores, classes, places)`."""
    if not isinstance(op, VirtualGate):
        return []
    found = []
    for name, group in graph.groups.items():
        at, own = inside(group, op.units)
        if own.any() and name in closed:
            scores = np.abs(group.scores)
            found.append((name, scores, classes[own], at[own]))
    return found


def inside(
    group: Group, units: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`(places in the group, which of them are)` of a virtual gate's units."""
    at = units - group.start
    return at, (units >= 0) & (at >= 0) & (at < group.units.size)


def size(graph: Graph) -> int:
    """How many units all groups have, with those that have no scores."""
    ends = [g.start + g.units.size for g in graph.groups.values()]
    return max(ends, default=0)


def masks(
    graph: Graph, closed: dict[str, NDArray[np.bool_]]
) -> IdentityDict[keras.Operation, NDArray[np.bool_]]:
    """What groups close, from `{name of a group: mask}`.

    Returns:
        The masks of the virtual gates, and of the layers whose units are
        zero for themselves.
    """
    if not graph.groups:
        return IdentityDict()
    flat = np.zeros(size(graph), bool)
    for name, group in graph.groups.items():
        if name in closed:
            flat[group.start : group.start + group.units.size] = closed[name]
    ops = [c.op for c in graph.calls if isinstance(c.op, VirtualGate)]
    found = IdentityDict((op, op.mask(flat)) for op in ops)
    for op, at in graph.loops.items():
        found[op] = (at >= 0) & flat[at]
    return found
