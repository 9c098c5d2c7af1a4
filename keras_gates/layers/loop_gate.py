"""The gate after the loop of a `GatedRecurrent` that is written out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers.filter_gate import FilterGate

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Shape


@keras.saving.register_keras_serializable(package="keras_gates")
class LoopGate(FilterGate):
    """A `FilterGate` that also closes channels in the loop before it.

    The surgeon creates it, in a model that no user sees. All outputs of the
    loop pass through it; with `raw=True`, unchanged.

    Args:
        repeats: how often the units appear along the axis: twice for two
            concatenated directions.
        **kwargs: as in `FilterGate`.
    """

    def __init__(self, repeats: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.repeats = repeats

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        # A state has a different rank than the output, and may be narrower.
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def call(
        self, inputs: Any, training: bool | None = None, raw: bool = False
    ) -> Any:
        return inputs if raw else super().call(inputs, training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "repeats": self.repeats}

    def _factor_shape(self, input_shape: Shape) -> tuple[int, ...]:
        (size,) = super()._factor_shape(input_shape)
        return (size // self.repeats,)

    def _broadcastable(self, factor: Any, input_shape: Shape) -> Any:
        size = input_shape[self._positive_axis(input_shape)]
        repeats = (size or factor.shape[0]) // factor.shape[0]
        return super()._broadcastable(ops.tile(factor, (repeats,)), input_shape)
