"""Layers that multiply by a kernel: they read units and create new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import channel_axis
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import weight

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling

# Kernels are summed in float64, and a whole one would take up much memory.
_ROWS = 256


def some_rows(
    values: NDArray[np.float64], kernel: NDArray[Any], axis: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[Any]]]:
    """Numbers other than zero with their rows of a kernel, a few at a time.

    Args:
        values: a number for each row.
        kernel: the kernel, of any dtype.
        axis: the axis of the rows.
    """
    rows = np.flatnonzero(values)
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield values[some], kernel.take(some, axis)


@dataclasses.dataclass(frozen=True)
class Linear(Rule):
    """`act(kernel . x + bias)` over one axis; the kernel is `(..., in, out)`.

    Attributes:
        width: the attribute that holds the number of output channels.
        kernel: the name of the kernel weight.
    """

    kind: str = "linear"
    costs: Mapping[str, str | None] | None = dataclasses.field(
        default_factory=lambda: {"kernel": "out"}
    )
    kernel: str = "kernel"
    width: str = "filters"

    linear = True

    def axis(self, call: Call) -> int:
        """The channel axis in the input."""
        return channel_axis(call.op, len(call.inputs[0].shape))

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        op, roles = call.op, {}
        role, ids = self.reads_of(call, inputs[0], units)
        if ids is not None:
            roles[role] = ids
        for labels in inputs[1:]:
            units.pin(labels, "an input other than the data is kept whole")
        out = self.minted(call, units)
        roles["out"] = out
        reason = activations.why_not(getattr(op, "activation", None))
        if reason is not None:
            units.pin(out, reason)
        self.couple(call, roles, units)
        rank = len(call.outputs[0].shape)
        labels = lb.vector(out, rank, self.axis_out(call))
        sources = [[None] * len(inputs)]
        return Flow([labels], sources, roles, mixes=True, reads={0: role})

    def reads_of(
        self, call: Call, labels: NDArray[np.intp], units: Units
    ) -> tuple[str, NDArray[np.intp] | None]:
        """The role that the kernel reads, and its units, if removable."""
        axis = self.axis(call)
        ids = one_axis(labels, axis, call.inputs[0].shape)
        if ids is None and lb.varying(labels):
            why = f"it reads axis {axis}, which is not the channel axis"
            units.pin(labels, why)
        return "in", ids

    def minted(self, call: Call, units: Units) -> NDArray[np.intp]:
        """The units of the output, the same for all calls of a layer."""
        return units.mint(id(call.op), self.size(call.op))

    def size(self, op: keras.Layer) -> int:
        """The number of output channels."""
        return int(getattr(op, self.width))

    def axis_out(self, call: Call) -> int:
        """The channel axis in the output."""
        return self.axis(call)

    def couple(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> None:
        """Tie the units that must go together inside the layer."""

    def reading(self, call: Call) -> Reading:
        return BIAS if "bias" in self.axes_of(call) else ZERO

    def merges(self, call: Call) -> bool:
        return True

    def approximates(self, call: Call) -> bool:
        return "bias" in self.axes_of(call)

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What known inputs `(in,)` of a part add, as a bias."""
        kernel = create.array_of(getattr(part, self.kernel))
        values = np.where(np.isnan(values), 0.0, values)
        added = np.zeros(kernel.shape[-1])
        for factors, taps in some_rows(values, kernel, axis=-2):
            # (positions, in, out) -> (in, out)
            each = taps.reshape(-1, *taps.shape[-2:])
            added += factors @ each.sum(axis=0, dtype="float64")
        return added

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        axis = self.axis(call)
        if values[0] is None:
            return [None]
        x = values[0].plain()
        if "in" in flow.roles:
            x = channel_values(values[0].values, axis)
        elif (x != 0).any():
            return [None]
        if np.isnan(x).any():
            return [None]
        nonzero = (x != 0).any()
        if nonzero and (values[0].border or self.reading(call) != BIAS):
            return [None]
        out = self.contribution(call.op, x) if nonzero else 0.0
        bias = weight(call.op, "bias")
        out = np.ravel(out) + (0.0 if bias is None else bias.ravel())
        out = np.broadcast_to(out, flow.roles["out"].shape)
        activation = getattr(call.op, "activation", None)
        out = activations.apply(activation, out.astype(float))
        return [known(out.reshape(flow.labels[0].shape))]

    def behind(self, call: Call) -> Scaling | None:
        """A factor on the output must pass the built-in activation."""
        return built_in(call)


def built_in(call: Call) -> Scaling | None:
    """How a factor passes the layer's built-in activation."""
    row = activations.known_activation(getattr(call.op, "activation", None))
    return row.passes if row is not None else None
