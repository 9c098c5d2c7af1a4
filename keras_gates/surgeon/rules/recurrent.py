"""Recurrent layers: their units read each other, whatever stands behind."""

import dataclasses

import numpy as np

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.registry import rule_of_class
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import one_axis
from keras_gates.surgeon.rules.rule import weight

_STATE = (
    "its initial state comes from outside, as a decoder's from its encoder, "
    "and no rule cuts both yet"
)
_STATEFUL = "it keeps its state between batches"


@dataclasses.dataclass(frozen=True)
class Recurrent(Linear):
    """SimpleRNN, LSTM and GRU: one kernel for the data, one for the state.

    Both kernels are `(..., gates * units)`; a bias has that last axis too.
    Each unit is read by the units to which its row of the recurrent kernel
    leads: closing it behind the layer does not change what they see.

    Attributes:
        gates: how often the units stand side by side in a kernel.
    """

    kind: str = "recurrent"
    width: str = "units"
    gates: int = 1

    def parts(self, op):
        return [op.cell]

    def flow(self, call, inputs, units):
        roles = {}
        ids = one_axis(inputs[0], 2, call.inputs[0].shape)
        if ids is not None:
            roles["in"] = ids
        else:
            units.pin(inputs[0], "it works along the axis of time")
        for labels in inputs[1:]:
            units.pin(labels, "a state or a mask is read whole")
        out = units.mint(id(call.op), self.size(call.op))
        roles["out"] = out
        roles["gates"] = np.tile(out, self.gates)
        for reason in self.why_whole(call):
            units.pin(out, reason)
        outputs = self.outputs(call, out)
        sources = [[None] * len(inputs) for _ in outputs]
        return Flow(outputs, sources, roles, mixes=True)

    def size(self, op):
        """How many units the layer has."""
        return op.units

    def outputs(self, call, out):
        """Labels of the outputs: the sequence or its end, then states."""
        return [lb.vector(out, len(t.shape), -1) for t in call.outputs]

    def why_whole(self, call):
        """Reasons why all units stay."""
        found = []
        if call.argument("initial_state") is not None:
            found.append(_STATE)
        if call.op.stateful:
            found.append(_STATEFUL)
        for part in self.parts(call.op):
            for name in ("activation", "recurrent_activation"):
                why = activations.why_not(getattr(part, name, None))
                if why is not None:
                    found.append(why)
        return found

    def contribution(self, part, values):
        added = super().contribution(part, values)
        if not getattr(part, "reset_after", False):
            return added
        # The second row belongs to the recurrent kernel.
        return np.stack([added, np.zeros_like(added)])

    def value(self, call, flow, values):
        return [None] * len(call.outputs)

    def behind(self, call):
        return None

    def recalls(self, call, flow, demanded):
        """The demanded units, those that they read, and so on."""
        out = flow.roles["out"]
        read = np.zeros(len(out), bool)
        for mask in demanded:
            read |= mask.reshape(-1, len(out)).any(axis=0)
        leads = self._leads(call.op)
        while True:
            more = read | leads[:, read].any(axis=1)
            if (more == read).all():
                return out[read]
            read = more

    def _leads(self, op):
        """Whether unit i has a part in what unit j becomes: `(i, j)`."""
        size = self.size(op)
        leads = np.zeros((size, size), bool)
        for part in self.parts(op):
            kernel = weight(part, "recurrent_kernel")
            leads |= (kernel.reshape(size, -1, size) != 0).any(axis=1)
        return leads


def wrapped(config):
    """Changes to the config of a layer that is an argument of another.

    Its build config holds the old shape of its input.
    """
    return {"config": config, "build_config": None}


@dataclasses.dataclass(frozen=True)
class Bidirectional(Recurrent):
    """A recurrent layer both ways; unit i goes in both or in none.

    Keras takes it for granted that both directions are equally wide.
    """

    kind: str = "bidirectional"
    note: str = "both directions are cut alike"

    def pick(self, call):
        ways = (call.op.forward_layer, call.op.backward_layer)
        first = rule_of_class(type(ways[0]))
        alike = type(ways[0]) is type(ways[1])
        if not isinstance(first, Recurrent) or not alike:
            return Barrier(
                why="it is cut only round two SimpleRNN, two GRU or two LSTM"
            )
        if ways[0].units != ways[1].units:
            return Barrier(why="its two directions have different widths")
        return dataclasses.replace(
            self, axes=first.axes, costs=first.costs, gates=first.gates
        )

    def parts(self, op):
        return [op.forward_layer.cell, op.backward_layer.cell]

    def size(self, op):
        return op.forward_layer.units

    def outputs(self, call, out):
        found = super().outputs(call, out)
        if call.op.merge_mode == "concat":
            both = np.concatenate([out, out])
            found[0] = lb.vector(both, len(call.outputs[0].shape), -1)
        return found

    def with_bias(self, call):
        changes = wrapped({"use_bias": True})
        return {"layer": changes, "backward_layer": changes}

    def revise(self, call, flow, view):
        changes = wrapped({"units": len(view.index["out"])})
        both = {"layer": changes, "backward_layer": changes}
        return both, call.args, call.kwargs
