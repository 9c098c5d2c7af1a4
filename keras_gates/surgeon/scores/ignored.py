"""Which groups or gates stay out of the scores: `ignore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import patterns
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.inner_units import all_of

if TYPE_CHECKING:
    from keras_gates.graphs.patterns import Patterns
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.label import Labelling


def group_names(ignore: Patterns, every: Groups) -> set[str]:
    """The names of the groups whose channels come out of ignored layers.

    Args:
        ignore: as in `score`.
        every: the `Groups`.
    """
    ids = _classes(ignore, every.labelling)
    return {n for n, g in every.groups.items() if np.isin(g.units, ids).any()}


def gate_paths(ignore: Patterns, labelling: Labelling) -> set[str]:
    """The paths of the gates that are ignored, or whose channels are."""
    ids, paths = _classes(ignore, labelling), set()
    for step in labelling.steps:
        own = step.flow.roles.get("channel")
        hit = own is not None and np.isin(labelling.classes[own], ids).any()
        if step.is_gate and (hit or patterns.matches(ignore, [step.call])):
            paths.add(step.path)
    return paths


def _classes(ignore: Patterns, labelling: Labelling) -> NDArray[np.intp]:
    """The classes of all that comes out of ignored layers."""
    classes = labelling.classes
    found = [np.zeros(0, np.intp)]
    for step in labelling.steps:
        if patterns.matches(ignore, [step.call]):
            found += [classes[labels].ravel() for labels in step.flow.labels]
            made = step.flow.roles.get("out")
            found += [] if made is None else [classes[made].ravel()]
            inner = step.rule.inner_units(step.call)
            found.append(classes[all_of(inner, step.flow.roles)])
    ids = np.unique(np.concatenate(found))
    found_ids: NDArray[np.intp] = ids[ids != classes[lb.FIXED]]
    return found_ids
