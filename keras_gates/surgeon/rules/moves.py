"""How operations move coordinates, and their arguments after a cut.

A move is the NumPy twin of an operation; a rewrite gives the sizes and
positions that the operation names in terms of what is left.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon import labels as lb

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

    # The numbers of coordinates, or labels: all that is moved are integers.
    Numbers = NDArray[np.intp]


def concatenate(call: Call, arrays: list[Numbers]) -> Numbers:
    """Concatenation; extents of 1 on other axes grow to meet the rest."""
    return _joined(call, arrays, call.op.axis)


def _joined(call: Call, arrays: list[Numbers], axis: int | None) -> Numbers:
    rank = arrays[0].ndim
    if len(keras.tree.flatten(call.args)) != len(arrays):
        raise ValueError("some of its operands are not tensors of the model")
    if axis is None or any(array.ndim != rank for array in arrays):
        raise ValueError("it flattens its operands")
    axis = int(axis) % rank
    if axis == 0:
        raise ValueError("it joins tensors along the batch axis")
    extents = np.max([a.shape for a in arrays], axis=0)
    grown = []
    for array in arrays:
        target = [
            array.shape[a] if a == axis else extents[a] for a in range(rank)
        ]
        grown.append(np.broadcast_to(array, target))
    return np.concatenate(grown, axis)


def append(call: Call, arrays: list[Numbers]) -> Numbers:
    return _joined(call, arrays, call.op.axis)


def hstack(call: Call, arrays: list[Numbers]) -> Numbers:
    return _joined(call, arrays, 1 if arrays[0].ndim > 1 else 0)


def vstack(call: Call, arrays: list[Numbers]) -> Numbers:
    return _joined(call, arrays, 0)


def dstack(call: Call, arrays: list[Numbers]) -> Numbers:
    arrays = [a[..., None] if a.ndim == 2 else a for a in arrays]
    return _joined(call, arrays, 2)


def flatten(call: Call, arrays: list[Numbers]) -> Numbers:
    """Flatten; channels first is turned to channels last before."""
    x = arrays[0]
    if call.op.data_format == "channels_first" and x.ndim > 2:
        x = np.moveaxis(x, 1, -1)
    return x.reshape(1, -1)


def reshape(call: Call, arrays: list[Numbers]) -> Numbers:
    """Reshape; positions without channels may enter or leave the batch.

    All that varies has to be on axes that make up one block at the end, and
    some of these make up one after it: what is before it counts blocks,
    however many of them there are. Or it is in a block at the beginning of
    each sample.
    """
    x, shape = arrays[0], call.outputs[0].shape
    before = call.inputs[0].shape
    axes = lb.varying(lb.collapse(x))
    if not axes:
        return np.full((1,) * len(shape), x.flat[0])
    whole = _filled(before[1:], shape[1:])
    if whole is not None and whole.blocks == 1:
        return x.reshape(1, *whole.sizes)
    first, last = axes[0], axes[-1] + 1
    block = before[first:]
    for axis in range(len(shape) - 1, 0, -1):
        end = _filled(block, shape[axis:])
        if end is not None:
            kept: Numbers = np.tile(x[(0,) * first].ravel(), end.blocks)
            return kept.reshape((1,) * axis + end.sizes)
    apart = isinstance(call.op, keras.Layer)  # it leaves the batch alone
    if apart and before[1:last] == shape[1:last] and None not in shape[1:last]:
        kept = x[(slice(None),) * last + (0,) * (x.ndim - last)]
        return kept.reshape(kept.shape + (1,) * (len(shape) - last))
    raise ValueError(
        "channels are mixed with positions that go into the batch axis, or "
        "whose number is unknown"
    )


class _Filled(NamedTuple):
    """Sizes, and how many blocks of others it takes to fill them."""

    sizes: tuple[int, ...]
    blocks: int


def _filled(
    before: tuple[int | None, ...], after: tuple[int | None, ...]
) -> _Filled | None:
    """The sizes `after`, if all are known and blocks `before` fill them."""
    old = tuple(s for s in before if s is not None)
    new = tuple(s for s in after if s is not None)
    if len(old) < len(before) or len(new) < len(after):
        return None
    size, whole = math.prod(old), math.prod(new)
    if size == whole:
        return _Filled(new, 1)
    fits = size > 0 and whole > 0 and whole % size == 0
    return _Filled(new, whole // size) if fits else None


def reshaped(call: Call, flow: Flow, view: View) -> Revision:
    """The target of a reshape, from the remaining sizes."""
    shape = view.shape(call.outputs[0], flow.labels[0])
    if isinstance(call.op, keras.Layer):
        target = [-1 if s is None else s for s in shape[1:]]
        return {"target_shape": target}, call.args, call.kwargs
    given = np.atleast_1d(np.array(call.op.newshape, object)).tolist()
    # A size that was left to Keras is left to it still. One that is open in
    # the model, and not here, is that of a layer which was traced at it.
    target = [
        -1 if before in (None, -1) else before if size is None else size
        for size, before in zip(shape, given, strict=True)
    ]
    return {"newshape": target}, call.args, call.kwargs


def split(call: Call, arrays: list[Numbers]) -> list[Numbers]:
    axis = split_axis(call)
    if arrays[0].shape[axis] == 1:
        return [arrays[0]] * len(call.outputs)
    return np.split(arrays[0], call.op.indices_or_sections, axis)


def array_split(call: Call, arrays: list[Numbers]) -> list[Numbers]:
    if arrays[0].shape[call.op.axis] == 1:
        return [arrays[0]] * len(call.outputs)
    parts = call.op.indices_or_sections
    return np.array_split(arrays[0], parts, call.op.axis)


def unstack(call: Call, arrays: list[Numbers]) -> list[Numbers]:
    parts = np.moveaxis(arrays[0], call.op.axis, 0)
    # Where nothing varies along it, one part stands for all.
    last = len(parts) - 1
    return [parts[min(i, last)] for i in range(len(call.outputs))]


def split_axis(call: Call) -> int:
    """The axis of a split; that of `hsplit` and its like is in their name."""
    if hasattr(call.op, "axis"):
        return int(call.op.axis) % len(call.inputs[0].shape)
    return {"Hsplit": 1, "Vsplit": 0, "Dsplit": 2}[type(call.op).__name__]


def parted(call: Call) -> list[int]:
    """`along`, for a move that splits."""
    return [split_axis(call)]


def as_it_was(call: Call, flow: Flow, view: View) -> Revision:
    """`rewrite`, for what is replaced where its sizes change."""
    return {}, call.args, call.kwargs


def as_split(call: Call, flow: Flow, view: View) -> keras.Operation | None:
    """`ops.split`, whose parts need not be as large as those they were."""
    axis = split_axis(call)
    if len(view.masks(view.inputs[0])[axis]) == 1:
        return None
    config, _, _ = splits(call, flow, view)
    return _operation("numpy.Split", **config, axis=axis, name=call.op.name)


def splits(call: Call, flow: Flow, view: View) -> Revision:
    """Split's positions, from the sizes of the parts that are left."""
    axis = split_axis(call)
    ends, end = [], 0
    for tensor, labels in zip(call.outputs, flow.labels, strict=True):
        size = view.shape(tensor, labels)[axis]
        if size is None:  # nothing is cut along it
            return {}, call.args, call.kwargs
        end += size
        ends.append(end)
    return {"indices_or_sections": ends[:-1]}, call.args, call.kwargs


