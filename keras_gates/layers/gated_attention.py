"""A gate on each head of a stock attention layer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.layers.around_attention import ATTENTION
from keras_gates.layers.around_attention import AroundAttention
from keras_gates.layers.around_attention import head_count
from keras_gates.layers.around_attention import scaled_rows
from keras_gates.layers.factor_layer import FactorLayer

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer
    from keras_gates.layers.arguments import Shape


@keras.saving.register_keras_serializable(package="keras_gates")
class GatedAttention(AroundAttention, FactorLayer):
    """Multiplies the output of each attention head by a factor.

    `outputs = sum over h of factor[h] * head[h](query, value, key) + bias`

    It replaces the layer, is called in the same way, and computes the same
    while its factors are 1. If training drives a factor towards 0, the head can
    be pruned: it is removed from the projections of query, key, value and
    output, and the pruned model has the layer itself with fewer heads.

    For a `GroupQueryAttention`, there is one factor per head of keys and
    values, with all query heads that it serves. If there is only one such head,
    each query head has a factor.

    Args:
        layer: A `keras.layers.MultiHeadAttention` or
            `keras.layers.GroupQueryAttention`.
        initializer: Initial values of the factors. Defaults to `"ones"`, which
            leaves the function unchanged.
        regularizer: Regularizer of the factors. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factors. Defaults to `None`.
        stochastic: Whether the factors are random in training, as in a
            `FilterGate`. Defaults to `False`.
        seed: Integer or `keras.random.SeedGenerator`, for stochastic factors.
            Defaults to `None`: a new one.
        **kwargs: Keyword arguments of `keras.layers.Layer`. Name and dtype
            default to those of `layer`; in the pruned model, the layer has this
            name.

    Input shape:
        The same as `layer`, with its masks and other call arguments.

    Output shape:
        The same as `layer`.

    Raises:
        TypeError: If `layer` has another class.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> x = keras.Input((10, 16))
    >>> attention = keras.layers.MultiHeadAttention(4, 8, name="attention")
    >>> gated = kg.GatedAttention(attention)
    >>> model = keras.Model(x, keras.layers.Dense(2)(gated(x, x)))
    >>> _ = gated.factor.assign([1.0, 0.0, 1.0, 0.0])
    >>> small = kg.surgeon.prune(model, thresholds={"head": 0.05})
    >>> small.get_layer("attention").num_heads
    2
    """

    kind = "head"

    def __init__(
        self,
        layer: keras.Layer,
        initializer: Initializer = "ones",
        regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        constraint: Constraint = None,
        stochastic: bool = False,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        if type(layer) not in ATTENTION:
            raise TypeError(
                "GatedAttention gates the heads of a stock attention layer. "
                f"Received: {layer!r} (of type {type(layer).__name__}). "
                "Expected: a keras.layers.MultiHeadAttention or a "
                "keras.layers.GroupQueryAttention."
            )
        kwargs.setdefault("name", layer.name)
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(
            initializer=initializer,
            regularizer=regularizer,
            activity_regularizer=activity_regularizer,
            constraint=constraint,
            stochastic=stochastic,
            seed=seed,
            **kwargs,
        )
        self.layer = layer
        # Whether the factors are trainable if the layer is.
        self.gate_trainable = True

    @property
    def attention_axes(self) -> Any:
        """Those of the layer."""
        return getattr(self.layer, "attention_axes", None)

    def build(
        self,
        query_shape: Shape,
        value_shape: Shape,
        key_shape: Shape | None = None,
    ) -> None:
        super().build(query_shape, value_shape, key_shape)
        self._add_factor((head_count(self.layer),))
        if not self.gate_trainable:
            self.weight.trainable = False

    def freeze_factor(self) -> None:
        """The inner layer stays trainable."""
        self.weight.trainable = False

    def other_values(
        self, training: bool | None
    ) -> list[tuple[keras.Variable, Any]]:
        output: Any = private.attention_projection(self.layer, "output")
        factor = self.factor_in(training)
        return [(output.kernel, scaled_rows(output.kernel, factor))]

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Shape:
        shape: Shape = self.layer.compute_output_shape(*args, **kwargs)
        return shape

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GatedAttention:
        config = dict(config)
        trainable = config.pop("gate_trainable", True)
        layer = keras.saving.deserialize_keras_object(config["layer"])
        gate = super().from_config({**config, "layer": layer})
        assert isinstance(gate, cls)
        gate.gate_trainable = trainable
        return gate

    def get_config(self) -> dict[str, Any]:
        layer = keras.saving.serialize_keras_object(self.layer)
        # Only the factors are frozen.
        trains = self.weight.trainable if self.built else self.gate_trainable
        frozen = self.trainable and not trains
        added = {"gate_trainable": False} if frozen else {}
        return {**super().get_config(), **added, "layer": layer}
