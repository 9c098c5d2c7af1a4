"""EinsumDense, where its equation is that of a Dense layer on some axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.rules import bare_einsum
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.rule import Barrier

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.view import View

_EQUATION = (
    "its equation is followed only where the kernel has one letter of the "
    "input and one new letter, as in 'abc,cd->abd'"
)
_BIAS = "its bias has no value for each of the new channels"


@dataclasses.dataclass(frozen=True)
class Equation:
    """`x,kernel->y`, where `old` is summed over and `new` takes its place."""

    x: str
    kernel: str
    y: str
    old: str
    new: str

    @property
    def axis_in(self) -> int:
        return _axis(self.x, self.old)

    @property
    def axis_out(self) -> int:
        return _axis(self.y, self.new)

    def bias_roles(
        self, bias_axes: str | None, rank: int
    ) -> tuple[str | None, ...]:
        """The role of each axis of the bias.

        Keras gives it the axes of the output from the first in `bias_axes`.
        """
        letters = self.y.replace("...", "")
        first = min(letters.index(letter) for letter in bias_axes or self.new)
        roles = ["out" if c == self.new else None for c in letters[first:]]
        if self.y.endswith("..."):
            roles += [None] * (rank - len(letters))
        return tuple(roles)


def _axis(letters: str, letter: str) -> int:
    """The axis of a letter; from the end, unless an ellipsis is there."""
    from_end = letters.index(letter) - len(letters)
    return letters.index(letter) if letters.endswith("...") else from_end


def read(equation: str) -> Equation:
    """The `Equation` of a string.

    Raises:
        ValueError: it is of another form, with the reason for a barrier.
    """
    left, _, y = equation.replace(" ", "").partition("->")
    x, _, kernel = left.partition(",")
    old, new = set(kernel) & set(x), set(kernel) - set(x)
    if len(kernel) != 2 or len(old) != 1 or len(new) != 1:
        raise ValueError(_EQUATION)
    found = Equation(x, kernel, y, old.pop(), new.pop())
    replaced = set(x) - {found.old} | {found.new}
    # The batch axis comes first and stays there; no letter comes twice.
    in_place = x[0] == y[0] != found.new and len(y) == len(x)
    single = len(set(x) - {"."}) == len(x.replace(".", ""))
    if set(y) != replaced or not in_place or not single:
        raise ValueError(_EQUATION)
    return found


@dataclasses.dataclass(frozen=True)
class EinsumDense(Linear):
    """`einsum(x, kernel) + bias`, the bias over any axes of the output."""

    kind: str = "einsum dense"
    note: str = "where the kernel has one letter of the input and one new"

    def pick(self, call: Call) -> Rule:
        if bare_einsum.scales(call.op):
            return bare_einsum.SCALE
        if bare_einsum.sources(call.op):
            return bare_einsum.SOURCE
        try:
            spec = read(call.op.equation)
        except ValueError as error:
            return Barrier(why=str(error), counts=counts.einsum_dense)
        bias = call.op.bias_axes
        if bias is not None and spec.new not in bias:
            return Barrier(why=_BIAS, counts=counts.einsum_dense)
        return self

    def axis(self, call: Call) -> int:
        return read(call.op.equation).axis_in

    def channels(self, call: Call, over: str, rank: int) -> int:
        return self.axis(call) if over == "in" else self.axis_out(call)

    def axis_out(self, call: Call) -> int:
        return read(call.op.equation).axis_out

    def size(self, op: keras.Layer) -> int:
        spec = read(op.equation)
        return int(op.kernel.shape[spec.kernel.index(spec.new)])

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        spec = read(call.op.equation)
        roles = {spec.old: "in", spec.new: "out"}
        return {
            "kernel": tuple(roles[letter] for letter in spec.kernel),
            "bias": self._bias_roles(call.op),
        }

    def _bias_roles(self, op: keras.Layer) -> tuple[str | None, ...]:
        return read(op.equation).bias_roles(op.bias_axes, op.input_spec.ndim)

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        spec = read(part.equation)
        kernel = as_float64(part.kernel)
        kernel = kernel if spec.kernel[0] == spec.old else kernel.T
        added = np.where(np.isnan(values), 0.0, values) @ kernel
        roles = self._bias_roles(part)
        return added.reshape([-1 if role else 1 for role in roles])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        # With a bias along other axes, the output varies along them.
        bias = call.op.bias
        if bias is not None and bias.shape != flow.roles["out"].shape:
            return [None]
        return super().value(call, flow, values)

    def with_bias(self, call: Call) -> dict[str, Any]:
        return {"bias_axes": read(call.op.equation).new}

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        axis = self.axis_out(call)
        shape = list(call.op.partial_output_shape)
        # The batch axis is not among these.
        shape[axis if axis < 0 else axis - 1] = len(view.index["out"])
        return {"output_shape": shape}, call.args, call.kwargs
