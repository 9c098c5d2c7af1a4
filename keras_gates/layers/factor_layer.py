"""The base class of layers with factors that thresholds close."""

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


class FactorLayer(keras.layers.Layer):
    """Base class of layers whose factors are gates.

    Args:
        initializer: Initial values of the factors.
        regularizer: Regularizer of the factors.
        activity_regularizer: Regularizer of the layer's output.
        constraint: Constraint of the factors.
        stochastic: Whether the factors are random in training.
        seed: Integer or `keras.random.SeedGenerator`, for a stochastic gate.
        **kwargs: Keyword arguments of `keras.layers.Layer`.
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

    def _add_factor(self, shape: tuple[int, ...]) -> None:
        initializer, regularizer = self.initializer, self.regularizer
        if self.stochastic:
            initializer = hard_concrete.OfFactor(initializer)
            if regularizer is not None:
                regularizer = hard_concrete.OfOpenness(regularizer)
        # autocast=False: otherwise Keras returns a half-precision copy wherever
        # `call` reads the factor.
        self.weight = self.add_weight(
            name="log_alpha" if self.stochastic else "factor",
            shape=shape,
            dtype="float32",
            autocast=False,
            initializer=initializer,
            regularizer=regularizer,
            constraint=self.constraint,
        )

    @property
    def factor(self) -> Any:
        """The factors in inference: a variable, or a tensor.

        The variable of a stochastic gate is `weight`.
        """
        if not self.stochastic:
            return self.weight
        return hard_concrete.factor_of(ops.convert_to_tensor(self.weight))

    def freeze_factor(self) -> None:
        """Exclude the factors from training, as `binarize` does."""
        self.trainable = False

    def factor_in(self, training: bool | None) -> Any:
        """The factors of a call; a stochastic gate draws them in training."""
        if not self.stochastic or not training:
            return self.factor
        log_alpha = ops.convert_to_tensor(self.weight)
        return hard_concrete.drawn(log_alpha, self.seed_generator)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FactorLayer:
        config = dict(config)
        if isinstance(config.get("seed"), dict):
            config["seed"] = keras.saving.deserialize_keras_object(
                config["seed"]
            )
        added_shortcut = config.pop("added_shortcut", False)
        gate: FactorLayer = super().from_config(config)
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
        """The config entries of a stochastic gate."""
        if not self.stochastic:
            return {}
        seed = self.seed
        if isinstance(seed, keras.random.SeedGenerator):
            seed = keras.saving.serialize_keras_object(seed)
        return {"stochastic": True, "seed": seed}
