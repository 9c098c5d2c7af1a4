"""Attention with projections: they read channels, and the heads stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import one_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

_ARGUMENTS = ("query", "value", "key")
# Each projection, and the argument that it reads.
_READERS = {"query": "query", "gate": "query", "key": "key", "value": "value"}
_OTHER = "a mask of attention is read whole"
_WHOLE = "what attention reads has all of its channels"
_ALONG = "attention mixes the positions along its other axes"


class Projections:
    """The weights of an attention layer, under names that tell them apart.

    Each projection is a layer of its own, and calls its weights "kernel" and
    "bias". Here they are `query_kernel`, `output_bias`, and so on.

    Attributes:
        weights: all weights of the layer.
    """

    output_kernel: keras.Variable

    def __init__(self, op: keras.Layer) -> None:
        self.weights = list(op.weights)
        for name in (*_READERS, "output"):
            dense = private.attention_projection(op, name)
            for kind in ("kernel", "bias"):
                found = getattr(dense, kind, None)
                if found is not None:
                    setattr(self, f"{name}_{kind}", found)

    def width(self, argument: str) -> int:
        """How many channels the kernel of an argument reads."""
        return int(getattr(self, f"{argument}_kernel").shape[0])


def _role(argument: str) -> str:
    return f"in {argument}"


def _equally_wide(op: keras.Layer) -> bool:
    """Whether Keras wants the query as wide as the value.

    That depends on the class, and on the version of Keras.
    """
    try:
        op.compute_output_shape((1, 2, 3), (1, 2, 4))
    except ValueError:
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Attention(Rule):
    """Query, key and value are read by one kernel each, `(in, head, dim)`.

    What the heads hold is not cut. The output is minted by a kernel
    `(head, dim, out)`.

    Attributes:
        shaped: whether the config has the width of the output. Otherwise it
            is that of the query, so that both are cut alike.
    """

    kind: str = "attention"
    costs: Mapping[str, str | None] | None = None
    note: str = "the channels that it reads and returns; heads stay"
    shaped: bool = True

    def arguments(self, call: Call) -> dict[int, str]:
        """By the number of an input, the argument that it is."""
        found = {}
        for name in _ARGUMENTS:
            tensor = call.argument(name)
            for index, x in enumerate(call.inputs):
                if x is tensor and index not in found:
                    found[index] = name
                    break
        return found

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        names = self.arguments(call)
        roles, reads = {}, {}
        for index, labels in enumerate(inputs):
            shape = call.inputs[index].shape
            if index not in names:
                units.pin(labels, _OTHER)
                continue
            reads[index] = _role(names[index])
            roles[reads[index]] = self._read(call, names[index], units)
            ids = one_axis(labels, len(shape) - 1, shape)
            if ids is not None:
                units.tie(roles[reads[index]], ids)
                continue
            units.pin(roles[reads[index]], _WHOLE)
            if lb.varying(labels):
                units.pin(labels, _ALONG)
        if _role("key") not in roles:
            key = self._read(call, "key", units)
            units.tie(key, roles[_role("value")])
        if _equally_wide(call.op):
            units.tie(roles[_role("query")], roles[_role("value")])
        outputs = [lb.fixed(len(t.shape)) for t in call.outputs]
        out = self._out(call, roles, units)
        if out is not None:
            roles["out"] = out
            outputs[0] = lb.vector(out, outputs[0].ndim, -1)
        sources = [[None] * len(inputs) for _ in outputs]
        return Flow(outputs, sources, roles, mixes=True, reads=reads)

    def _read(
        self, call: Call, argument: str, units: Units
    ) -> NDArray[np.intp]:
        """The units that a kernel reads, the same in all calls of a layer.

        One call may have a key of its own, and another may not.
        """
        width = Projections(call.op).width(argument)
        return units.mint((id(call.op), argument), width)

    def _out(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> NDArray[np.intp] | None:
        """The units of the output; None where they are not cut."""
        if not self.shaped:
            return roles.get(_role("query"))
        if not self._flat(call.op):
            return None
        width = Projections(call.op).output_kernel.shape[-1]
        return units.mint(id(call.op), int(width))

    def _flat(self, op: keras.Layer) -> bool:
        """Whether the output has one axis of channels."""
        return len(Projections(op).output_kernel.shape) == 3

    def axis(self, call: Call) -> int:
        return -1

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        keyed = call.argument("key") is not None
        axes: dict[str, tuple[str | None, ...]] = {}
        for name, argument in _READERS.items():
            # Without a key of its own, the value is the key.
            at = "value" if argument == "key" and not keyed else argument
            axes[f"{name}_kernel"] = (_role(at), None, None)
            axes[f"{name}_bias"] = (None, None)
        flat = self._flat(call.op)
        axes["output_kernel"] = (None, None, "out") if flat else (None,)
        axes["output_bias"] = ("out",) if flat else (None,)
        return axes

    def parts(self, op: keras.Layer) -> list[Projections]:
        return [Projections(op)]

    def reading(self, call: Call) -> Reading:
        biased = hasattr(Projections(call.op), "query_bias")
        return BIAS if biased else ZERO

    def merges(self, call: Call) -> bool:
        return True

    def absorbed(
        self,
        call: Call,
        part: Projections,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        values = np.where(np.isnan(values), 0.0, values)
        return {
            name.replace("kernel", "bias"): np.tensordot(
                values, as_float64(getattr(part, name)), 1
            )
            for name in self._kernels(call, part, role)
        }

    def _kernels(self, call: Call, part: Projections, role: str) -> list[str]:
        """The names of the kernels that read what has this role."""
        return [
            name
            for name, roles in self.axes_of(call).items()
            if roles[0] == role and hasattr(part, name)
        ]

    def takes_input(
        self, call: Call, flow: Flow, index: int
    ) -> dict[str, str] | None:
        role = flow.reads.get(index)
        if role is None:
            return None
        names = self._kernels(call, Projections(call.op), role)
        return dict.fromkeys(names, role)

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        if side != "out" or not self._flat(call.op):
            return None
        return {"output_kernel": "out", "output_bias": "out"}

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        config = {}
        if self.shaped and "out" in view.index:
            # By default it would be as wide as the query is after the cut.
            config["output_shape"] = (len(view.index["out"]),)
        return config, call.args, call.kwargs
