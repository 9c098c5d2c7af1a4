"""The base class of gates: one float32 weight, and a factor made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers.factor_layer import FactorLayer

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape


class Gate(FactorLayer):
    """Base class of the gates: `outputs = factor * inputs`, one scalar factor.

    Use `FilterGate`, `HeadGate`, `LayerGate`, `BranchGate` or `BlockGate`. They
    differ in `kind`, the granularity that thresholds and reports speak of, and
    in the shape of `factor`.

    The factor is float32 under every dtype policy: steps of 1e-5, as an L1
    penalty makes them, vanish in float16 and bfloat16. It is cast to the
    compute dtype only for the multiplication.

    A stochastic gate learns `log_alpha` instead of the factor. In training, a
    factor is drawn from the hard concrete distribution for each batch, and is
    often exactly 0 or 1:

    `s = sigmoid((log u - log(1 - u) + log_alpha) / (2/3))`, u uniform,
    `factor = clip(1.2 * s - 0.1, 0, 1)`

    In inference it is `clip(1.2 * sigmoid(log_alpha) - 0.1, 0, 1)`, which is
    what `factor`, thresholds, plans and `verify` use. The regularizer is
    applied to the probability that the factor is not 0, `sigmoid(log_alpha -
    2/3 * log(0.1 / 1.1))`, so that `L1` is the expected number of open gates.

    Reference:

    - [Louizos et al., 2018, Learning Sparse Neural Networks through L0
      Regularization](https://arxiv.org/abs/1712.01312), equations 10 to 13

    Args:
        initializer: Initial value of the factor. `"ones"` leaves the model's
            function as it is. `"uniform"` is uniform in (0, 1), the start of
            the paper, and not the (-0.05, 0.05) that the same string means in a
            Dense
            layer: a gate that starts there is closed from the first step.
            Any other initializer means what it means in Keras.
        regularizer: Regularizer of the factor, such as
            `keras_gates.regularizers.L1(1e-4)`.
        activity_regularizer: Regularizer of the layer's output.
        constraint: Constraint of the factor, such as
            `keras_gates.constraints.UnitInterval()`.
        stochastic: Whether the factor is random in training. Defaults to
            `False`.
        seed: Integer or `keras.random.SeedGenerator`, for a stochastic gate.
            Defaults to `None`: a new one.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If the input is not a single tensor, or a stochastic gate
            has a constraint.
    """

    def __init__(
        self,
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
        self.input_spec = keras.layers.InputSpec(min_ndim=1)

    def build(self, input_shape: Shape) -> None:
        self._check_is_one_tensor(input_shape)
        self._add_factor(self._factor_shape(input_shape))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # Converted to dense because TensorFlow's sparse multiply does not
        # broadcast.
        inputs = ops.convert_to_tensor(inputs, sparse=False)
        factor = self.factor_in(training)
        factor = self._broadcastable(factor, inputs.shape)
        return ops.multiply(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(factor, self.compute_dtype),
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def _factor_shape(self, input_shape: Shape) -> tuple[int, ...]:
        return ()

    def _broadcastable(self, factor: Any, input_shape: Shape) -> Any:
        return factor

    def _check_is_one_tensor(self, input_shape: Shape) -> None:
        # A list with one tensor passes Keras' own input check, and a scalar
        # gate would silently stack it.
        if any(not isinstance(size, (int, type(None))) for size in input_shape):
            raise ValueError(
                f"{type(self).__name__} '{self.name}' gates one tensor. "
                f"Received: a structure of shape {input_shape}. Expected: a "
                "tensor. Call the gate once per tensor, without a list."
            )