def get_item(call: Call, arrays: list[Numbers]) -> Numbers:
    """Slicing; with a step, only if nothing else is done."""
    x = arrays[0]
    key, items = [], _axis_items(call, x.ndim)
    for axis, item in items:
        labelled = axis is not None and x.shape[axis] > 1
        if not (item is None or isinstance(item, (slice, numbers.Integral))):
            raise ValueError("it indexes by a list; use keras.ops.take")
        if labelled and _steps(item) and _stepped(call, x.ndim) is None:
            raise ValueError(
                "it slices with a step, and indexes in other ways as well"
            )
        unlabelled = axis is not None and x.shape[axis] == 1
        if unlabelled and isinstance(item, slice):
            item = slice(None)
        elif unlabelled and item is not None:
            item = 0
        key.append(item)
    picked: Numbers = x[tuple(key)]
    return picked


def _steps(item: Any) -> bool:
    return isinstance(item, slice) and item.step not in (None, 1)


def _stepped(call: Call, rank: int) -> tuple[int, slice] | None:
    """`(axis, slice)` of a key that does nothing but step, or None."""
    items = [i for i in _axis_items(call, rank) if i[1] != slice(None)]
    if len(items) != 1:
        return None
    axis, item = items[0]
    return (axis, item) if axis is not None and _steps(item) else None


