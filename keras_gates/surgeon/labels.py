"""Units of removal, and the arrays that say which coordinate holds which.

Every tensor carries an array of unit ids with the tensor's rank (the batch
axis is 1) and extent 1 along each axis where the id does not change. The
labels of a `(None, 32, 32, 64)` convolution output have shape
`(1, 1, 1, 64)`. Unit 0 is FIXED: what nothing may remove.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXED = 0


def stretched(
    array: NDArray[Any] | bool, shape: tuple[int, ...]
) -> NDArray[Any]:
    """`np.broadcast_to`, which costs more than most of what is done here."""
    return array if array.shape == shape else np.broadcast_to(array, shape)


class Units:
    """Mints ids, ties them together, and pins what must stay.

    Attributes:
        count: how many ids there are.
        pins: `(ids, reason)` of all that must stay.
        owner: the call whose rule is asked at the moment.
        owners: for each pin, the call whose rule made it; None for those
            that the model as a whole makes.
    """

    def __init__(self) -> None:
        self.count = 1
        self.pins = []
        self.owner = None
        self.owners = []
        self._minted = {}
        self._ties = []

    def mint(
        self, key: int | tuple[int | str, ...], size: int
    ) -> NDArray[np.int64]:
        """Ids of the `size` channels that `key` produces; once per key."""
        if key not in self._minted:
            self._minted[key] = np.arange(self.count, self.count + size)
            self.count += size
        return self._minted[key]

    def tie(self, labels: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Make two label arrays stay or go together, with broadcasting."""
        if labels is others:
            return
        left, right = np.broadcast_arrays(labels, others)
        left, right = left.ravel(), right.ravel()
        differ = left != right
        if differ.any():
            self._ties.append((left[differ], right[differ]))

    def pin(self, labels: NDArray[np.int64], reason: str) -> None:
        """Keep these units, for `reason`."""
        self.pins.append((np.unique(labels), reason))
        self.owners.append(self.owner)

    def classes(self) -> NDArray[np.int64]:
        """The class of each unit: the smallest id of those tied to it.

        Hooking each larger root under the smaller, then halving the paths,
        handles all ties at once; a union-find in Python would take longer
        than the rest of the analysis.
        """
        parent = np.arange(self.count)
        if not self._ties:
            return parent
        left = np.concatenate([a for a, _ in self._ties])
        right = np.concatenate([b for _, b in self._ties])
        while True:
            a, b = parent[left], parent[right]
            differ = a != b
            if not differ.any():
                return parent
            left, right, a, b = (x[differ] for x in (left, right, a, b))
            np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
            while True:
                halved = parent[parent]
                if (halved == parent).all():
                    break
                parent = halved


def fixed(rank: int) -> NDArray[np.int64]:
    """Labels of a tensor that nothing may cut."""
    return np.full((1,) * rank, FIXED)


def vector(ids: NDArray[np.int64], rank: int, axis: int) -> NDArray[np.int64]:
    """Labels of a tensor whose `axis` holds the channels `ids`."""
    shape = [1] * rank
    shape[axis] = len(ids)
    return np.asarray(ids).reshape(shape)


def along(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """The 1-D content along `axis`, or None if other axes vary too."""
    axis %= array.ndim
    if array.size == array.shape[axis]:
        return array.reshape(-1)
    flat = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    same = (flat == flat[:1]).all()
    return flat[0] if same else None


def spread(
    array: NDArray[np.int64],
    shape: tuple[int | None, ...],
    axes: list[int] | None = None,
) -> NDArray[np.int64]:
    """Broadcast to the true sizes of `axes` (all of them by default).

    Returns None where a size is unknown but matters.
    """
    target = list(array.shape)
    for axis in range(1, array.ndim) if axes is None else axes:
        axis %= array.ndim
        if axis and target[axis] == 1 and shape[axis] is not None:
            target[axis] = shape[axis]
    return np.broadcast_to(array, target)


def collapse(source: NDArray[np.int64]) -> NDArray[np.int64]:
    """Reduce to extent 1 each axis along which `source` does not vary."""
    for axis in range(source.ndim):
        if source.shape[axis] > 1:
            first = source.take([0], axis)
            if (source == first).all():
                source = first
    return source


def varying(labels: NDArray[np.int64]) -> list[int]:
    """The axes with more than one extent."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def sole_axis(
    ids: NDArray[np.int64],
) -> tuple[int | None, NDArray[np.int64] | None]:
    """`(axis, what is along it)` of an array that varies along one axis.

    Ties may have made one axis of what a move spread over several. Where all
    ids are alike, it is the axis with an extent. `(None, None)`: there is no
    such axis.
    """
    own = collapse(ids)
    own = own if varying(own) else ids
    axes = varying(own)
    return (axes[0], own.reshape(-1)) if len(axes) == 1 else (None, None)


def axis_masks(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Split a mask into one mask per axis whose product it is, or None."""
    if mask.size in mask.shape:
        masks = [mask.any().reshape(1)] * mask.ndim
        masks[mask.shape.index(mask.size)] = mask.reshape(-1)
        return masks
    masks = []
    product = np.ones((1,) * mask.ndim, bool)
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        one = mask.any(axis=others)
        masks.append(one)
        product = product & one.reshape(
            [-1 if a == axis else 1 for a in range(mask.ndim)]
        )
    return masks if (product == mask).all() else None


def cut_shape(
    shape: tuple[int | None, ...], masks: list[NDArray[np.bool_]]
) -> tuple[int | None, ...]:
    """A shape whose cut axes have the sizes that the masks leave."""
    return tuple(
        int(mask.sum()) if len(mask) > 1 else size
        for size, mask in zip(shape, masks, strict=True)
    )
