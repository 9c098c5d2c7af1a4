"""The structural OBS criterion: the error that a repair can't remove.

What a linear reader loses without some inputs, if its kernel is fitted again to
those that are left, as a repair does: see `removal.py`. Two channels of which
each could stand for the other are cheap one by one, and not both: they are
removed in turn, the cheapest first (Hassibi and Stork 1992; Frantar and
Alistarh 2022, https://arxiv.org/abs/2208.11580).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.surgeon.repair.moments import Moments
from keras_gates.surgeon.repair.readers import readers_of
from keras_gates.surgeon.repair.walk import Walk
from keras_gates.surgeon.repair.walk import run
from keras_gates.surgeon.repair.windows import Places
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.scores import inside
from keras_gates.surgeon.scores.removal import Reading
from keras_gates.surgeon.scores.removal import Removal

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.gates.groups import Group
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.repair.forms import Array
    from keras_gates.surgeon.repair.readers import Reader
    from keras_gates.surgeon.scores.batches import Batch

# Of each batch and reader; neighboring places are alike.
_PLACES = 1024
# By the mean variance of an input.
_RIDGE = 1e-2
# In how many steps the units of a group go at most.
_STEPS = 64


def unit_scores(
    graph: Graph,
    labelling: Labelling,
    groups: dict[str, Group],
    batches: Iterable[Batch],
    shares: NDArray[np.float64] | None,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """What each unit costs when it goes, in the order in which they go.

    Args:
        graph: the `Graph` that runs.
        labelling: the `Labelling` of it that the groups are of.
        groups: the `Group`s, by name.
        batches: `Batch`es; read once.
        shares: by class of a unit, how much the loss depends on it; None
            where there are no labels, so that all outputs count alike.
        seed: of the places that are looked at.
    """
    readers = [r for call in graph.calls for r in readers_of(call)]
    mixing = [r for r in readers if len(r.matrix()) == 1 and not r.inner]
    sums = _sums(graph, mixing, batches, seed)
    readings = [
        _reading(reader, sums[reader], labelling, shares) for reader in mixing
    ]
    known = [reading for reading in readings if reading is not None]
    for step, axes in inside.output_axes(graph, labelling):
        known += _inside(graph, step, axes, labelling, batches, shares)
    costs = {name: _costs(group.units, known) for name, group in groups.items()}
    # What no linear reader reads, as the dimensions of keys.
    read = np.concatenate([np.zeros(0, int), *(r.units for r in known)])
    for name, group in groups.items():
        if not group.main and not np.isin(group.units, read).any():
            costs[name] = np.full(group.units.size, np.nan)
    return costs


def _sums(
    graph: Graph, readers: list[Reader], batches: Iterable[Batch], seed: int
) -> dict[Reader, Moments]:
    """The moments of what each kernel reads, with none of targets."""
    rng = np.random.default_rng(seed)
    found = {r: Moments.empty(1, r.matrix().shape[1], 0) for r in readers}
    for batch in batches:
        walk = Walk(graph, keras.tree.flatten(batch.x))
        for reader in readers:
            raw = np.asarray(
                keras.ops.convert_to_numpy(walk.value(reader.source))
            )
            x = reader.form.laid_out(raw, reader.form.axis_in)
            sizes = reader.sizes(raw.shape)
            places = Places.drawn(len(x), sizes, _PLACES, rng)
            rows = reader.form.rows(x, places, sizes)
            found[reader].add(rows, np.zeros((*rows.shape[:2], 0)))
    return found


def _inside(
    graph: Graph,
    step: Step,
    axes: list[tuple[int, NDArray[np.intp]]],
    labelling: Labelling,
    batches: Iterable[Batch],
    shares: NDArray[np.float64] | None,
) -> list[Reading]:
    """What the kernel of the output of attention reads of units inside it."""
    kernel = as_float64(step.rule.parts(step.call.op)[0].output_kernel)
    inputs = math.prod(kernel.shape[:2])
    matrix = kernel.reshape(inputs, -1)
    sums = _sums_inside(graph, step, inputs, batches)
    share = np.ones(matrix.shape[1])
    if shares is not None:
        ids = step.flow.roles.get("out")
        own = np.zeros(0) if ids is None else shares[labelling.classes[ids]]
        share = own / (shares.sum() or 1.0) if own.any() else share / len(share)
    found = []
    for axis, classes in axes:
        # (heads, dimensions): the class of each input of the kernel.
        along = [1, 1]
        along[axis] = -1
        each = np.broadcast_to(classes.reshape(along), kernel.shape[:2])
        found.append(_made(matrix, sums, each.ravel(), share))
    return found


def _sums_inside(
    graph: Graph, step: Step, width: int, batches: Iterable[Batch]
) -> Moments:
    """The moments of what the kernel of the output of attention reads."""
    found = Moments.empty(1, width, 0)
    calls = [call for call in graph.calls if call.op is step.call.op]
    dense = private.attention_projection(step.rule.base(step.call.op), "output")

    def hear(inputs: Any, outputs: Any) -> None:
        rows = np.asarray(keras.ops.convert_to_numpy(inputs), "float64")
        rows = rows.reshape(1, -1, width)
        found.add(rows, np.zeros((*rows.shape[:2], 0)))

    for batch in batches:
        walk = Walk(graph, keras.tree.flatten(batch.x))
        for call in calls:
            for tensor in call.inputs:
                walk.value(tensor)
            with private.overheard(dense, hear):
                run(call, walk.value)
    return found


def _reading(
    reader: Reader,
    sums: Moments,
    labelling: Labelling,
    shares: NDArray[np.float64] | None,
) -> Reading | None:
    """What a kernel reads, if its inputs are units along one axis."""
    units = _units(reader, labelling, inputs=True)
    if units is None:
        return None
    matrix = reader.matrix()[0]
    each = np.repeat if reader.form.repeats else np.tile
    units = each(units, len(matrix) // len(units))
    share = np.ones(matrix.shape[1])
    if shares is not None:
        share = _shares(reader, labelling, shares, matrix.shape[1])
    return _made(matrix, sums, units, share)


def _made(
    matrix: Array, sums: Moments, units: NDArray[np.intp], share: Array
) -> Reading:
    """The `Reading` of a kernel, by the moments of its inputs."""
    means = sums.inputs[0, :-1, -1] / max(sums.count, 1)
    inputs = sums.inputs[0, :-1, :-1] / max(sums.count, 1)
    inputs = inputs - np.outer(means, means)
    variance = np.einsum("io,ij,jo->o", matrix, inputs, matrix, optimize=True)
    scale = float(np.trace(inputs)) / len(inputs) or 1.0
    regular = inputs + _RIDGE * scale * np.eye(len(inputs))
    inverse = np.asarray(np.linalg.inv(regular), "float64")
    deviation = np.sqrt(np.maximum(variance, 1e-12 * variance.max(initial=0.0)))
    used = np.where(deviation > 0, deviation, 1.0)
    return Reading(inverse, matrix / used * np.sqrt(share), units)


def _shares(
    reader: Reader,
    labelling: Labelling,
    shares: NDArray[np.float64],
    count: int,
) -> Array:
    """How much the loss depends on each output of a kernel."""
    units = _units(reader, labelling, inputs=False)
    whole = float(shares.sum()) or 1.0
    if units is None or len(units) != count or not shares[units].any():
        # What no score is for, as the outputs of the model, is read by all.
        return np.full(count, 1.0 / count)
    return np.asarray(shares[units] / whole)


def _units(
    reader: Reader, labelling: Labelling, inputs: bool
) -> NDArray[np.intp] | None:
    """The classes of the units along the channels that a kernel meets."""
    form, call = reader.form, reader.call
    if not inputs and reader.activation is None:
        return None
    tensor = reader.source if inputs else call.outputs[0]
    axis = form.axis_in if inputs else form.axis_out
    labels = labelling.labels.get(tensor)
    if labels is None or form.folded and labels.ndim < 3:
        return None
    if axis > 0 and form.folded:
        return None
    size = tensor.shape[axis]
    if inputs and form.joined > 1:
        return _joined(labelling.classes[labels], tensor.shape, form.joined)
    # Where a Dense layer is reshaped to a map, the units of a channel are as
    # many as it has places, and one class.
    along = np.moveaxis(labelling.classes[labels], axis, -1)
    rows = along.reshape(-1, along.shape[-1])
    if size is None or (rows != rows[:1]).any():
        return None
    return np.broadcast_to(rows[0], (size,))


def _joined(
    classes: NDArray[np.intp], shape: tuple[int | None, ...], count: int
) -> NDArray[np.intp] | None:
    """The classes along the last axes of a tensor, as if they were one."""
    sizes = [size for size in shape[-count:] if size is not None]
    rows = classes.reshape(-1, *classes.shape[-count:])
    if len(sizes) < count or (rows != rows[:1]).any():
        return None
    return np.broadcast_to(rows[0], sizes).reshape(-1)


def _costs(units: NDArray[np.intp], known: list[Reading]) -> Array:
    """The cost of each unit of a group when its turn comes."""
    removals = [
        Removal(reading, units)
        for reading in known
        if np.isin(reading.units, units).any()
    ]
    costs = np.zeros(len(units))
    left = np.arange(len(units))
    each = -(-len(units) // _STEPS)
    so_far = 0.0
    while len(left):
        now = sum((r.costs() for r in removals), np.zeros(len(units)))[left]
        order = np.argsort(now, kind="stable")[:each]
        for number in order:
            so_far = max(so_far, float(now[number]))
            costs[left[number]] = so_far
        gone, left = left[order], np.delete(left, order)
        if len(left):
            for removal in removals:
                removal.remove(gone)
    return costs