def _taken_by_step(call: Call, view: View) -> tuple[int, list[int]] | None:
    """`(axis, positions)` of what is left of a slice with a step, or None."""
    found = _stepped(call, view.inputs[0].ndim)
    if found is None:
        return None
    axis, item = found
    mask = view.masks(view.inputs[0])[axis]
    if len(mask) == 1:
        return None
    position = np.cumsum(mask) - 1
    picked = range(len(mask))[item]
    return axis, [int(position[i]) for i in picked if mask[i]]


def as_take(call: Call, flow: Flow, view: View) -> keras.Operation | None:
    """`ops.take`, for a slice with a step: what is left has no such step."""
    found = _taken_by_step(call, view)
    if found is None:
        return None
    return _operation("numpy.Take", axis=found[0], name=call.op.name)


def _operation(path: str, **config: Any) -> keras.Operation | None:
    """An operation of `keras.ops`, None in a Keras that lacks it."""
    operation = gr.operation(path)
    return None if operation is None else operation(**config)


def _axis_items(call: Call, rank: int) -> list[tuple[int | None, Any]]:
    """`(axis, item)` of a key, the ellipsis written out.

    The axis is None for an item that makes a new one.
    """
    key = call.argument("key")
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    if not any(item is Ellipsis for item in key):
        key.append(Ellipsis)
    items: list[tuple[int | None, Any]] = []
    axis = 0
    for item in key:
        if item is Ellipsis:
            named = sum(k is not None and k is not Ellipsis for k in key)
            for _ in range(rank - named):
                items.append((axis, slice(None)))
                axis += 1
        elif item is None:
            items.append((None, None))
        else:
            items.append((axis, item))
            axis += 1
    return items


def sliced(call: Call, flow: Flow, view: View) -> Revision:
    """The key in terms of the channels that are left."""
    stepped = _taken_by_step(call, view)
    if stepped is not None:
        return {}, (call.args[0], stepped[1]), {}
    labels = view.inputs[0]
    masks = view.masks(labels)
    key = []
    for axis, item in _axis_items(call, labels.ndim):
        if axis is not None and len(masks[axis]) > 1:
            item = _among_kept(item, masks[axis])
        key.append(item)
    return {}, (call.args[0], tuple(key)), {}


def _among_kept(item: Any, mask: NDArray[np.bool_]) -> slice | int:
    """A position, or a slice without a step, among those in `mask`."""
    if not isinstance(item, slice):
        return int(mask[:item].sum())
    start, stop, _ = item.indices(len(mask))
    begin = int(mask[:start].sum())
    return slice(begin, begin + int(mask[start:stop].sum()))


def take(call: Call, arrays: list[Numbers]) -> Numbers:
    indices, axis = _indices(call), call.op.axis
    varies = axis is not None and lb.collapse(arrays[0]).shape[axis] > 1
    if axis is None or (indices.ndim > 1 and varies):
        raise ValueError("only a list of indices along one axis is supported")
    return np.take(arrays[0], indices, axis)


def _indices(call: Call) -> Numbers:
    """The positions that `take` was given, in NumPy."""
    indices = call.argument("indices")
    if isinstance(indices, Tensor) or len(call.inputs) > 1:
        raise ValueError("its indices are known only at run time")
    return np.asarray(keras.ops.convert_to_numpy(indices))


