"""Criteria based on weights.

Each returns a score for each class of a labelling: the mean over all members
of a group, as DepGraph takes it, so that wide groups are no better than
narrow ones.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

# From the `Groups` of a graph to a score for each class of their labelling;
# NaN for one that nothing of is looked at.
Criterion: TypeAlias = "Callable[[Groups], NDArray[np.float64]]"


class Kernel(NamedTuple):
    """A kernel, along one of the axes that channels are on.

    `made` says whether it makes what is along the axis, and does not read it;
    `units` are those along that axis.
    """

    array: NDArray[Any]
    axis: int
    made: bool
    units: NDArray[np.integer[Any]]


def l1(found: Groups) -> NDArray[np.float64]:
    """The mean of `sum |w|` over the kernel slices of each unit."""
    return _of_kernels(found, np.abs)


def l2(found: Groups) -> NDArray[np.float64]:
    """The mean of `sqrt(sum w^2)` over the kernel slices of each unit."""
    return _of_kernels(found, np.square, np.sqrt)


def geometric_median(found: Groups) -> NDArray[np.float64]:
    """The sum of distances to the other filters of a layer (FPGM)."""
    total = Mean(found.labelling)
    for kernel in kernels(found.labelling):
        if kernel.made:
            rows = np.moveaxis(kernel.array, kernel.axis, 0).astype("float64")
            distances = _distances(rows.reshape(len(rows), -1))
            total.add(kernel.units, distances)
    return total.mean()


def batch_norm(found: Groups) -> NDArray[np.float64]:
    """The mean of `|gamma|` (Network Slimming's score)."""
    total = Mean(found.labelling)
    for step in _first_calls(found.labelling):
        source = step.rule.source(step.call)
        ids = step.flow.roles.get("channel")
        if source is None or source.kind != "batch_norm" or ids is None:
            continue
        total.add(ids, np.abs(source.values().astype("float64")))
    return total.mean()


def _of_kernels(
    found: Groups,
    size: Callable[[NDArray[Any]], NDArray[Any]],
    root: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray,
) -> NDArray[np.float64]:
    """The mean over kernels of `root` of the sums of `size` of each slice."""
    total = Mean(found.labelling)
    last, sizes = None, np.zeros(0)
    for array, axis, _, units in kernels(found.labelling):
        if array is not last:
            single = np.promote_types(array.dtype, np.float32)
            last, sizes = array, size(array.astype(single, copy=False))
        rest = tuple(a for a in range(array.ndim) if a != axis)
        total.add(units, root(sizes.sum(axis=rest, dtype=np.float64)))
    return total.mean()


def kernels(labelling: Labelling) -> Iterator[Kernel]:
    """All kernels, along each axis of channels."""
    for step in _first_calls(labelling):
        axes = step.rule.axes_of(step.call)
        for part in step.rule.parts(step.call.op):
            for name, weight in named_weights(part, axes):
                own = axes.get(name, ())
                if len(weight.shape) < 2:
                    continue
                array = create.array_of(weight)
                for role, made in _roles(step, own):
                    axis = array.ndim - len(own) + own.index(role)
                    ids = step.flow.roles[role]
                    if len(ids) == array.shape[axis]:
                        yield Kernel(array, axis, made, ids)
                if "gates" in own and "gates" in step.flow.roles:
                    # A recurrent unit has a column in each gate's part.
                    ids = step.flow.roles["out"]
                    columns = array.reshape(*array.shape[:-1], -1, len(ids))
                    yield Kernel(columns, columns.ndim - 1, True, ids)


def _roles(
    step: Step, own: tuple[str | None, ...]
) -> Iterator[tuple[str, bool]]:
    """The roles of a kernel's axes that hold units, and whether it makes them.

    What a kernel that reads tensors has along its other axes, it makes; so
    with the heads of attention. A bias that has these axes is no kernel.
    """
    reads = set(step.flow.reads.values())
    inner = [e for e in step.rule.inner_units(step.call) if e.name]
    inside = {r for e in inner for r in (e.role, *(r for _, r in e.zeroed))}
    if len(own) < 3 and inside.issuperset(set(own) - {None}):
        return
    for role in sorted(({"out"} | reads | inside) & set(step.flow.roles)):
        if role in own:
            made = role not in reads and not reads.isdisjoint(own)
            yield role, made or role == "out"


def _distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row, the sum of its distances to the others."""
    squares = (rows**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * rows @ rows.T
    distances: NDArray[np.float64] = np.sqrt(np.maximum(apart, 0.0)).sum(axis=1)
    return distances


def _first_calls(labelling: Labelling) -> Iterator[Step]:
    """The steps of each layer's first call."""
    seen: set[int] = set()
    for step in labelling.steps:
        op = step.call.op
        layer = step.position is None and isinstance(op, keras.Layer)
        if layer and id(op) not in seen:
            seen.add(id(op))
            yield step


class Mean:
    """The mean of what is added for each class."""

    def __init__(self, labelling: Labelling) -> None:
        self.classes = labelling.classes
        self.sums = np.zeros(len(self.classes))
        self.counts = np.zeros(len(self.classes))

    def add(
        self, ids: NDArray[np.integer[Any]], values: NDArray[np.floating[Any]]
    ) -> None:
        np.add.at(self.sums, self.classes[ids], values)
        np.add.at(self.counts, self.classes[ids], 1)

    def mean(self) -> NDArray[np.float64]:
        """The means; NaN for a class that nothing was added for."""
        with np.errstate(invalid="ignore"):
            counts = np.where(self.counts > 0, self.counts, np.nan)
            means: NDArray[np.float64] = self.sums / counts
        return means
