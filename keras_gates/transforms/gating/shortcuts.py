"""Shapes and adds the shortcuts that gates need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_gates.surgeon.gates.added_shortcuts import ADD
from keras_gates.surgeon.gates.added_shortcuts import SUBTRACT

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.layers import Gate

# A suffix of the gate's name.
POOL = "_shortcut_pool"
PROJECT = "_shortcut_conv"

_POOLS = {
    1: layers.AveragePooling1D,
    2: layers.AveragePooling2D,
    3: layers.AveragePooling3D,
}
_CONVS = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}


class CannotShape(ValueError):
    """No pooling or 1x1 convolution converts one shape to the other."""


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """How to convert a tensor to the shape of another.

    Attributes:
        axis: the channel axis.
        rank: of both tensors, the batch included.
        pool: the arguments of an average pooling, or None.
        width: the filters of a 1x1 convolution, or None.
    """

    axis: int
    rank: int
    pool: dict[str, Any] | None = None
    width: int | None = None

    def __str__(self) -> str:
        parts = ["pooling"] * bool(self.pool) + ["1x1"] * bool(self.width)
        return ", ".join(parts) or "identity"

    def __call__(
        self, x: keras.KerasTensor, name: str, dtype: Any
    ) -> keras.KerasTensor:
        """The shortcut on `x`; `name` is the name of its gate."""
        layout = {}
        if self.rank > 2:
            first = self.axis == 1
            order = "channels_first" if first else "channels_last"
            layout = {"data_format": order}
        if self.pool:
            pool = _POOLS[self.rank - 2]
            called = name + POOL
            x = pool(**self.pool, **layout, name=called, dtype=dtype)(x)
        if self.width:
            x = project(x, self.axis, self.width, name + PROJECT, dtype)
        return x


def project(
    x: keras.KerasTensor, axis: int, width: int, name: str, dtype: Any
) -> keras.KerasTensor:
    """A 1x1 convolution of `x` (a Dense for rank 2) that starts as identity.

    Additional channels start at zero.
    """
    rank, before = len(x.shape), x.shape[axis]
    if rank == 2:
        layer = layers.Dense(width, use_bias=False, name=name, dtype=dtype)
    else:
        # TensorFlow on a CPU fuses zero padding with a "valid" convolution
        # after it, that of channels too, and fails.
        layer = _CONVS[rank - 2](
            width,
            1,
            padding="same",
            data_format="channels_first" if axis == 1 else "channels_last",
            use_bias=False,
            name=name,
            dtype=dtype,
        )
    outputs = layer(x)
    kernel = np.eye(before, width, dtype="float32")
    layer.kernel.assign(kernel.reshape((1,) * (rank - 2) + kernel.shape))
    return outputs


def shape(pairs: Sequence[tuple[Shape, Shape]], axis: int) -> Shortcut:
    """The `Shortcut` from one tensor to another.

    Args:
        pairs: the shapes of the two tensors, for each tried size of the model's
            inputs.
        axis: the channel axis.

    Raises:
        CannotShape: there is none, with the reason.
    """
    first, second = pairs[0]
    rank = len(first)
    if len(second) != rank:
        raise CannotShape(f"a shortcut can't turn {first} into {second}")
    axis %= rank
    width = second[axis] if second[axis] != first[axis] else None
    if first[axis] is None or second[axis] is None:
        raise CannotShape("the number of channels is unknown")
    space = [a for a in range(1, rank) if a != axis]
    pool = _pooling([[(a[s], b[s]) for a, b in pairs] for s in space])
    if (pool and rank - 2 not in _POOLS) or (width and rank > 5):
        raise CannotShape(f"no pooling or convolution is for rank {rank}")
    return Shortcut(axis, rank, pool, width)


def _pooling(
    space: Sequence[Sequence[tuple[int | None, int | None]]],
) -> dict[str, Any] | None:
    """The arguments of a pooling, or None if the sizes are equal.

    `space` has, for each axis, pairs of a size before and after.
    """
    if all(n == m for pairs in space for n, m in pairs):
        return None
    known = [
        [(n, m) for n, m in pairs if n is not None and m is not None]
        for pairs in space
    ]
    if list(map(len, known)) != list(map(len, space)):
        raise CannotShape("its sizes are unknown")
    if any(n < m for pairs in known for n, m in pairs):
        raise CannotShape("its output is larger than its input")
    strides = [_stride(pairs) for pairs in known]
    if None not in strides:
        size = tuple(strides)
        return {"pool_size": size, "strides": size, "padding": "same"}
    quotients = [pairs[0][0] // pairs[0][1] for pairs in known]
    windows = [
        {n - (m - 1) * stride for n, m in pairs}
        for pairs, stride in zip(known, quotients, strict=True)
    ]
    if any(len(sizes) > 1 for sizes in windows):
        raise CannotShape("no pooling does for inputs of every size")
    size = tuple(sizes.pop() for sizes in windows)
    return {"pool_size": size, "strides": tuple(quotients), "padding": "valid"}


def _stride(pairs: Sequence[tuple[int, int]]) -> int | None:
    """The stride that maps n to m for all pairs with "same", or None."""
    n, m = pairs[0]
    for stride in (n // m, n // m + 1):
        if all(math.ceil(n / stride) == m for n, m in pairs):
            return stride
    return None


def bypass(
    gate: Gate,
    x: keras.KerasTensor,
    shortcut: keras.KerasTensor,
    start: str,
) -> keras.KerasTensor:
    """`x` through a gate, with a shortcut around its piece.

    Args:
        gate: the gate layer.
        x: the tensor to gate.
        shortcut: the tensor that remains when the gate is closed.
        start: "residual": `gate(x) + shortcut`. "same":
            `gate(x - shortcut) + shortcut`, which is x if the gate is one.
    """
    dtype = gate.dtype_policy
    gate.added_shortcut = True
    if start == "same":
        minus = layers.Subtract(name=gate.name + SUBTRACT, dtype=dtype)
        x = minus([x, shortcut])
    add = layers.Add(name=gate.name + ADD, dtype=dtype)
    return add([shortcut, gate(x)])
