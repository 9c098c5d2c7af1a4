"""Units of removal, and arrays that map coordinates to units.

Every tensor carries an array of unit ids with the tensor's rank (the batch
axis is 1) and extent 1 along each axis where the id does not change. The
labels of a `(None, 32, 32, 64)` convolution output have shape
`(1, 1, 1, 64)`. Unit 0 is FIXED, and never removed.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call

Entry = TypeVar("Entry", bound=np.generic)

FIXED = 0


def stretched(
    array: NDArray[Entry] | Entry, shape: tuple[int, ...]
) -> NDArray[Entry]:
    """A fast `np.broadcast_to`; NumPy's is slower than most other steps."""
    if isinstance(array, np.ndarray) and array.shape == shape:
        return array
    return np.broadcast_to(array, shape)


class Pinned(NamedTuple):
    """Units that always stay.

    Attributes:
        ids: the units, each once; `(units,)`.
        reason: why they stay.
        call: the call whose rule pins them; None for the model itself.
    """

    ids: NDArray[np.intp]
    reason: str
    call: Call | None


class Units:
    """Creates ids, ties them, and pins units that must stay.

    Attributes:
        count: the number of ids.
        pinned: the units that must stay, as `Pinned`.
        call: the call whose rule is being asked.
    """

    def __init__(self) -> None:
        self.count = 1
        self.pinned: list[Pinned] = []
        self.call: Call | None = None
        self._minted: dict[Hashable, NDArray[np.intp]] = {}
        self._ties: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []

    def mint(self, key: Hashable, size: int) -> NDArray[np.intp]:
        """The ids of the `size` channels of `key`, the same each time."""
        if key not in self._minted:
            self._minted[key] = np.arange(self.count, self.count + size)
            self.count += size
        return self._minted[key]

    def tie(self, labels: NDArray[np.intp], others: NDArray[np.intp]) -> None:
        """Tie two label arrays, with broadcasting."""
        if labels is others:
            return
        left, right = np.broadcast_arrays(labels, others)
        left, right = left.ravel(), right.ravel()
        differ = left != right
        if differ.any():
            self._ties.append((left[differ], right[differ]))

    def pin(self, labels: NDArray[np.intp], reason: str) -> None:
        """Keep these units, for `reason`."""
        self.pinned.append(Pinned(np.unique(labels), reason, self.call))

    def classes(self) -> NDArray[np.intp]:
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


def fixed(rank: int) -> NDArray[np.intp]:
    """Labels of a tensor that is never cut."""
    return np.full((1,) * rank, FIXED)


def vector(ids: NDArray[np.intp], rank: int, axis: int) -> NDArray[np.intp]:
    """Labels of a tensor with the channels `ids` along `axis`."""
    shape = [1] * rank
    shape[axis] = len(ids)
    return np.asarray(ids).reshape(shape)


def along(array: NDArray[Entry], axis: int) -> NDArray[Entry] | None:
    """The 1-D content along `axis`, or None if other axes vary too."""
    axis %= array.ndim
    if array.size == array.shape[axis]:
        return array.reshape(-1)
    flat = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    same = (flat == flat[:1]).all()
    return flat[0] if same else None


def spread(
    array: NDArray[Entry],
    shape: Sequence[int | None],
    axes: Sequence[int] | None = None,
) -> NDArray[Entry]:
    """Broadcast to the true sizes of `axes` (all of them by default).

    An axis of unknown size keeps the extent of the labels.
    """
    target = list(array.shape)
    for axis in range(1, array.ndim) if axes is None else axes:
        axis %= array.ndim
        size = shape[axis]
        if axis and target[axis] == 1 and size is not None:
            target[axis] = size
    return np.broadcast_to(array, target)


def collapse(source: NDArray[Entry]) -> NDArray[Entry]:
    """Reduce to extent 1 each axis along which `source` does not vary."""
    for axis in range(source.ndim):
        if source.shape[axis] > 1:
            first = source.take([0], axis)
            if (source == first).all():
                source = first
    return source


def varying(labels: NDArray[Entry]) -> list[int]:
    """The axes with more than one extent."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def sole_axis(
    ids: NDArray[np.intp],
) -> tuple[int | None, NDArray[np.intp] | None]:
    """`(axis, what is along it)` of an array that varies along one axis.

    After ties, channels that a move spread over several axes may vary along one
    only. If all ids are equal, it is the axis with an extent. `(None, None)` if
    there is no such axis.
    """
    own = collapse(ids)
    own = own if varying(own) else ids
    axes = varying(own)
    return (axes[0], own.reshape(-1)) if len(axes) == 1 else (None, None)


def axis_masks(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]] | None:
    """Split a mask into one mask per axis whose product it is, or None."""
    masks: list[NDArray[np.bool_]]
    if mask.size in mask.shape:
        masks = [np.full(1, mask.any())] * mask.ndim
        masks[mask.shape.index(mask.size)] = mask.reshape(-1)
        return masks
    masks = []
    product = np.ones((1,) * mask.ndim, bool)
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        one = np.asarray(mask.any(axis=others))
        masks.append(one)
        product = product & one.reshape(
            [-1 if a == axis else 1 for a in range(mask.ndim)]
        )
    return masks if (product == mask).all() else None


def cut_shape(
    shape: Sequence[int | None], masks: Sequence[NDArray[np.bool_]]
) -> tuple[int | None, ...]:
    """A shape after cutting its axes by masks."""
    return tuple(
        int(mask.sum()) if len(mask) > 1 else size
        for size, mask in zip(shape, masks, strict=True)
    )