def taken(call: Call, flow: Flow, view: View) -> Revision:
    """Take's indices, renumbered; those of removed channels go."""
    axis = call.op.axis % view.inputs[0].ndim
    mask = view.masks(view.inputs[0])[axis]
    if len(mask) == 1:
        return {}, call.args, call.kwargs
    indices = _indices(call)
    position = np.cumsum(mask) - 1
    if indices.ndim == 0:
        return {}, (call.args[0], int(position[indices])), {}
    left = [int(position[i]) for i in indices if mask[i]]
    return {}, (call.args[0], left), {}


def permute(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.transpose(arrays[0], (0, *call.op.dims))


def repeat_vector(call: Call, arrays: list[Numbers]) -> Numbers:
    return arrays[0][:, None, :]


def stack(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.stack(np.broadcast_arrays(*arrays), call.op.axis)


def transpose(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.transpose(arrays[0], call.op.axes)


def swapaxes(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.swapaxes(arrays[0], call.op.axis1, call.op.axis2)


def moveaxis(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.moveaxis(arrays[0], call.op.source, call.op.destination)


def expand_dims(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.expand_dims(arrays[0], call.op.axis)


def squeeze(call: Call, arrays: list[Numbers]) -> Numbers:
    axis = call.op.axis
    if axis is None:
        shape = call.inputs[0].shape
        axis = [a for a, s in enumerate(shape) if a and s == 1]
    return np.squeeze(arrays[0], tuple(np.atleast_1d(axis).tolist()))


def flip(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.flip(arrays[0], call.op.axis)


def repeat(call: Call, arrays: list[Numbers]) -> Numbers:
    if call.op.axis is None:
        raise ValueError("it repeats without an axis")
    if np.ndim(call.op.repeats) and np.size(call.op.repeats) > 1:
        raise ValueError("each position has its own number of repeats")
    return np.repeat(arrays[0], call.op.repeats, call.op.axis)


def tile(call: Call, arrays: list[Numbers]) -> Numbers:
    repeats = np.atleast_1d(call.op.repeats)
    if len(repeats) > arrays[0].ndim:
        raise ValueError("it puts an axis before the batch axis")
    return np.tile(arrays[0], repeats)


def broadcast(call: Call, arrays: list[Numbers]) -> Numbers:
    if len(call.outputs[0].shape) > arrays[0].ndim:
        raise ValueError("it puts an axis before the batch axis")
    return arrays[0]


def broadcasted(call: Call, flow: Flow, view: View) -> Revision:
    """The target of `broadcast_to`, with what is left on cut axes."""
    shape = view.shape(call.outputs[0], flow.labels[0])
    return {"shape": shape}, call.args, call.kwargs


def diagonal(call: Call, arrays: list[Numbers]) -> Numbers:
    """The diagonal of two axes that hold no channels, as the last axis."""
    axes = [a % arrays[0].ndim for a in (call.op.axis1, call.op.axis2)]
    if 0 in axes or any(arrays[0].shape[a] > 1 for a in axes):
        raise ValueError("the diagonal runs along channels or samples")
    return np.squeeze(arrays[0], tuple(axes))[..., None]


def rot90(call: Call, arrays: list[Numbers]) -> Numbers:
    first, second = (a % arrays[0].ndim for a in call.op.axes)
    if 0 in (first, second):
        raise ValueError("it moves the batch axis")
    return np.rot90(arrays[0], call.op.k, (first, second))


def fliplr(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.fliplr(arrays[0])


def flipud(call: Call, arrays: list[Numbers]) -> Numbers:
    return np.flipud(arrays[0])


def own_axis(call: Call) -> list[int] | None:
    """`along`, for a move that looks at the operation's own axis."""
    axis = call.op.axis
    return None if axis is None else [axis]


def third(call: Call) -> list[int]:
    """`along`, for a move that looks at the third axis."""
    return [2] if len(call.inputs[0].shape) > 2 else []


def nowhere(call: Call) -> list[int]:
    """`along`, for a move that looks at no axis' size."""
    return []
