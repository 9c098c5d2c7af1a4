"""Which groups or gates stay out of the scores: `ignore`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import patterns
from keras_gates.surgeon import labels as lb

if TYPE_CHECKING:
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.label import Labelling


def groups_of(ignore: tuple[Any, ...], every: Groups) -> set[Any]:
    """The names of the groups whose channels come out of ignored layers.

    Args:
        ignore: patterns; see `surgeon.patterns`.
        every: the `Groups`.
    """
    ids = _classes(ignore, every.labelling)
    return {n for n, g in every.groups.items() if np.isin(g.units, ids).any()}


def gates_of(ignore: Any, labelling: Any) -> Any:
    """The paths of the gates that are ignored, or whose channels are."""
    ids, found = _classes(ignore, labelling), set()
    for step in labelling.steps:
        own = step.flow.roles.get("channel")
        hit = own is not None and np.isin(labelling.classes[own], ids).any()
        if step.is_gate and (hit or patterns.matches(ignore, [step.call])):
            found.add(step.path)
    return found


def _classes(
    ignore: tuple[Any, ...], labelling: Labelling
) -> NDArray[np.int64]:
    """The classes of all that comes out of ignored layers."""
    classes = labelling.classes
    found = [np.zeros(0, int)]
    for step in labelling.steps:
        if patterns.matches(ignore, [step.call]):
            found += [classes[labels].ravel() for labels in step.flow.labels]
            made = step.flow.roles.get("out")
            found += [] if made is None else [classes[made].ravel()]
    ids = np.unique(np.concatenate(found))
    return ids[ids != classes[lb.FIXED]]
