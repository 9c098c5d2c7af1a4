"""Coupled channels, which can only stay or go together.

A *unit* is a class of tied channels: one of a convolution, with its place in
the normalization after it and in all kernels that read it; along a residual
stream, one in each layer that writes to it. Units inside a layer, such as the
heads of attention, are a group of their own. A *group* holds the units of one
layer that no group before it has. It has the name of the layer; where that is
the name of a gate, since the layer has factors itself, the name is that of
what comes out of it: `attention/channels`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple
from typing import TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates._checks import listed
from keras_gates._checks import suggestion
from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.time_axis import is_fold
from keras_gates.layers import recurrence
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules.inner_units import all_of
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.source import Source
from keras_gates.surgeon.rules.virtual import VirtualGate

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.inner_units import InnerUnits

SomeSource = TypeVar("SomeSource", bound=Source)
# After the name of a layer with factors of its own: what comes out of it.
_CHANNELS = "/channels"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Group(Source):
    """Units with a score each.

    Attributes:
        units: the classes of the units in the `Groups`' labelling; int,
            `(units,)`.
        channels: the first channel of the layer that each unit is; int,
            `(units,)`.
        start: where its units begin among those of all groups.
        main: whether `score` offers it unasked.
    """

    units: NDArray[np.intp]
    channels: NDArray[np.intp]
    start: int
    main: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.units.shape

    @property
    def stop(self) -> int:
        """Where its units end among those of all groups."""
        return self.start + self.units.size


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a graph.

    Attributes:
        labelling: a `Labelling` without selections.
        groups: `{name: Group}`; the name is `channels_of` the first layer
            that produces it, or that of units inside a layer.
        places: `{tensor: axis}` of all that layers read units from.
        kept: `{name: reason}` of layers none of whose channels can go.
    """

    labelling: Labelling
    groups: dict[str, Group]
    places: dict[Tensor, int]
    kept: dict[str, str]


class ClosedGroup(NamedTuple):
    """A group that a virtual gate closes some channels of.

    Attributes:
        name: that of the group.
        scores: those of all its units, absolute; float, `(units,)`.
        classes: the classes of the channels at the gate; int, `(channels,)`.
        places: for each of these, its place among the units of the group;
            int, `(channels,)`.
    """

    name: str
    scores: NDArray[np.float64]
    classes: NDArray[np.intp]
    places: NDArray[np.intp]


def find(graph: Graph, exact: bool = True) -> Groups:
    """The `Groups` of a graph.

    Args:
        graph: the `Graph` of a model.
        exact: whether to make only exact removals.
    """
    labelling = label(graph, selections=False)
    places, free = _places(labelling, exact)
    gates = _gate_paths(labelling)
    taken, start = np.zeros(len(free), bool), 0
    groups: dict[str, Group] = {}
    kept: dict[str, str] = {}
    for step in labelling.steps:
        for made in _made(step, gates):
            if made.name in groups:
                continue
            classes = labelling.classes[made.ids].ravel()
            # Each class once, and the first channel that it is.
            own, first = np.unique(classes, return_index=True)
            if not free[own].any():
                kept[made.name] = _why(labelling, own)
            channels = np.sort(first[free[own] & ~taken[own]])
            units = classes[channels]
            if units.size:
                taken[units] = True
                group = _group(units, channels, start)
                groups[made.name] = dataclasses.replace(
                    group, kind=made.kind, main=made.main
                )
                start += units.size
    return Groups(labelling, groups, places, kept)


class _Made(NamedTuple):
    """Units that a step produces, or that are inside its layer.

    Attributes:
        name: that of their group.
        ids: the units.
        kind: the kind that thresholds speak of.
        main: as in `Group`.
    """

    name: str
    ids: NDArray[np.intp]
    kind: str = "group"
    main: bool = True


def _gate_paths(labelling: Labelling) -> set[str]:
    """The names of gates in thresholds."""
    return {
        step.path
        for step in labelling.steps
        if step.rule.source(step.call) is not None
    }


def _made(step: Step, gates: set[str]) -> Iterator[_Made]:
    """The units of a step: its channels, and inner units.

    Args:
        step: a step.
        gates: the names that gates have.
    """
    roles = step.flow.roles
    if roles.get("out") is not None:
        name = f"{step.path}{_CHANNELS}" if step.path in gates else step.path
        yield _Made(name, roles["out"])
    for each in _inside(step):
        name = f"{step.path}/{each.name}"
        yield _Made(name, roles[each.role], each.kind, each.main)


def channels_of(path: str, names: Container[str]) -> str:
    """The name of the group of a layer's output channels.

    Args:
        path: that of the layer.
        names: those of the groups there are.
    """
    name = f"{path}{_CHANNELS}"
    return name if name in names else path


def _inside(step: Step) -> list[InnerUnits]:
    """The units inside a step that do not come out of it."""
    if step.is_selection:
        return []
    return [each for each in step.rule.inner_units(step.call) if each.name]


