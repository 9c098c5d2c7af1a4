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
    """Multiplies what each head of an attention layer puts out by a factor.

    `outputs = sum over h of factor[h] * head[h](query, value, key) + bias`

    It stands in the place of the layer, is called as that is, and computes
    the same while its factors are 1. A head whose factor training drives
    towards 0 can be pruned: it goes from the projections of query, key, value
    and output, and the layer itself comes back with fewer heads.

    Of a `GroupQueryAttention` a factor is for a head of keys and values, with
    all heads of queries that it serves. If there is but one such head, each
    head of the queries has a factor.

    Args:
        layer: A `keras.layers.MultiHeadAttention` or
            `keras.layers.GroupQueryAttention`.
        initializer: Start of the factors. Defaults to `"ones"`, which leaves
            the function as it is.
        regularizer: Regularizer of the factors. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factors. Defaults to `None`.
        stochastic: Whether the factors are random in training, as those of a
            `FilterGate`. Defaults to `False`.
        seed: Of stochastic factors, an integer or a
            `keras.random.SeedGenerator`. Defaults to `None`: a new one.
        **kwargs: Keyword arguments of `keras.layers.Layer`. Name and dtype are
            those of `layer` by default; the pruned model has the layer under
            the name that is given here.

    Input shape:
        As that of `layer`, with its masks and the other arguments of its call.

    Output shape:
        As that of `layer`.

    Raises:
        TypeError: If `layer` is of another class.

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
        # Whether the factors are made to train, if the layer is.
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
        """The layer inside goes on training."""
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
        # Where the factors alone are frozen.
        trains = self.weight.trainable if self.built else self.gate_trainable
        frozen = self.trainable and not trains
        added = {"gate_trainable": False} if frozen else {}
        return {**super().get_config(), **added, "layer": layer}
