"""Operations that repeat one value along an axis which meets channels.

Attention over time is often written so: a weight for each step is repeated as
many times as there are channels, and multiplied with them. With a channel, its
copy of the weight goes too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.ahead import axis_ahead
from keras_gates.surgeon.rules.index import Index
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View


@dataclasses.dataclass(frozen=True)
class Copies(Index):
    """Makes units of its own along the axis of the copies.

    Attributes:
        plain: the rule for calls whose copies meet no channels.
        copied: `call -> {axis of the output: size}`, where all are alike.
        config_of: `(call, axis, count) ->` the config with so many copies.
    """

    plain: Rule = dataclasses.field(kw_only=True)
    copied: Callable[[Call], dict[int, int]] = dataclasses.field(kw_only=True)
    config_of: Callable[[Call, int, int], dict[str, Any]] = dataclasses.field(
        kw_only=True
    )

    def pick(self, call: Call) -> Rule:
        return self.plain if self.meeting(call) is None else self

    def meeting(self, call: Call) -> int | None:
        """The axis of copies that what comes next takes for channels."""
        sizes = {a: n for a, n in self.copied(call).items() if n > 1}
        return axis_ahead(call.outputs[0], sizes) if sizes else None

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        axis = self.meeting(call)
        one = math.prod(inputs[0].shape) == 1
        if axis is None or not one or len(call.inputs) > 1:
            # A coordinate can't belong to its copy and to a channel.
            return super().flow(call, inputs, units)
        ids = units.mint((id(call.op), "copies"), self.copied(call)[axis])
        labels = lb.vector(ids, len(call.outputs[0].shape), axis)
        source = np.zeros(labels.shape, np.intp)
        return Flow([labels], [[source]], {"copy": ids}, untied=(0,))

    def sized(self, call: Call) -> bool:
        return True

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        axis = self.meeting(call)
        if axis is None or "copy" not in flow.roles:
            return super().revise(call, flow, view)
        count = len(view.index["copy"])
        return self.config_of(call, axis, count), call.args, call.kwargs


def copies(
    plain: Index,
    copied: Callable[[Call], dict[int, int]],
    config_of: Callable[[Call, int, int], dict[str, Any]],
) -> Copies:
    """The rule of an operation whose copies may meet channels."""
    own = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    return Copies(**own, plain=plain, copied=copied, config_of=config_of)


def of_vector(call: Call) -> dict[int, int]:
    """Those of `RepeatVector`."""
    return {1: call.op.n}


def of_repeat(call: Call) -> dict[int, int]:
    """Those of `repeat`: along an axis of size 1."""
    axis, repeats = call.op.axis, call.op.repeats
    shape = call.inputs[0].shape
    if axis is None or np.size(repeats) > 1 or axis % len(shape) == 0:
        return {}
    axis %= len(shape)
    return {axis: int(np.ravel(repeats)[0])} if shape[axis] == 1 else {}


def of_tile(call: Call) -> dict[int, int]:
    """Those of `tile`: along axes of size 1."""
    shape = call.inputs[0].shape
    times = _padded(call.op.repeats, len(shape))
    if len(times) > len(shape):
        return {}
    pairs = enumerate(zip(shape, times, strict=True))
    return {axis: n for axis, (size, n) in pairs if axis and size == 1}


def of_broadcast(call: Call) -> dict[int, int]:
    """Those of `broadcast_to`: along axes of size 1."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(before) != len(after):
        return {}
    pairs = enumerate(zip(before, after, strict=True))
    return {a: n for a, (size, n) in pairs if a and size == 1 and n}


def vector_of(call: Call, axis: int, count: int) -> dict[str, Any]:
    return {"n": count}


def repeat_of(call: Call, axis: int, count: int) -> dict[str, Any]:
    return {"repeats": count}


def tile_of(call: Call, axis: int, count: int) -> dict[str, Any]:
    times = _padded(call.op.repeats, len(call.inputs[0].shape))
    times[axis] = count
    return {"repeats": tuple(times)}


def broadcast_of(call: Call, axis: int, count: int) -> dict[str, Any]:
    shape = [*call.outputs[0].shape]
    shape[axis] = count
    # The operation was given a size for each sample of the batch.
    shape[0] = call.op.shape[0]
    return {"shape": tuple(shape)}


def _padded(repeats: Any, rank: int) -> list[int]:
    times = [int(n) for n in np.atleast_1d(repeats)]
    return [1] * (rank - len(times)) + times
