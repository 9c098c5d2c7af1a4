"""Moves between channels and blocks of positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from keras_gates.surgeon.rules.rule import channel_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.moves import Numbers


def _to_last(call: Call, array: Numbers) -> Numbers:
    return np.moveaxis(array, channel_axis(call.op, array.ndim), -1)


def _back(call: Call, array: Numbers) -> Numbers:
    return np.moveaxis(array, -1, channel_axis(call.op, array.ndim))


def depth_to_space(call: Call, arrays: list[Numbers]) -> Numbers:
    x, size = _to_last(call, arrays[0]), call.op.block_size
    _, height, width, channels = x.shape
    if None in call.inputs[0].shape[1:] or channels == 1:
        raise ValueError("sizes that are unknown, or no channels")
    x = x.reshape(1, height, width, size, size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return _back(call, x.reshape(1, height * size, width * size, -1))


def space_to_depth(call: Call, arrays: list[Numbers]) -> Numbers:
    x, size = _to_last(call, arrays[0]), call.op.block_size
    # Along an axis of unknown size nothing varies: one block stands for all.
    target = [size if s == 1 else s for s in x.shape[1:3]]
    x = np.broadcast_to(x, (1, *target, x.shape[-1]))
    height, width = (s // size for s in target)
    x = x.reshape(1, height, size, width, size, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return _back(call, x.reshape(1, height, width, -1))


def patches(call: Call, arrays: list[Numbers]) -> Numbers:
    """The channels of each place in a patch, place by place."""
    x = arrays[0]
    if channel_axis(call.op, x.ndim) != x.ndim - 1 or x.ndim < 4:
        raise ValueError("patches are supported with channels last only")
    if any(size > 1 for size in x.shape[:-1]):
        raise ValueError("positions hold different channels")
    return np.tile(x, math.prod(call.op.size))


def padded(call: Call) -> bool:
    """`rims`, for patches that reach over the edge."""
    return bool(call.op.padding == "same")
