"""A gate on each channel of a tensor."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers.gate import Gate

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape


@keras.saving.register_keras_serializable(package="keras_gates")
class FilterGate(Gate):
    """Multiplies each channel by its own factor.

    `outputs[..., c] = factor[c] * inputs[..., c]`

    If training drives a factor towards 0, the channel can be pruned, together
    with the filter (of a convolution) or unit (of a `Dense` layer) that
    produces it.

    Put the gate after the batch normalization or the activation. Do not put it
    between a convolution and its normalization, which would divide the factor
    out again, so that its size would say nothing about the channel.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), section 3.1

    Args:
        axis: Integer, the channel axis. Defaults to `-1`; use `1` for
            convolutions with `data_format="channels_first"`.
        initializer: Initial values of the factors. Defaults to `"ones"`, which
            leaves the function of the model unchanged. `"uniform"` is uniform
            in (0, 1), as in the paper; `"random_uniform"` is the initializer of
            Keras, in (-0.05, 0.05).
        regularizer: Regularizer of the factors. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factors. Defaults to `None`.
        stochastic: Whether the factors are drawn from the hard concrete
            distribution in training. Defaults to `False`.
        seed: Integer or `keras.random.SeedGenerator`, for a stochastic gate.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        Any of rank 2 or more: `(batch, ..., channels)`. The size of `axis`
        must be known. Sparse tensors are converted to dense ones.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `axis` is 0, not an integer, or not an axis of the
            input, or if the size of that axis is unknown.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> gate = kg.FilterGate(regularizer=kg.regularizers.L1(1e-4))
    >>> tuple(gate(keras.ops.ones((2, 8, 8, 16))).shape)
    (2, 8, 8, 16)
    >>> tuple(gate.factor.shape)
    (16,)

    With the initial values and penalties of the paper:

    >>> gate = kg.FilterGate(
    ...     initializer="uniform",
    ...     regularizer=kg.regularizers.MeanL1(1.0),
    ...     constraint=kg.constraints.UnitInterval(),
    ... )
    """

    kind = "filter"

    def __init__(
        self,
        axis: int = -1,
        initializer: Initializer = "ones",
        regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        constraint: Constraint = None,
        stochastic: bool = False,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            initializer=initializer,
            regularizer=regularizer,
            activity_regularizer=activity_regularizer,
            constraint=constraint,
            stochastic=stochastic,
            seed=seed,
            **kwargs,
        )
        if not _is_integer(axis) or axis == 0:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' cannot gate this "
                f"axis. Received: axis={axis!r}. Expected: an integer other "
                "than 0, the batch axis. Pass axis=-1 for channels last, "
                "axis=1 for channels first."
            )
        self.axis = int(axis)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        # The lowest rank in which `axis` is an axis other than the batch axis.
        min_ndim = max(2, self.axis + 1, -self.axis + 1)
        self.input_spec = keras.layers.InputSpec(
            min_ndim=min_ndim, axes={self.axis: self.factor.shape[0]}
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}

    def _factor_shape(self, input_shape: Shape) -> tuple[int, ...]:
        size = input_shape[self._positive_axis(input_shape)]
        if size is None:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' cannot be built: "
                f"the size of axis {self.axis} is unknown. Received: "
                f"input_shape={tuple(input_shape)}. Expected: a known number "
                "of channels. Give that size in keras.Input, or choose "
                "another axis."
            )
        return (size,)

    def _broadcastable(self, factor: Any, input_shape: Shape) -> Any:
        later_axes = len(input_shape) - 1 - self._positive_axis(input_shape)
        return ops.reshape(factor, (-1,) + (1,) * later_axes)

    def _positive_axis(self, input_shape: Shape) -> int:
        rank = len(input_shape)
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' cannot be built: axis "
                f"{self.axis} is the batch axis, or not an axis, of the "
                f"input. Received: input_shape={tuple(input_shape)}. "
                "Expected: an input of rank >= 2 and an axis from 1 to "
                f"{rank - 1}, or from {1 - rank} to -1. Pass the channel axis "
                "as `axis`."
            )
        return axis


def _is_integer(value: object) -> bool:
    """NumPy integers included."""
    return isinstance(value, numbers.Integral)
