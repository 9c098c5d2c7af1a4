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
    """

    plain: Rule = dataclasses.field(kw_only=True)
    copied: Callable[[Call], dict[int, int]] = dataclasses.field(kw_only=True)

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
        return Flow([labels], [[source]], untied=(0,))


def grown(call: Call) -> dict[int, int]:
    """The axes that have size 1 before, and what they have after."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(before) != len(after):
        return {}
    pairs = enumerate(zip(before, after, strict=True))
    return {a: n for a, (size, n) in pairs if a and size == 1 and n}


def copies(
    plain: Index,
    rewrite: Callable[[Call, Flow, View], Revision],
    copied: Callable[[Call], dict[int, int]] = grown,
) -> Copies:
    """The rule of an operation whose copies may meet channels."""
    own = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    own["rewrite"] = rewrite
    return Copies(**own, plain=plain, copied=copied)


def by_vector(call: Call) -> dict[int, int]:
    """The axis that `RepeatVector` puts in."""
    return {1: call.op.n}


def vector_left(call: Call, flow: Flow, view: View) -> Revision:
    """`RepeatVector` with as many copies as are left."""
    return {"n": _left(call, flow, view)[1]}, call.args, call.kwargs


def repeat_left(call: Call, flow: Flow, view: View) -> Revision:
    """The same for `repeat`."""
    count = _left(call, flow, view)[call.op.axis]
    return {"repeats": count}, call.args, call.kwargs


def tile_left(call: Call, flow: Flow, view: View) -> Revision:
    """The same for `tile`."""
    repeats = [int(n) for n in np.atleast_1d(call.op.repeats)]
    times = [1] * (len(call.inputs[0].shape) - len(repeats)) + repeats
    left = _left(call, flow, view)
    for axis in grown(call):
        times[axis] = left[axis]
    return {"repeats": tuple(times)}, call.args, call.kwargs


def _left(call: Call, flow: Flow, view: View) -> tuple[Any, ...]:
    return view.shape(call.outputs[0], flow.labels[0])
