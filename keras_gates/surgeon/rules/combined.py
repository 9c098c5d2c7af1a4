"""Operations on several tensors, which are run on constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.merge import Merge
from keras_gates.surgeon.rules.per_channel import alike
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import operands

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Rule


@dataclasses.dataclass(frozen=True)
class Combined(Merge):
    """Ties its operands; the operation itself combines known values.

    In NumPy, comparisons might differ from those in the precision of the model.
    """

    kind: str = "combined"

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        shape = flow.labels[0].shape
        arrays = {
            tensor: np.broadcast_to(self._operand(value, shape), shape)
            for tensor, value in zip(call.inputs, values, strict=True)
        }
        gone = self._unknown(call, arrays, shape)
        if gone.all():
            return [None]

        def swap(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            filled = np.where(np.isnan(arrays[x]), 0.0, arrays[x])
            single = keras.backend.is_float_dtype(x.dtype)
            dtype = "float32" if single else x.dtype
            return keras.ops.convert_to_tensor(filled, dtype)

        args, kwargs = mapped(swap, call.args, call.kwargs)
        result = as_float64(call.op.call(*args, **kwargs))
        lacking = (1,) * (len(shape) - result.ndim)
        # An array may vary along axes without channels, as a mask does.
        same = alike(result.reshape(lacking + result.shape), shape)
        if same is None:
            return [None]
        return [known(np.where(gone, np.nan, same))]

    def _unknown(
        self,
        call: Call,
        arrays: dict[Tensor, NDArray[np.float64]],
        shape: tuple[int, ...],
    ) -> NDArray[np.bool_]:
        """Where the result is not known."""
        gone = np.zeros(shape, bool)
        for array in arrays.values():
            gone = gone | np.isnan(array)
        return gone


@dataclasses.dataclass(frozen=True)
class Choice(Combined):
    """`where`: known if the chosen operand is."""

    kind: str = "choice"

    def pick(self, call: Call) -> Rule:
        if len(operands(call)) == 3 and not any(
            x is None for x in operands(call)
        ):
            return self
        return Barrier(costs={}, why="it returns positions")

    def _unknown(
        self,
        call: Call,
        arrays: dict[Tensor, NDArray[np.float64]],
        shape: tuple[int, ...],
    ) -> NDArray[np.bool_]:
        condition, left, right = (
            arrays[x] if isinstance(x, Tensor) else _chosen(x, shape)
            for x in (call.argument(n) for n in ("condition", "x1", "x2"))
        )
        chosen = np.where(condition != 0, np.isnan(left), np.isnan(right))
        return np.isnan(condition) | chosen


def _chosen(constant: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A constant like labels; NaN along axes without channels if it varies."""
    array = as_float64(constant)
    lacking = (1,) * (len(shape) - array.ndim)
    array = array.reshape(lacking + array.shape)
    wide = np.broadcast_shapes(array.shape, shape)
    same = alike(np.broadcast_to(array, wide), shape)
    return np.full(shape, np.nan) if same is None else same
