"""Recurrent layers, whose units read each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.convolution import conv_reading
from keras_gates.surgeon.rules.inner_units import InnerUnits
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.registry import rule_of
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import one_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.view import View

_STATE = (
    "its initial state comes from outside, such as an encoder, and has no "
    "channels to remove together with its units"
)
_STATEFUL = "it is stateful: it keeps its state between batches"
# A unit that is zero inside the loop is one that no unit reads.
_UNITS = (InnerUnits("out", (("recurrent_kernel", "out"),)),)


@dataclasses.dataclass(frozen=True)
class Recurrent(Linear):
    """SimpleRNN, LSTM and GRU: one kernel for the data, one for the state.

    Both kernels are `(..., gates * units)`; a bias has that last axis too.
    Each unit is read by the units to which its row of the recurrent kernel
    leads: a gate after the layer does not change what they see. A unit that
    a score closes is zero for them as well, as with a row of zeros.

    Attributes:
        gates: how often the units stand side by side in a kernel.
    """

    kind: str = "recurrent"
    width: str = "units"
    gates: int = 1

    feeds_back = True
    spatial = False
    """Whether the units are filters of a convolution."""

    def parts(self, op: keras.Layer) -> list[keras.Layer]:
        return [op.cell]

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        roles = {}
        axis = inputs[0].ndim + self.last_axis(call.op)
        ids = one_axis(inputs[0], axis, call.inputs[0].shape)
        if ids is not None:
            roles["in"] = ids
        else:
            units.pin(inputs[0], "its channels are along the time axis")
        out = units.mint(id(call.op), self.size(call.op))
        states = self._states(call, inputs, out, units)
        roles["out"] = out
        roles["gates"] = np.tile(out, self.gates)
        for reason in self.why_whole(call):
            units.pin(out, reason)
        outputs = self.outputs(call, out)
        sources = [[None] * len(inputs) for _ in outputs]
        return Flow(outputs, sources, roles, mixes=True, states=states)

    def _states(
        self,
        call: Call,
        inputs: list[NDArray[np.intp]],
        out: NDArray[np.intp],
        units: Units,
    ) -> tuple[int, ...]:
        """Tie the initial states to the units; the inputs that they are.

        A unit of a state is read by the unit of that number, and by those
        that read it: what need not be there needs no state either.
        """
        given = call.argument("initial_state")
        given = [] if given is None else keras.tree.flatten(given)
        found = []
        for index, tensor in enumerate(call.inputs[1:], 1):
            labels = inputs[index]
            ids = None
            if any(tensor is state for state in given):
                axis = labels.ndim + self.last_axis(call.op)
                ids = one_axis(labels, axis, tensor.shape)
            if ids is None or len(ids) != len(out):
                units.pin(labels, "a state or a mask is kept whole")
            else:
                units.tie(labels, lb.vector(out, labels.ndim, axis))
                found.append(index)
        if len(found) < len(given):
            units.pin(out, _STATE)
        return tuple(found)

    def last_axis(self, op: keras.Layer) -> int:
        """The channel axis, counted from the end, of all tensors."""
        return -1

    def outputs(
        self, call: Call, out: NDArray[np.intp]
    ) -> list[NDArray[np.intp]]:
        """Labels of the outputs: the sequence or its end, then states."""
        axis = self.last_axis(call.op)
        return [lb.vector(out, len(t.shape), axis) for t in call.outputs]

    def why_whole(self, call: Call) -> list[str]:
        """Reasons why all units stay."""
        found = [_STATEFUL] if call.op.stateful else []
        for part in self.parts(call.op):
            for name in ("activation", "recurrent_activation"):
                why = activations.why_not(getattr(part, name, None))
                if why is not None:
                    found.append(why)
        return found

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        added = super().contribution(part, values)
        if not getattr(part, "reset_after", False):
            return added
        # The second row belongs to the recurrent kernel.
        return np.stack([added, np.zeros_like(added)])

    def changed(self, **changes: Any) -> dict[str, Any]:
        """The changes to a config that are these to what it says of cells."""
        return changes

    def with_bias(self, call: Call) -> dict[str, Any]:
        return self.changed(use_bias=True)

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        size = len(view.index["out"])
        return self.changed(**{self.width: size}), call.args, call.kwargs

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None] * len(call.outputs)

    def behind(self, call: Call) -> Scaling | None:
        return None

    def recalls(
        self,
        call: Call,
        flow: Flow,
        demanded: list[NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.intp]:
        """The demanded units, those that they read, and so on."""
        out = flow.roles["out"]
        read = np.zeros(len(out), bool)
        for mask in demanded:
            read |= mask.reshape(-1, len(out)).any(axis=0)
        leads = self._leads(call.op)
        if closed is not None:
            leads[closed] = False
        while True:
            # Units that lead to one that is read are read themselves.
            more = read | leads[:, read].any(axis=1)
            if (more == read).all():
                return out[read]
            read = more

    def inner_units(self, call: Call) -> tuple[InnerUnits, ...]:
        return _UNITS

    def _leads(self, op: keras.Layer) -> NDArray[np.bool_]:
        """Whether unit i has a part in what unit j becomes: `(i, j)`."""
        size = self.size(op)
        leads = np.zeros((size, size), bool)
        for part in self.parts(op):
            kernel = as_float64(part.recurrent_kernel)
            gates = kernel.shape[-1] // size
            # (positions, unit, gate, unit that reads it)
            kernel = kernel.reshape(-1, size, gates, size)
            leads |= (kernel != 0).any(axis=(0, 2))
        return leads


@dataclasses.dataclass(frozen=True)
class ConvRecurrent(Recurrent):
    """ConvLSTM: the same with convolutions, one unit for each filter."""

    kind: str = "recurrent convolution"
    width: str = "filters"

    spatial = True

    def last_axis(self, op: keras.Layer) -> int:
        return -1 if op.data_format == "channels_last" else -1 - op.cell.rank

    def axis(self, call: Call) -> int:
        return len(call.inputs[0].shape) + self.last_axis(call.op)

    def reading(self, call: Call) -> Reading:
        return conv_reading(call.op)


def wrapped(config: dict[str, Any]) -> dict[str, Any]:
    """Changes to the config of a layer that is an argument of another.

    Its build config holds the old shape of its input.
    """
    return {"config": config, "build_config": None}


def _way(call: Call, way: keras.Layer) -> Call:
    """The call as one of the layer of one direction."""
    site = dataclasses.replace(call.site, op=way)
    return dataclasses.replace(call, site=site)


def _both_ways(
    call: Call,
    weights: Sequence[tuple[str, tuple[int, ...]]],
    inputs: Sequence[tuple[int | None, ...]],
    outputs: Sequence[tuple[int | None, ...]],
) -> int | None:
    """The multiply-adds of two layers of any kind."""
    total = 0
    for way in (call.op.forward_layer, call.op.backward_layer):
        one = _way(call, way)
        shapes = [(w.name, tuple(w.shape)) for w in way.weights]
        found = counts.multiply_adds(one, rule_of(one), shapes, inputs, outputs)
        if found is None:
            return None
        total += found
    return total


@dataclasses.dataclass(frozen=True)
class Bidirectional(Recurrent):
    """A recurrent layer both ways; unit i goes in both or in none.

    Keras takes it for granted that both directions are equally wide.
    """

    kind: str = "bidirectional"
    note: str = "both directions are cut in the same way"
    inner: Recurrent | None = None

    def pick(self, call: Call) -> Rule:
        ways = (call.op.forward_layer, call.op.backward_layer)
        first = rule_of(_way(call, ways[0]))
        alike = type(ways[0]) is type(ways[1]) and first == rule_of(
            _way(call, ways[1])
        )
        if not isinstance(first, Recurrent) or not alike or first.spatial:
            why = (
                "it is supported only for two SimpleRNN, two GRU or two LSTM "
                "layers"
            )
            return Barrier(why=why, counts=_both_ways)
        if first.size(ways[0]) != first.size(ways[1]):
            why = "its two directions have different widths"
            return Barrier(why=why, counts=_both_ways)
        return dataclasses.replace(
            self,
            axes=first.axes,
            costs=first.costs,
            gates=first.gates,
            inner=first,
        )

    def parts(self, op: keras.Layer) -> list[keras.Layer]:
        return [op.forward_layer.cell, op.backward_layer.cell]

    def size(self, op: keras.Layer) -> int:
        if self.inner is None:
            raise self._lacking("size", "`pick` tells the layer inside")
        return self.inner.size(op.forward_layer)

    def outputs(
        self, call: Call, out: NDArray[np.intp]
    ) -> list[NDArray[np.intp]]:
        found = super().outputs(call, out)
        if call.op.merge_mode == "concat":
            both = np.concatenate([out, out])
            found[0] = lb.vector(both, len(call.outputs[0].shape), -1)
        return found

    def changed(self, **changes: Any) -> dict[str, Any]:
        if self.inner is None:
            raise self._lacking("changed", "`pick` tells the layer inside")
        each = wrapped(self.inner.changed(**changes))
        return {"layer": each, "backward_layer": each}
