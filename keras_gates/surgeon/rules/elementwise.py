"""Operations that treat every value in the same way."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.arguments import mapped
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.modes import Scaling
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import axes_among
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import only_first
from keras_gates.surgeon.rules.rule import operands
from keras_gates.surgeon.rules.rule import run

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading

    # A function of an operation and known values, in NumPy.
    Twin = Callable[[keras.Operation, NDArray[np.float64]], NDArray[np.float64]]

ARRAY = (
    "it is called with an array besides the data, which may treat channels "
    "differently"
)
EXTRA = "an input other than the data is kept whole"


def rerun(call: Call, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """The recorded call on `array` in place of its first tensor."""
    return rerun_all(call, array)[0]


def rerun_all(
    call: Call, array: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """As `rerun`, for all of its outputs."""
    first = call.inputs[0]
    single = keras.backend.is_float_dtype(first.dtype)
    x = keras.ops.convert_to_tensor(array, "float32" if single else first.dtype)
    args, kwargs = mapped(
        lambda a: x if a is first else a, call.args, call.kwargs
    )
    if isinstance(call.op, keras.Layer):
        kwargs = {k: v for k, v in kwargs.items() if k != "training"}
    outputs = keras.tree.flatten(call.op.call(*args, **kwargs))
    return [as_float64(y) for y in outputs]


def arrays_beside(call: Call) -> bool:
    """Whether an operation has an array that may differ between channels."""
    if isinstance(call.op, keras.Layer):
        return False
    names = inspect.signature(type(call.op).__init__).parameters
    own = [getattr(call.op, name, None) for name in names]
    return any(np.ndim(x) for x in (*operands(call), *own))


@dataclasses.dataclass(frozen=True)
class Elementwise(Rule):
    """Passes labels on; constants are computed by the operation itself.

    Attributes:
        passes: how a factor passes: a `Scaling` or its value; or None.
        twin: `(op, array) -> array`, to use instead of the operation.
    """

    kind: str = "elementwise"
    passes: str | None = None
    twin: Twin | None = None
    cuts: bool = True

    pointwise = True

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        if arrays_beside(call):
            return barrier(call, inputs, units, ARRAY)
        sources = only_first(inputs, units, EXTRA)
        return Flow([inputs[0]], [sources])

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None]
        border = values[0].border and self.scaling(call) == LINEAR
        x = values[0].values if border else values[0].plain()
        filled = np.where(np.isnan(x), 0.0, x)
        if self.twin is not None:
            result = self.twin(call.op, filled)
        else:
            result = rerun(call, filled)
        return [known(np.where(np.isnan(x), np.nan, result), border)]

    def passes_of(self, op: keras.Operation | None) -> Scaling | None:
        """How a factor passes this operation."""
        return None if self.passes is None else Scaling(self.passes)

    def scaling(self, call: Call) -> Scaling | None:
        return self.passes_of(call.op)

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        return self.passes_of(op), False


@dataclasses.dataclass(frozen=True)
class Activated(Elementwise):
    """A layer that applies `op.activation`."""

    kind: str = "activation"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        reason = activations.why_not(call.op.activation)
        if reason is None:
            return super().flow(call, inputs, units)
        if activations.known_activation(call.op.activation) is None:
            return barrier(call, inputs, units, reason)
        return mixing_flow(call, inputs, units, -1)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None or flow.mixes:
            return [None]
        result = activations.apply(call.op.activation, values[0].plain())
        return [known(result)]

    def reading(self, call: Call) -> Reading:
        return ALL

    def approximates(self, call: Call) -> bool:
        return True

    def passes_of(self, op: keras.Operation | None) -> Scaling | None:
        row = self._row(op)
        return None if row is None else row.passes

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        row = self._row(op)
        return None if row is None else (row.passes, row.mixes)

    def _row(self, op: keras.Operation | None) -> activations.Activation | None:
        """What is known of the activation, which each layer has of its own."""
        if op is None:
            return None
        return activations.known_activation(op.activation)


def _relu(
    op: keras.Operation, array: NDArray[np.float64]
) -> NDArray[np.float64]:
    if op.threshold or op.negative_slope:
        return run(op.call, array)
    return np.clip(array, 0.0, op.max_value)


@dataclasses.dataclass(frozen=True)
class ReLU(Elementwise):
    """The ReLU layer: homogeneous unless it is clipped or shifted."""

    kind: str = "activation"
    twin: Twin | None = _relu

    def passes_of(self, op: keras.Operation | None) -> Scaling | None:
        if op is None or op.threshold != 0:
            return None
        return POSITIVE if op.max_value is None else PRESERVES_ZERO


def mixing_flow(
    call: Call,
    inputs: list[NDArray[np.intp]],
    units: Units,
    axes: int | Sequence[int] | None,
) -> Flow:
    """Labels pass, but each output depends on all inputs along `axes`."""
    rank = len(call.inputs[0].shape)
    mixed = set(axes_among(axes, rank))
    sources = only_first(inputs, units, EXTRA)
    mixes = any(axis in mixed for axis in lb.varying(inputs[0]))
    return Flow([inputs[0]], [sources], mixes=mixes)


IDENTITY_TWIN = Elementwise(
    kind="identity in inference", passes=LINEAR, twin=lambda op, x: x
)


@dataclasses.dataclass(frozen=True)
class Cast(Elementwise):
    """A change of type, linear between those of fractions."""

    kind: str = "cast"

    def passes_of(self, op: keras.Operation | None) -> Scaling | None:
        return LINEAR if op is not None and _is_float(op.dtype) else None

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None]
        x = values[0].plain()
        if _is_float(call.outputs[0].dtype):
            return [known(x)]
        if call.outputs[0].dtype == "bool":
            return [known(np.where(np.isnan(x), np.nan, x != 0))]
        return [known(np.trunc(x))]


def _is_float(dtype: str | None) -> bool:
    if dtype is None:
        return True
    name = keras.backend.standardize_dtype(dtype)
    return bool(keras.backend.is_float_dtype(name))


# A scaled input would change the noise, or the penalty, of training.
NOISE = Elementwise(
    kind="identity in inference", passes=None, twin=lambda op, x: x
)
