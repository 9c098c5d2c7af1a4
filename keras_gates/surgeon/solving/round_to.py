"""Opens closed gates again until the widths of cut layers are multiples."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.passes.label import picks

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Labelling

# What a closed factor counts for beside its size: above 0, although it may
# be 0 itself.
_LEAST = 1e-9


class Vector(NamedTuple):
    """A place at which a gate, or a group with scores, closes channels.

    Attributes:
        name: that of the gate or group.
        factors: what it is ranked by, absolute; all of its factors.
        classes: the classes of the channels at this place.
        places: for each of these, its place among the factors.
    """

    name: str
    factors: NDArray[np.float64]
    classes: NDArray[np.intp]
    places: NDArray[np.intp]


class Link(NamedTuple):
    """A gather: the classes that it picks from, and those that it makes.

    Attributes:
        above: classes before the gather, one for each channel after it.
        below: the class of each channel after it.
    """

    above: NDArray[np.intp]
    below: NDArray[np.intp]


def reopened(
    decision: Decision, closed: dict[str, NDArray[np.bool_]], multiple: int
) -> dict[str, NDArray[np.bool_]] | None:
    """What is closed once the largest closed factors are open again.

    As many are opened as bring each cut layer to a multiple of channels; what
    is tied to them opens with them.

    Args:
        decision: what goes when all of `closed` is zero.
        closed: `{name of a gate or group: mask}`.
        multiple: what the widths of cut layers should be multiples of.

    Returns:
        New masks by the same names, or None where the widths are multiples.
    """
    labelling = decision.labelling
    gates, links = vectors(labelling, closed), selections(labelling)
    size = closed_sizes(len(labelling.classes), gates, links, closed)
    chosen = np.zeros(len(size), bool)
    for step in labelling.steps:
        units = step.flow.roles.get("out")
        if units is None or step not in decision.present:
            continue
        classes = labelling.classes[units]
        chosen[_lacking(classes, decision.kept[classes], size, multiple)] = True
    if not chosen.any():
        return None
    for above, below in links:
        largest = size[below] >= size[above]
        np.logical_or.at(chosen, below, chosen[above] & largest)
    opened = {name: mask.copy() for name, mask in closed.items()}
    for gate in gates:
        opened[gate.name][gate.places[chosen[gate.classes]]] = False
    return opened


def _lacking(
    classes: NDArray[np.intp],
    kept: NDArray[np.bool_],
    size: NDArray[np.float64],
    multiple: int,
) -> NDArray[np.intp]:
    """The classes that bring one layer's width to a multiple.

    Those of the largest closed factors come first. A layer that is whole, or
    gone, lacks none.
    """
    if kept.all() or not kept.any():
        return classes[:0]
    gone = np.unique(classes[~kept])
    gone = gone[size[gone] > 0]
    largest = np.argsort(-size[gone], kind="stable")
    return gone[largest[: -int(kept.sum()) % multiple]]


def vectors(
    labelling: Labelling, closed: dict[str, NDArray[np.bool_]]
) -> list[Vector]:
    """Where the gates and groups that `closed` names close channels.

    A gate of one factor has no channels, and is none of them.
    """
    graph = labelling.graph
    sources = gates_of(graph)
    names: IdentityDict[keras.Operation, str] = IdentityDict(
        (sources[n].layer, n) for n in closed if n not in graph.groups
    )
    found = []
    for step in labelling.steps:
        units = step.flow.roles.get("channel")
        if units is None or step.position is not None:
            continue
        classes = labelling.classes[units]
        name = names.get(step.call.op)
        if name is not None:
            factors = np.abs(sources[name].values())
            places = np.arange(classes.size)
            found.append(Vector(name, factors, classes, places))
        scored = groups.places(graph, step.call.op, classes, closed)
        found += [Vector(*one) for one in scored]
    return found


def selections(labelling: Labelling) -> list[Link]:
    """The gathers of a labelling, from the inputs to the outputs."""
    found = []
    for step in labelling.steps:
        if step.position is not None:
            source = labelling.labels[step.inputs[0]].ravel()
            source = source[picks(step.flow)].ravel()
            own = step.flow.labels[0].ravel()
            classes = labelling.classes
            found.append(Link(classes[source], classes[own]))
    return found


def closed_sizes(
    count: int,
    gates: list[Vector],
    links: list[Link],
    closed: dict[str, NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """For each of `count` classes, its largest closed factor.

    It is 0 where none closes the class. What comes after a gather has classes
    of its own; they count for those that they are picked from.
    """
    size = np.zeros(count)
    for name, factors, classes, places in gates:
        shut = np.where(closed[name], factors + _LEAST, 0.0)
        np.maximum.at(size, classes, shut[places])
    for above, below in reversed(links):
        np.maximum.at(size, above, size[below])
    return size
