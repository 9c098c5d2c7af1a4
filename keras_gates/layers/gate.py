"""What every gate shares: one float32 weight, and a factor made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers import hard_concrete

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape


class Gate(keras.layers.Layer):
    """Base class of the gates: `outputs = factor * inputs`, one scalar factor.

    Use `FilterGate`, `LayerGate`, `BranchGate` or `BlockGate`. They differ in
    `kind`, the granularity that thresholds and reports speak of, and in the
    shape of `factor`.

    The factor is float32 whatever the dtype policy: steps of 1e-5 that an L1
    penalty makes vanish in float16 and bfloat16. It is cast to the compute
    dtype only for the multiplication.

    A stochastic gate learns `log_alpha` in the place of the factor. In
    training, a factor is drawn of the hard concrete distribution for each
    batch, and is exactly 0 or 1 more often than not:

    `s = sigmoid((log u - log(1 - u) + log_alpha) / (2/3))`, u uniform,
    `factor = clip(1.2 * s - 0.1, 0, 1)`

    In inference it is `clip(1.2 * sigmoid(log_alpha) - 0.1, 0, 1)`, which is
    what `factor`, thresholds, plans and `verify` speak of. The regularizer is
    applied to the chance that the factor is not 0,
    `sigmoid(log_alpha - 2/3 * log(0.1 / 1.1))`, so that `L1` is the expected
    number of open gates.

    Reference:

    - [Louizos et al., 2018, Learning Sparse Neural Networks through L0
      Regularization](https://arxiv.org/abs/1712.01312), equations 10 to 13

    Args:
        initializer: Start of the factor. `"ones"` leaves the model's function
            as it is. `"uniform"` is uniform in (0, 1), the start of the paper,
            and not the (-0.05, 0.05) that the same string means in a Dense
            layer: a gate that starts there is closed from the first step.
            Any other initializer means what it means in Keras.
        regularizer: Regularizer of the factor, such as
            `keras_gates.regularizers.L1(1e-4)`.
        activity_regularizer: Regularizer of the layer's output.
        constraint: Constraint of the factor, such as
            `keras_gates.constraints.UnitInterval()`.
        stochastic: Whether the factor is random in training. Defaults to
            `False`.
        seed: Of a stochastic gate, an integer or a
            `keras.random.SeedGenerator`. Defaults to `None`: a new one.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If the input is not one tensor, or a stochastic gate has a
            constraint.
    """

    kind: str | None = None
    # Whether the `Add` after the gate, and the shortcut that ends in it, were
    # added for the gate. `insert_gates` sets it, and the config keeps it.
    added_shortcut = False

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
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if stochastic and constraint is not None:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' takes no constraint. "
                f"Received: stochastic=True, constraint={constraint!r}. "
                "Expected: constraint=None. The factor of a stochastic gate "
                "is between 0 and 1 whatever its weight is."
            )
        self.stochastic = bool(stochastic)
        self.seed = seed
        if self.stochastic:
            self.seed_generator = (
                seed
                if isinstance(seed, keras.random.SeedGenerator)
                else keras.random.SeedGenerator(seed)
            )
        if isinstance(initializer, str) and initializer == "uniform":
            initializer = keras.initializers.RandomUniform(0.0, 1.0)
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(min_ndim=1)

    def build(self, input_shape: Shape) -> None:
        self._check_is_one_tensor(input_shape)
        initializer, regularizer = self.initializer, self.regularizer
        if self.stochastic:
            initializer = hard_concrete.OfFactor(initializer)
            if regularizer is not None:
                regularizer = hard_concrete.OfOpenness(regularizer)
        # autocast=False: Keras would otherwise hand out a half precision copy
        # to whatever reads the factor inside `call`.
        self.weight = self.add_weight(
            name="log_alpha" if self.stochastic else "factor",
            shape=self._factor_shape(input_shape),
            dtype="float32",
            autocast=False,
            initializer=initializer,
            regularizer=regularizer,
            constraint=self.constraint,
        )

    @property
    def factor(self) -> Any:
        """What a gate multiplies by in inference: its variable, or a tensor.

        A tensor is that of a stochastic gate, whose variable is `weight`.
        """
        if not self.stochastic:
            return self.weight
        return hard_concrete.factor_of(ops.convert_to_tensor(self.weight))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # Densified because TensorFlow's sparse multiply does not broadcast.
        inputs = ops.convert_to_tensor(inputs, sparse=False)
        factor = self.factor
        if self.stochastic and training:
            log_alpha = ops.convert_to_tensor(self.weight)
            factor = hard_concrete.drawn(log_alpha, self.seed_generator)
        factor = self._broadcastable(factor, inputs.shape)
        return ops.multiply(
            ops.cast(inputs, self.compute_dtype),
            ops.cast(factor, self.compute_dtype),
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Gate:
        config = dict(config)
        if isinstance(config.get("seed"), dict):
            config["seed"] = keras.saving.deserialize_keras_object(
                config["seed"]
            )
        added_shortcut = config.pop("added_shortcut", False)
        gate: Gate = super().from_config(config)
        gate.added_shortcut = added_shortcut
        return gate

    def get_config(self) -> dict[str, Any]:
        added = {"added_shortcut": True} if self.added_shortcut else {}
        return {
            **super().get_config(),
            **added,
            **self._random_config(),
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "activity_regularizer": keras.regularizers.serialize(
                self.activity_regularizer
            ),
            "constraint": keras.constraints.serialize(self.constraint),
        }

    def _random_config(self) -> dict[str, Any]:
        """What a stochastic gate has in its config, and others have not."""
        if not self.stochastic:
            return {}
        seed = self.seed
        if isinstance(seed, keras.random.SeedGenerator):
            seed = keras.saving.serialize_keras_object(seed)
        return {"stochastic": True, "seed": seed}

    def _factor_shape(self, input_shape: Shape) -> tuple[int, ...]:
        return ()

    def _broadcastable(self, factor: Any, input_shape: Shape) -> Any:
        return factor

    def _check_is_one_tensor(self, input_shape: Shape) -> None:
        # A list that holds one tensor passes Keras' own input check, and a
        # scalar gate would stack it in silence.
        if any(not isinstance(size, (int, type(None))) for size in input_shape):
            raise ValueError(
                f"{type(self).__name__} '{self.name}' gates one tensor. "
                f"Received: a structure of shape {input_shape}. Expected: a "
                "tensor. Call the gate once per tensor, without a list."
            )
