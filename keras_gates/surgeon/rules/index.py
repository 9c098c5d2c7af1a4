"""Operations that only move coordinates: the same NumPy call on indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.ahead import axis_ahead
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.moves import Numbers
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

    Moved = Numbers | list[Numbers] | tuple[Numbers, ...]
    Move = Callable[[Call, list[Numbers]], Moved]


@dataclasses.dataclass(frozen=True)
class Index(Rule):
    """Runs `move` on coordinate numbers to find the labels.

    Attributes:
        move: `(call, [array]) -> array or list of arrays`; the arrays have
            a batch axis of 1.
        along: `call -> axes` that `move` depends on, None for all; only these
            are broadcast to their true sizes.
        rewrite: `(call, flow, view) -> (config, args, kwargs)` if the operation
            has sizes or positions as arguments; otherwise None.
        other: `(call, flow, view) ->` a replacement of the operation, or None.
        rims: `call ->` whether the moved tensor is padded with zeros.
    """

    kind: str = "index"
    move: Move = dataclasses.field(kw_only=True)
    along: Callable[[Call], list[int] | None] = lambda call: None
    rewrite: Callable[[Call, Flow, View], Revision] | None = None
    other: Callable[[Call, Flow, View], keras.Operation | None] = (
        lambda call, flow, view: None
    )
    rims: Callable[[Call], bool] = lambda call: False

    blends = False
    moves = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        # Each coordinate of the inputs has a number, one after the other.
        numbers, offset = [], 0
        for labels, tensor in zip(inputs, call.inputs, strict=True):
            own = offset + np.arange(labels.size).reshape(labels.shape)
            offset += labels.size
            numbers.append(lb.spread(own, tensor.shape, self.along(call)))
        try:
            moved = self.moved(call, numbers)
        except Exception as error:
            return barrier(call, inputs, units, _cannot(call, error))
        for origins, tensor in zip(moved, call.outputs, strict=True):
            if not _fits(origins.shape, tensor.shape):
                return barrier(call, inputs, units, _cannot(call, "sizes"))
        unit_of = np.concatenate([labels.ravel() for labels in inputs])
        outputs = [
            _rectangular(unit_of[origins], units, origins, tensor)
            for origins, tensor in zip(moved, call.outputs, strict=True)
        ]
        return Flow(outputs, [_split(origins, inputs) for origins in moved])

    def looks_along(self, call: Call) -> list[int] | None:
        return self.along(call)

    def moved(self, call: Call, numbers: list[Numbers]) -> list[Numbers]:
        """The numbers in each output; extents of 1 where they don't vary."""
        moved = self.move(call, numbers)
        parts = moved if isinstance(moved, (list, tuple)) else [moved]
        return [lb.collapse(np.asarray(part)) for part in parts]

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if all(value is None for value in values):
            return [None] * len(flow.labels)
        if self.rims(call):
            values = [x and Known(x.values, border=True) for x in values]
        results: list[Known | None] = []
        for sources, labels in zip(flow.sources, flow.labels, strict=True):
            out = np.full(labels.shape, np.nan)
            for source, value in zip(sources, values, strict=True):
                if value is not None and isinstance(source, np.ndarray):
                    flat = value.plain().ravel()
                    out = np.where(source >= 0, flat[source], out)
            results.append(known(out))
        return results

    def sized(self, call: Call) -> bool:
        return self.rewrite is not None

    def scaling(self, call: Call) -> Scaling | None:
        return LINEAR

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        if self.rewrite is None:
            return {}, call.args, call.kwargs
        return self.rewrite(call, flow, view)

    def replaced(
        self, call: Call, flow: Flow, view: View
    ) -> keras.Operation | None:
        return self.other(call, flow, view)


def _split(
    moved: NDArray[np.intp], inputs: list[NDArray[np.intp]]
) -> list[NDArray[np.intp]]:
    """The global numbers as one source array for each input."""
    sources, start = [], 0
    for labels in inputs:
        inside = (moved >= start) & (moved < start + labels.size)
        sources.append(np.where(inside, moved - start, -1))
        start += labels.size
    return sources


def _fits(extents: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    """Whether an index array can label a tensor of this shape."""
    return len(extents) == len(shape) and all(
        extent in (1, size) for extent, size in zip(extents, shape, strict=True)
    )


def _cannot(call: Call, error: object) -> str:
    return (
        f"{type(call.op).__name__} moves channels in a way that is not "
        f"supported here ({error})"
    )


def _rectangular(
    labels: NDArray[np.intp],
    units: Units,
    moved: NDArray[np.intp],
    tensor: Tensor,
) -> NDArray[np.intp]:
    """Tie units so that what is kept is a box: only one axis may be cut.

    It is the axis that the next kernel takes for its channels, or that of the
    heads in the next product of tensors. Where none is in sight, it is the one
    along which the numbers in `moved` are nearest to each other: there,
    neighbors were channels of one tensor before. Elsewhere they may be groups
    of channels, or different tensors.
    """
    axes = lb.varying(labels)
    axes = [a for a in axes if (labels != labels.take([0], a)).any()]
    if len(axes) < 2:
        return labels
    steps = {a: int(np.abs(np.diff(moved, axis=a)).max()) for a in axes}
    sizes = {axis: labels.shape[axis] for axis in axes}
    free = axis_ahead(tensor, sizes)
    if free is None:
        free = min(reversed(axes), key=steps.__getitem__)
    first = labels
    for axis in axes:
        if axis != free:
            first = first.take([0], axis)
    units.tie(labels, first)
    return np.broadcast_to(first, labels.shape)