def _group(
    units: NDArray[np.intp],
    channels: NDArray[np.intp],
    start: int,
    scores: NDArray[np.float64] | None = None,
) -> Group:
    return Group(
        layer=None,
        kind="group",
        variable=None,
        scores=scores,
        units=units,
        channels=channels,
        start=start,
    )


def _places(
    labelling: Labelling, exact: bool
) -> tuple[dict[Tensor, int], NDArray[np.bool_]]:
    """Where units are read, and which can be removed."""
    classes = labelling.classes
    pinned = np.zeros(len(classes), bool)
    pinned[classes[lb.FIXED]] = True
    for ids, *_ in labelling.pinned:
        pinned[classes[ids]] = True
    places: dict[Tensor, int] = {}
    read = np.zeros(len(classes), bool)
    for step in labelling.steps:
        for each in _inside(step):
            read[classes[step.flow.roles[each.role]]] = True
        if not step.flow.mixes or not step.inputs:
            continue
        whole = step.rule.reading(step.call) == ALL
        if whole and not exact:
            whole = not step.rule.approximates(step.call)
        for index in _read_inputs(step):
            tensor = _before_folds(step.inputs[index])
            own = classes[labelling.labels[tensor]]
            axis, _ = lb.sole_axis(own)
            if whole or axis is None:
                pinned[own] = True
                continue
            places[tensor] = axis
            read[own] = True
    return places, read & ~pinned


def _read_inputs(step: Step) -> list[int]:
    """The numbers of the inputs that a step reads units of."""
    flow = step.flow
    first = flow.multiplied or (0,)
    return sorted({*first, *flow.reads, *flow.states})


def _before_folds(tensor: Tensor) -> Tensor:
    """The tensor that a model has for one that was folded along time."""
    while tensor.producer is not None and is_fold(tensor.producer.op):
        tensor = tensor.producer.inputs[0]
    return tensor


def _why(labelling: Labelling, own: NDArray[np.intp]) -> str:
    """Why none of some classes can go."""
    for ids, reason, _ in labelling.pinned:
        if np.isin(own, labelling.classes[ids]).any():
            return reason
    return "everything that reads its channels reads all of them together"


