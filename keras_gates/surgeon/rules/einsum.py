"""EinsumDense with an equation like that of a Dense layer.

Its kernel may sum over several axes and put out several: those of heads, and
of what they hold. One of them is cut: of those it sums over the one that holds
channels, of those it puts out the first, which is that of heads. A letter that
all three have, as of experts that have a kernel each, is never cut.
"""

from __future__ import annotations

import dataclasses
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
from keras_gates.surgeon.rules import bare_einsum
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.ahead import axis_ahead
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import channel_values
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.linear import Linear
from keras_gates.surgeon.rules.linear import some_rows
from keras_gates.surgeon.rules.per_channel import alike
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import one_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.view import View

_EQUATION = (
    "its equation is supported only if the kernel sums over letters of the "
    "input and has new letters, as in 'abc,cd->abd' or 'abc,bcd->abd'"
)
_BIAS = "its bias does not have one value per new channel"


@dataclasses.dataclass(frozen=True)
class Equation:
    """`x,kernel->y`, where `old` is summed over and `new` takes its place.

    Attributes:
        x: the letters of the input.
        kernel: those of the kernel.
        y: those of the output.
        old: the letters that are summed over, in the order of the input.
        new: the letters of the kernel that the output alone has, the one
            along which it is cut first.
        shared: the letters that all three have.
    """

    x: str
    kernel: str
    y: str
    old: str
    new: str
    shared: str = ""

    @property
    def made(self) -> str:
        """The letters of the kernel that the output has, in its order."""
        return "".join(c for c in self.y if c in self.new + self.shared)

    @property
    def axis_in(self) -> int:
        return self.axis_of(self.old[0])

    @property
    def axis_out(self) -> int:
        return _axis(self.y, self.new[0])

    def cutting(self, letter: str) -> Equation:
        """The same, for a kernel that is cut along one of the new letters."""
        others = self.new.replace(letter, "")
        return dataclasses.replace(self, new=letter + others)

    def axis_of(self, letter: str) -> int:
        """The axis of the input that has a letter."""
        return _axis(self.x, letter)

    def role(self, letter: str) -> str | None:
        """The role of the kernel's axis with a letter."""
        if letter in self.old:
            return "in" if len(self.old) == 1 else f"in {letter}"
        return "out" if letter == self.new[0] else None

    def bias_letters(self, bias_axes: str | None, rank: int) -> list[str]:
        """The letter of each axis of the bias, "" for what has none.

        Keras gives it the axes of the output from the first in `bias_axes`.
        """
        letters = self.y.replace("...", "")
        first = min(letters.index(letter) for letter in bias_axes or self.made)
        found = [*letters[first:]]
        if self.y.endswith("..."):
            found += [""] * (rank - len(letters))
        return found

    def bias_roles(
        self, bias_axes: str | None, rank: int
    ) -> tuple[str | None, ...]:
        """The role of each axis of the bias."""
        letters = self.bias_letters(bias_axes, rank)
        return tuple("out" if c == self.new[0] else None for c in letters)


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
    old = "".join(c for c in x if c in kernel and c not in y)
    new = "".join(c for c in y if c in kernel and c not in x)
    shared = "".join(c for c in y if c in kernel and c in x)
    if not old or not new or set(kernel) != {*old, *new, *shared}:
        raise ValueError(_EQUATION)
    # The batch axis comes first and stays there; no letter comes twice.
    in_place = x[0] == y[0] and x[0] not in kernel
    dots = x.count(".") in (0, 3) and x.count(".") == y.count(".")
    single = all(
        len({*term} - {"."}) == len(term.replace(".", ""))
        for term in (x, kernel, y)
    )
    rest = {*x} - {*old}
    if {*y} != rest | {*new} or not (in_place and single and dots):
        raise ValueError(_EQUATION)
    return Equation(x, kernel, y, old, new, shared)


