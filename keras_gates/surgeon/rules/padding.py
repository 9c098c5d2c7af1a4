"""`keras.ops.pad`: along space as ZeroPadding, or of the channels."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import only_first

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

# The modes whose rim is made of values at hand, so that constants pass.
_COPIES = ("constant", "reflect", "symmetric", "edge")


@dataclasses.dataclass(frozen=True)
class Pad(Rule):
    """Padded channels are new units with the known padding value.

    This is the parameter-free shortcut of residual networks, where new channels
    start at zero.
    """

    kind: str = "padding"
    cuts: bool = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels = inputs[0]
        op = call.op
        if op.mode not in _COPIES or _rim(call) is None:
            return barrier(
                call, inputs, units, "it pads with values that are not constant"
            )
        axes = _channel_axes(call, labels)
        numbers = np.arange(labels.size).reshape(labels.shape)
        sources = only_first(inputs, units, "it is kept whole")
        if not axes:
            return Flow([labels], [sources])
        if len(axes) > 1 or op.mode != "constant":
            return barrier(call, inputs, units, "it copies channels")
        widths = [(0, 0)] * labels.ndim
        widths[axes[0]] = _widths(call)[axes[0]]
        source = np.pad(numbers, widths, constant_values=-1)
        fresh = units.mint(id(call.site), int((source < 0).sum()))
        padded = labels.ravel()[source]
        padded[source < 0] = fresh
        return Flow([padded], [[source] + sources[1:]])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        source, rim = flow.sources[0][0], _rim(call)
        if rim is None:
            return [None]
        if not isinstance(source, np.ndarray):
            return [self._along_space(call, values[0], rim)]
        inside = np.full(source.shape, np.nan)
        if values[0] is not None:
            inside = values[0].plain().ravel()[source]
        return [known(np.where(source < 0, rim, inside))]

    def _along_space(
        self, call: Call, value: Known | None, rim: float
    ) -> Known | None:
        """What is known where no channel is added."""
        if value is None:
            return None
        x = value.plain()
        if call.op.mode != "constant":
            return known(x)
        if rim:
            same = np.float32(x) == np.float32(rim)
            return known(np.where(same, x, np.nan))
        found = known(x)
        return found and Known(found.values, border=not value.border)

    def scaling(self, call: Call) -> Scaling | None:
        return None if _rim(call) else LINEAR

    def sized(self, call: Call) -> bool:
        return True

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        """Pad the remaining number of channels."""
        source = flow.sources[0][0]
        if not isinstance(source, np.ndarray):
            return {}, call.args, call.kwargs
        axis = next(a for a in lb.varying(source) if any(_widths(call)[a]))
        before, _ = _widths(call)[axis]
        mask = view.masks(flow.labels[0])[axis]
        size = len(view.masks(view.inputs[0])[axis])
        widths = [list(pair) for pair in _widths(call)]
        widths[axis] = [
            int(mask[:before].sum()),
            int(mask[before + size :].sum()),
        ]
        return {"pad_width": widths}, call.args, call.kwargs


def _channel_axes(call: Call, labels: NDArray[np.intp]) -> list[int]:
    """The padded axes that hold units, be it a single one."""
    shape = call.inputs[0].shape
    holds = (labels != lb.FIXED).any()
    return [
        axis
        for axis, pair in enumerate(_widths(call))
        if any(pair)
        and (labels.shape[axis] > 1 or (shape[axis] == 1 and holds))
    ]


def _widths(call: Call) -> list[tuple[int, int]]:
    """`(before, after)` of every axis."""
    widths = [(before, after) for before, after in call.op.pad_width]
    rank = len(call.inputs[0].shape)
    return widths * rank if len(widths) == 1 else widths


def _rim(call: Call) -> float | None:
    """The padding value, or None if there are several."""
    value = call.argument("constant_values")
    if value is None:
        return 0.0
    return float(value) if isinstance(value, numbers.Real) else None
