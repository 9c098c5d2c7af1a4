"""A normalization that is written out as operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.rules.norm_form import Form
from keras_gates.surgeon.rules.norm_form import Weight
from keras_gates.surgeon.rules.norm_form import form_of
from keras_gates.surgeon.rules.normalization import Normalizing
from keras_gates.surgeon.rules.written_norm import Left
from keras_gates.surgeon.rules.written_norm import written_out

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights
    from keras_gates.surgeon.rules.view import View


@dataclasses.dataclass(frozen=True)
class Written(Normalizing):
    """A functional model that is a normalization, taken as one layer.

    Attributes:
        of: what the model computes.
    """

    kind: str = "normalization, written out"
    of: Form | None = None

    writes_again = True

    def form(self, call: Call) -> Form:
        assert self.of is not None
        return self.of

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        form = self.form(call)
        held = {"gamma": form.gamma, "beta": form.beta}
        return {
            name: _roles(weight, form.axis)
            for name, weight in held.items()
            if weight is not None
        }

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]

    def approximates(self, call: Call) -> bool:
        return False

    def replaced(
        self, call: Call, flow: Flow, view: View
    ) -> keras.Operation | None:
        removed = view.removed(0)
        if removed is None:
            removed = np.full(len(self.form(call).group_of), np.nan)
        return written_out(self._left(call, view, removed))

    def parts_of(self, call: Call) -> NDArray[np.intp]:
        return self.form(call).group_of

    def _left(
        self, call: Call, view: View, removed: NDArray[np.float64]
    ) -> Left:
        tensor = call.inputs[0]
        shape = view.shape(tensor, view.inputs[0])
        gives = keras.backend.standardize_dtype(call.op.outputs[0].dtype)
        dtype = call.op.inputs[0].dtype
        return Left(call.op, self.form(call), shape, dtype, removed, gives)

    def written_macs(self, call: Call, sizes: Sizes) -> int:
        return 0


def _roles(weight: Weight, axis: int) -> tuple[str | None, ...]:
    return tuple("channel" if own == axis else None for own in weight.axes)


def _gathers(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int:
    """Channels are gathered into groups twice, but for one group."""
    form = form_of(call.op)
    if form is None or form.statistics.groups == 1:
        return 0
    return int(2 * inputs[0][form.axis] * form.statistics.groups)


def written(op: keras.Operation) -> Rule | None:
    """The rule of a model that is a normalization, None for any other."""
    form = form_of(op)
    if form is None:
        return None
    takes = {"gamma": "channel", "beta": "channel"}
    if form.beta is None:
        takes.pop("beta")
    return Written(
        of=form,
        axis=lambda call: form.axis,
        spans=lambda op, rank: form.spans,
        scales={} if form.gamma is None else {"out": takes},
        counts=_gathers,
    )