@dataclasses.dataclass(frozen=True)
class EinsumDense(Linear):
    """`einsum(x, kernel) + bias`, the bias over any axes of the output."""

    kind: str = "einsum dense"
    note: str = "where the kernel sums over letters of the input; heads go"

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
        if bias is not None and not {*spec.made} <= {*bias}:
            return Barrier(why=_BIAS, counts=counts.einsum_dense)
        return self

    def axis(self, call: Call) -> int:
        return read(call.op.equation).axis_in

    def axes_read(self, call: Call) -> list[int]:
        spec = read(call.op.equation)
        return [spec.axis_of(letter) for letter in spec.old]

    def axis_read(self, call: Call, flow: Flow) -> int:
        spec = read(call.op.equation)
        roles = {spec.role(c): c for c in spec.old}
        return spec.axis_of(roles.get(flow.reads.get(0, ""), spec.old[0]))

    def reads_of(
        self, call: Call, labels: NDArray[np.intp], units: Units
    ) -> tuple[str, NDArray[np.intp] | None]:
        """The axis that holds channels, of those that are summed over."""
        spec, shape = read(call.op.equation), call.inputs[0].shape
        for letter in spec.old:
            axis = spec.axis_of(letter)
            ids = one_axis(labels, axis, shape)
            # One that is as long as 1 is one unit along any of them.
            if ids is not None and (len(spec.old) == 1 or lb.varying(labels)):
                return spec.role(letter) or "in", ids
        return "in", super().reads_of(call, labels, units)[1]

    def positions(
        self,
        call: Call,
        over: str,
        in_shape: tuple[int | None, ...],
        out_shape: tuple[int | None, ...],
    ) -> list[int | None]:
        spec, rank = read(call.op.equation), len(out_shape)
        made = {_axis(spec.y, letter) % rank for letter in spec.made}
        return [s for a, s in enumerate(out_shape) if a and a not in made]

    def channels(self, call: Call, over: str, rank: int) -> int:
        return self.axis(call) if over == "in" else self.axis_out(call)

    def axis_out(self, call: Call) -> int:
        return self._spec(call).axis_out

    def _spec(self, call: Call) -> Equation:
        """The equation, with the letter along which the output is cut.

        It is the first of the new ones, as that of heads, unless what reads
        the output takes another for its channels.
        """
        spec = read(call.op.equation)
        if len(spec.new) == 1:
            return spec
        output = call.outputs[0]
        rank, letters = len(output.shape), {}
        for letter in spec.new:
            letters[_axis(spec.y, letter) % rank] = letter
        sizes = {axis: output.shape[axis] or 1 for axis in letters}
        ahead = axis_ahead(output, {a: n for a, n in sizes.items() if n > 1})
        return spec if ahead is None else spec.cutting(letters[ahead])

    def minted(self, call: Call, units: Units) -> NDArray[np.intp]:
        spec = self._spec(call)
        size = call.op.kernel.shape[spec.kernel.index(spec.new[0])]
        # If calls have it along different axes, it is kept whole.
        return units.mint((id(call.op), spec.new[0]), int(size))

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        spec = self._spec(call)
        return {
            "kernel": tuple(spec.role(letter) for letter in spec.kernel),
            "bias": spec.bias_roles(call.op.bias_axes, call.op.input_spec.ndim),
        }

    def takes_input(
        self, call: Call, flow: Flow, index: int
    ) -> dict[str, str] | None:
        role = flow.reads.get(index)
        return None if role not in flow.roles else {"kernel": role}

    def absorbed(
        self,
        call: Call,
        part: keras.Layer,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        spec = read(part.equation)
        letter = next(c for c in spec.old if spec.role(c) == role)
        return {"bias": self._added(part, letter, values)}

    def _added(
        self, part: keras.Layer, letter: str, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What inputs add that are the same along all axes but one."""
        spec = read(part.equation)
        order = [spec.kernel.index(c) for c in spec.made]
        at = spec.kernel.index(letter)
        values = np.where(np.isnan(values), 0.0, values)
        # Other letters are summed over as well: they are before the new ones.
        kernel = np.moveaxis(
            create.array_of(part.kernel),
            [at, *order],
            [0, *range(-len(order), 0)],
        )
        added: NDArray[np.float64] = np.zeros(kernel.shape[1:])
        for factors, rows in some_rows(values, kernel, axis=0):
            added += np.tensordot(factors, rows.astype("float64"), 1)
        added = added.sum(axis=tuple(range(len(spec.old) - 1)))
        letters = spec.bias_letters(
            part.bias_axes and spec.made, part.input_spec.ndim
        )
        sizes = dict(zip(spec.made, added.shape, strict=True))
        return added.reshape([sizes.get(c, 1) for c in letters])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        op, spec = call.op, read(call.op.equation)
        role = flow.reads[0]
        if values[0] is None:
            return [None]
        x = values[0].plain()
        if role in flow.roles:
            x = channel_values(values[0].values, self.axis_read(call, flow))
        elif (x != 0).any():
            return [None]
        nonzero = (x != 0).any()
        if np.isnan(x).any() or (nonzero and values[0].border):
            return [None]
        out = np.zeros(1)
        if nonzero:
            letter = next(c for c in spec.old if spec.role(c) == role)
            out = self._added(op, letter, x)
        if op.bias is not None:
            out = out + as_float64(op.bias)
        shape = flow.labels[0].shape
        out = out.reshape((1,) * (len(shape) - out.ndim) + out.shape)
        wide = np.broadcast_shapes(out.shape, shape)
        # With a bias along other axes, the output varies along them.
        out = activations.apply(op.activation, np.broadcast_to(out, wide))
        return [known(alike(out, shape))]

    def with_bias(self, call: Call) -> dict[str, Any]:
        return {"bias_axes": read(call.op.equation).made}

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        axis = self.axis_out(call)
        shape = list(call.op.partial_output_shape)
        # The batch axis is not among these.
        shape[axis if axis < 0 else axis - 1] = len(view.index["out"])
        return {"output_shape": shape}, call.args, call.kwargs
