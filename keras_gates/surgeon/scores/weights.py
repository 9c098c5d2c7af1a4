"""Criteria that look at weights alone.

Each returns a score for each class of a labelling: the mean over all members
of a group, as DepGraph takes it, so that wide groups are no better than
narrow ones.
"""

import numpy as np

from keras_gates.surgeon import create
from keras_gates.surgeon.rules.rule import named_weights


def l1(found):
    """The mean of `sum |w|` over the kernel slices of each unit."""
    return _of_kernels(found, lambda rows: np.abs(rows).sum(axis=1))


def l2(found):
    """The mean of `sqrt(sum w^2)` over the kernel slices of each unit."""
    return _of_kernels(found, lambda rows: np.sqrt((rows**2).sum(axis=1)))


def geometric_median(found):
    """The sum of distances to the other filters of a layer (FPGM)."""
    return _of_kernels(found, _distances, roles=("out",))


def batch_norm(found):
    """The mean of `|gamma|` (Network Slimming's score)."""
    total = _Mean(found.labelling)
    for step in _once(found.labelling):
        source = step.rule.source(step.call)
        ids = step.flow.roles.get("channel")
        if source is None or source.kind != "batch_norm" or ids is None:
            continue
        total.add(ids, np.abs(source.values().astype("float64")))
    return total.mean()


def _of_kernels(found, size, roles=("out", "in")):
    """The mean over kernels of `size`, of an array with a row a channel."""
    total = _Mean(found.labelling)
    for step in _once(found.labelling):
        axes = step.rule.axes_of(step.call)
        for part in step.rule.parts(step.call.op):
            for name, weight in named_weights(part, axes):
                own = axes.get(name, ())
                if len(weight.shape) < 2:
                    continue
                array = create.array_of(weight)
                for role in set(own) & set(roles) & set(step.flow.roles):
                    axis = array.ndim - len(own) + own.index(role)
                    rows = np.moveaxis(array, axis, 0).astype("float64")
                    ids = step.flow.roles[role]
                    if len(ids) == len(rows):
                        total.add(ids, size(rows.reshape(len(rows), -1)))
    return total.mean()


def _distances(rows):
    squares = (rows**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * rows @ rows.T
    return np.sqrt(np.maximum(apart, 0.0)).sum(axis=1)


def _once(labelling):
    """The steps of each operation's first call."""
    seen = set()
    for step in labelling.steps:
        if step.position is None and id(step.call.op) not in seen:
            seen.add(id(step.call.op))
            yield step


class _Mean:
    """The mean of what is added for each class."""

    def __init__(self, labelling):
        self.classes = labelling.classes
        self.sums = np.zeros(len(self.classes))
        self.counts = np.zeros(len(self.classes))

    def add(self, ids, values):
        np.add.at(self.sums, self.classes[ids], values)
        np.add.at(self.counts, self.classes[ids], 1)

    def mean(self):
        """The means; NaN for a class that nothing was added for."""
        with np.errstate(invalid="ignore"):
            return self.sums / np.where(self.counts, self.counts, np.nan)