def insert(
    graph: Graph,
    found: Groups,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
) -> None:
    """Insert virtual gates where units are read; changes the graph.

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
    labels, classes = found.labelling.labels, found.labelling.classes
    # (classes,): the place of each among the units of all groups, or -1.
    place = np.full(len(classes), -1)
    for group in found.groups.values():
        place[group.units] = np.arange(group.start, group.stop)
    after: dict[Call | None, list[Call]] = {}
    for tensor, axis in found.places.items():
        _, own = lb.sole_axis(classes[labels[tensor]])
        units = place[own]
        if (units >= 0).any():
            call = _gate(graph, tensor, axis, units)
            after.setdefault(tensor.producer, []).append(call)
    _add_calls(graph, after)
    graph.groups, graph.never = found.groups, frozenset(found.kept)
    graph.loops = _loops(found.labelling, place)


def without(found: Groups, names: Iterable[str]) -> Groups:
    """`Groups` without some names; the others keep their places."""
    gone = set(names)
    left = {n: group for n, group in found.groups.items() if n not in gone}
    return dataclasses.replace(found, groups=left)


def insert_gates(
    graph: Graph,
    gates: Mapping[str, Iterable[tuple[Tensor, int]]],
    looped: Mapping[str, keras.Operation] | None = None,
) -> None:
    """Insert virtual gates on tensors, for a trial; changes the graph.

    Args:
        graph: the `Graph`, freshly read.
        gates: `{name: [(tensor, axis), ...]}`: where the channels of each
            gate are, in the same order at each place.
        looped: `{name: layer}` of those that close the units of a recurrent
            layer inside its loop.
    """
    looped = looped or {}
    found: dict[str, Group] = {}
    after: dict[Call | None, list[Call]] = {}
    start = 0
    for name, places_of_one in gates.items():
        size = 0
        for tensor, axis in places_of_one:
            count = size = tensor.shape[axis] or 0
            if name in looped:
                size = recurrence.units(looped[name])
            units = np.resize(np.arange(start, start + size), count)
            call = _gate(graph, tensor, axis, units)
            after.setdefault(tensor.producer, []).append(call)
        channels = np.arange(size)
        found[name] = _group(channels, channels, start, np.ones(size))
        if name in looped:
            graph.loops[looped[name]] = start + channels
        start += size
    _add_calls(graph, after)
    graph.groups = found


def _add_calls(graph: Graph, after: dict[Call | None, list[Call]]) -> None:
    """Add calls to a graph, each after the one that it stands under."""
    graph.calls = [
        each for call in graph.calls for each in [call, *after.get(call, ())]
    ]


def _loops(
    labelling: Labelling, place: NDArray[np.intp]
) -> IdentityDict[keras.Operation, NDArray[np.intp]]:
    """The units inside layers, one role after the other.

    What is closed after a recurrent layer would still be there inside: each
    unit that a score closes is zero for its layer, too. Heads of attention are
    nowhere else.
    """
    found: IdentityDict[keras.Operation, NDArray[np.intp]] = IdentityDict()
    for step in labelling.steps:
        inner = step.rule.inner_units(step.call)
        if inner and not step.is_selection:
            units = all_of(inner, step.flow.roles)
            found[step.call.op] = place[labelling.classes[units]]
    return found


def inner_places(
    graph: Graph, step: Step, classes: NDArray[np.intp], names: Sequence[str]
) -> list[tuple[str, NDArray[np.intp], NDArray[np.intp]]]:
    """Where groups have units inside a layer that do not come out of it.

    Args:
        graph: the `Graph`.
        step: a step of it.
        classes: those of the labelling that the step is of.
        names: the groups in question.

    Returns:
        `(name, places among the units of the group, their classes)`.
    """
    places = graph.loops.get(step.call.op)
    inner = step.rule.inner_units(step.call)
    if places is None or step.is_selection or not all(e.name for e in inner):
        return []
    units = classes[all_of(inner, step.flow.roles)]
    found = []
    for name in names:
        at, own = members(graph.groups[name], places)
        if own.any():
            found.append((name, at[own], units[own]))
    return found


def _scored(found: Groups, scores: Mapping[str, NDArray[np.float64]]) -> Groups:
    """The groups that have scores, with them."""
    groups = {}
    known = found.groups.keys() | found.kept.keys()
    strange = "" if known & scores.keys() else " None of its keys is known: "
    strange += "they look like the scores of another model." * bool(strange)
    for name, values in scores.items():
        group, values = found.groups.get(name), np.asarray(values, "float64")
        if group is None:
            why = found.kept.get(
                name, "it is not the first layer of a group of coupled channels"
            )
            near = suggestion(name, list(found.groups))
            raise ValueError(
                f"`scores` has the key {name!r}, whose channels can't be "
                f"removed: {why}.{near}{strange} "
                f"Groups of this model: {listed(list(found.groups))}."
            )
        groups[name] = scored(name, group, values)
    return dataclasses.replace(found, groups=groups)


def scored(
    name: str, source: SomeSource, values: NDArray[np.float64]
) -> SomeSource:
    """A `Source` with scores; of a `Group`, a `Group`.

    Raises:
        ValueError: they are not one finite number for each factor.
    """
    values = np.asarray(values, "float64")
    if values.shape != source.shape:
        raise ValueError(
            f"The scores of {name!r} must be in an array of the shape "
            f"{source.shape}. Received: an array of shape {values.shape}. "
            "Scores are valid only for the model that was scored, at its "
            "widths."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"The scores of {name!r} must be finite numbers. Received: "
            f"{np.count_nonzero(~np.isfinite(values))} of {values.size} that "
            "are NaN or infinite."
        )
    return dataclasses.replace(source, scores=values)


def _gate(
    graph: Graph, tensor: Tensor, axis: int, units: NDArray[np.intp]
) -> Call:
    """A gate on a tensor that is no input, for all that read it."""
    maker = tensor.producer
    if maker is None:
        raise ValueError("A virtual gate was asked for on an input.")
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
    op: keras.Operation,
    classes: NDArray[np.intp],
    closed: Mapping[str, NDArray[np.bool_]],
) -> list[ClosedGroup]:
    """What a virtual gate closes; nothing where `op` is none.

    Args:
        graph: the `Graph`.
        op: an operation of it.
        classes: the classes of its channels; int, `(channels,)`.
        closed: `{name of a group: mask}`.
    """
    if not isinstance(op, VirtualGate):
        return []
    found = []
    for name, group in graph.groups.items():
        at, own = members(group, op.units)
        if own.any() and name in closed:
            scores = np.abs(group.scores)
            found.append(ClosedGroup(name, scores, classes[own], at[own]))
    return found


class Members(NamedTuple):
    """Which of a virtual gate's channels are in a group.

    Attributes:
        places: for each channel its place in the group, if it is in it; int,
            `(channels,)`.
        mask: whether it is; bool, `(channels,)`.
    """

    places: NDArray[np.intp]
    mask: NDArray[np.bool_]


def members(group: Group, units: NDArray[np.intp]) -> Members:
    """Where a virtual gate's units are in a group."""
    at = units - group.start
    return Members(at, (units >= 0) & (at >= 0) & (at < group.units.size))


def size(graph: Graph) -> int:
    """How many units all groups have, with those that have no scores."""
    return max((group.stop for group in graph.groups.values()), default=0)


def masks(
    graph: Graph, closed: Mapping[str, NDArray[np.bool_]]
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
            flat[group.start : group.stop] = closed[name]
    ops = [c.op for c in graph.calls if isinstance(c.op, VirtualGate)]
    found = IdentityDict((op, op.mask(flat)) for op in ops)
    for op, at in graph.loops.items():
        found[op] = (at >= 0) & flat[at]
    return found
