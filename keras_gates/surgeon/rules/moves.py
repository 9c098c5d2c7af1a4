"""How operations move coordinates, and what they are called on after a cut.

A move is the NumPy twin of an operation; a rewrite gives the sizes and
positions that the operation names in terms of what is left.
"""

import math

import keras
import numpy as np

from keras_gates.surgeon import labels as lb


def concatenate(call, arrays):
    """Concatenation; extents of 1 on other axes grow to meet the rest."""
    rank = arrays[0].ndim
    axis = call.op.axis % rank
    extents = np.max([a.shape for a in arrays], axis=0)
    grown = []
    for array in arrays:
        target = [
            array.shape[a] if a == axis else extents[a] for a in range(rank)
        ]
        grown.append(np.broadcast_to(array, target))
    return np.concatenate(grown, axis)


def flatten(call, arrays):
    """Flatten; channels first is turned to channels last before."""
    x = arrays[0]
    if call.op.data_format == "channels_first" and x.ndim > 2:
        x = np.moveaxis(x, 1, -1)
    return x.reshape(1, -1)


def reshape(call, arrays):
    """Reshape; positions without channels may join the batch, or leave it.

    All that varies has to be on axes that make up one block at the end, as
    long before as after: what is in front of it counts blocks, however many
    of them there are. Or it is in a block at the beginning of each sample.
    """
    x, shape = arrays[0], call.outputs[0].shape
    before = call.inputs[0].shape
    axes = lb.varying(lb.collapse(x))
    if not axes:
        return np.full((1,) * len(shape), x.flat[0])
    known = None not in (*before[1:], *shape[1:])
    if known and math.prod(before[1:]) == math.prod(shape[1:]):
        return x.reshape(1, *shape[1:])
    first, last = axes[0], axes[-1] + 1
    block = before[first:]
    for axis in range(len(shape) - 1, 0, -1):
        end = shape[axis:]
        if None in (*block, *end) or math.prod(end) != math.prod(block):
            continue
        kept = x[(0,) * first].reshape(end)
        return kept.reshape((1,) * axis + end)
    whole = isinstance(call.op, keras.Layer)  # it leaves the batch alone
    if whole and before[1:last] == shape[1:last] and None not in shape[1:last]:
        kept = x[(..., *(0,) * (x.ndim - last))]
        return kept.reshape(kept.shape + (1,) * (len(shape) - last))
    raise ValueError(
        "channels change places with positions that go into the batch, or "
        "whose number is unknown"
    )


def reshaped(call, flow, view):
    """Reshape's target, from the sizes that are left."""
    shape = view.shape(call.outputs[0], flow.labels[0])
    if isinstance(call.op, keras.Layer):
        target = [-1 if s is None else s for s in shape[1:]]
        return {"target_shape": target}, call.args, call.kwargs
    given = np.atleast_1d(np.array(call.op.newshape, object)).tolist()
    open_ = [
        -1 if s is None or g in (None, -1) else s
        for s, g in zip(shape, given, strict=True)
    ]
    return {"newshape": open_}, call.args, call.kwargs


def split(call, arrays):
    return np.split(arrays[0], call.op.indices_or_sections, call.op.axis)


def splits(call, flow, view):
    """Split's positions, from the sizes of the parts that are left."""
    axis = call.op.axis % len(call.outputs[0].shape)
    sizes = [
        view.shape(tensor, labels)[axis]
        for tensor, labels in zip(call.outputs, flow.labels, strict=True)
    ]
    ends = np.cumsum(sizes)[:-1].tolist()
    return {"indices_or_sections": ends}, call.args, call.kwargs


def get_item(call, arrays):
    """Slicing; on an axis of channels only contiguous slices."""
    x = arrays[0]
    key = []
    for axis, item in _axis_items(call, x.ndim):
        plain = not isinstance(item, slice) or item.step in (None, 1)
        if axis is not None and x.shape[axis] > 1 and not plain:
            raise ValueError("a slice with a step")
        unlabelled = axis is not None and x.shape[axis] == 1
        if unlabelled and isinstance(item, slice):
            item = slice(None)
        elif unlabelled and item is not None:
            item = 0
        key.append(item)
    return x[tuple(key)]


def _axis_items(call, rank):
    """`(axis, item)` of a key, the ellipsis written out."""
    key = call.argument("key")
    key = list(key) if isinstance(key, (tuple, list)) else [key]
    if not any(item is Ellipsis for item in key):
        key.append(Ellipsis)
    items, axis = [], 0
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


def sliced(call, flow, view):
    """The key in terms of the channels that are left."""
    labels = view.inputs[0]
    masks = view.masks(labels)
    key = []
    for axis, item in _axis_items(call, labels.ndim):
        if axis is not None and len(masks[axis]) > 1:
            position = np.cumsum(masks[axis]) - masks[axis]
            size = call.inputs[0].shape[axis]
            if isinstance(item, slice):
                start, stop, _ = item.indices(size)
                inside = masks[axis][start:stop].sum()
                begin = int(masks[axis][:start].sum())
                item = slice(begin, begin + int(inside))
            else:
                item = int(position[item])
        key.append(item)
    return {}, (call.args[0], tuple(key)), {}


def take(call, arrays):
    indices = np.asarray(call.argument("indices"))
    if indices.ndim != 1 or call.op.axis is None:
        raise ValueError("only a list of indices along one axis")
    return np.take(arrays[0], indices, call.op.axis)


def taken(call, flow, view):
    """Take's indices, renumbered; those of removed channels go."""
    axis = call.op.axis % view.inputs[0].ndim
    mask = view.masks(view.inputs[0])[axis]
    if len(mask) == 1:
        return {}, call.args, call.kwargs
    indices = np.asarray(call.argument("indices"))
    position = np.cumsum(mask) - 1
    left = [int(position[i]) for i in indices if mask[i]]
    return {}, (call.args[0], left), {}


def permute(call, arrays):
    return np.transpose(arrays[0], (0, *call.op.dims))


def repeat_vector(call, arrays):
    return arrays[0][:, None, :]


def stack(call, arrays):
    return np.stack(np.broadcast_arrays(*arrays), call.op.axis)


def transpose(call, arrays):
    return np.transpose(arrays[0], call.op.axes)


def swapaxes(call, arrays):
    return np.swapaxes(arrays[0], call.op.axis1, call.op.axis2)


def moveaxis(call, arrays):
    return np.moveaxis(arrays[0], call.op.source, call.op.destination)


def expand_dims(call, arrays):
    return np.expand_dims(arrays[0], call.op.axis)


def squeeze(call, arrays):
    axis = call.op.axis
    if axis is None:
        shape = call.inputs[0].shape
        axis = [a for a, s in enumerate(shape) if a and s == 1]
    return np.squeeze(arrays[0], tuple(np.atleast_1d(axis).tolist()))


def flip(call, arrays):
    return np.flip(arrays[0], call.op.axis)


def repeat(call, arrays):
    if call.op.axis is None:
        raise ValueError("repeat without an axis")
    return np.repeat(arrays[0], call.op.repeats, call.op.axis)


def own_axis(call):
    """`along`, for a move that looks at the operation's own axis."""
    axis = call.op.axis
    return None if axis is None else [axis]


def nowhere(call):
    """`along`, for a move that looks at no axis' size."""
    return []
