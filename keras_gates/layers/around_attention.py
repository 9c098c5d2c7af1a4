"""Attention layers of Keras, called with other weights for their output."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_gates.layers.other_weights import call_with

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Shape

ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def head_count(layer: keras.Layer) -> int:
    """How many heads of a stock attention layer can be removed one by one.

    Query heads that share a head of keys and values are removed together; if
    there is only one such head, each query head is removed on its own.
    """
    config = layer.get_config()
    if "num_heads" in config:
        return int(config["num_heads"])
    keys = int(config["num_key_value_heads"])
    return int(config["num_query_heads"]) if keys == 1 else keys


def scaled_rows(kernel: Any, factor: Any) -> Any:
    """The output kernel of attention, multiplied by a factor per head.

    Args:
        kernel: `(heads of the queries, ...)`.
        factor: `(heads,)`, of which each may stand for several.
    """
    heads = kernel.shape[0]
    factor = ops.repeat(factor, heads // factor.shape[0])
    factor = ops.reshape(factor, (heads,) + (1,) * (len(kernel.shape) - 1))
    return ops.cast(kernel * ops.cast(factor, kernel.dtype), kernel.dtype)


class AroundAttention(keras.layers.Layer):
    """Calls an attention layer with other values for some of its weights.

    Attributes:
        layer: the attention layer.
        inference: whether it is always called as in inference.
    """

    layer: keras.Layer
    inference = False

    def other_values(
        self, training: bool | None
    ) -> Sequence[tuple[keras.Variable, Any]]:
        """Pairs of a weight of the layer and its replacement."""
        return ()

    def around(self) -> AbstractContextManager[Any]:
        """The context in which the layer is called."""
        return contextlib.nullcontext()

    def build(
        self,
        query_shape: Shape,
        value_shape: Shape,
        key_shape: Shape | None = None,
    ) -> None:
        if not self.layer.built:
            self.layer.build(query_shape, value_shape, key_shape)

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        training = False if self.inference else training
        with self.around():
            return call_with(
                self.layer,
                self.other_values(training),
                query,
                value,
                key=key,
                query_mask=query_mask,
                value_mask=value_mask,
                key_mask=key_mask,
                attention_mask=attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
                use_causal_mask=use_causal_mask,
            )

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)
