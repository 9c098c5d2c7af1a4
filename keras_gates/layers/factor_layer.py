"""What has a float32 weight of factors that thresholds close."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer


class FactorLayer(keras.layers.Layer):
    """Base class of layers whose factors are gates: `Gate`, and others.

    Args:
        initializer: Start of the factors.
        regularizer: Regularizer of the factors.
        activity_regularizer: Regularizer of the layer's output.
        constraint: Constraint of the factors.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if isinstance(initializer, str) and initializer == "uniform":
            initializer = keras.initializers.RandomUniform(0.0, 1.0)
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.supports_masking = True

    def _add_factor(self, shape: tuple[int, ...]) -> None:
        # autocast=False: Keras would otherwise hand out a half precision copy
        # to whatever reads the factor inside `call`.
        self.factor = self.add_weight(
            name="factor",
            shape=shape,
            dtype="float32",
            autocast=False,
            initializer=self.initializer,
            regularizer=self.regularizer,
            constraint=self.constraint,
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FactorLayer:
        config = dict(config)
        added_shortcut = config.pop("added_shortcut", False)
        gate: FactorLayer = super().from_config(config)
        gate.added_shortcut = added_shortcut
        return gate

    def get_config(self) -> dict[str, Any]:
        added = {"added_shortcut": True} if self.added_shortcut else {}
        return {
            **super().get_config(),
            **added,
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "activity_regularizer": keras.regularizers.serialize(
                self.activity_regularizer
            ),
            "constraint": keras.constraints.serialize(self.constraint),
        }
