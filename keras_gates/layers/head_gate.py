"""A gate on each head of an attention."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.layers.filter_gate import FilterGate

if TYPE_CHECKING:
    from keras_gates.layers.arguments import Constraint
    from keras_gates.layers.arguments import Initializer
    from keras_gates.layers.arguments import Regularizer


@keras.saving.register_keras_serializable(package="keras_gates")
class HeadGate(FilterGate):
    """Multiplies each attention head by its own factor.

    `outputs[..., h, c] = factor[h] * inputs[..., h, c]`

    For attention that is written out in a model: put the gate after the
    weighted sum of the values, before the heads are joined. A closed head is
    pruned from the query, the key, the value and the output.

    Reference:

    - [Michel et al., 2019, Are Sixteen Heads Really Better than
      One?](https://arxiv.org/abs/1905.10650)

    Args:
        axis: Integer, the axis of the heads. Defaults to `-2`, as in
            `(batch, positions, heads, channels)`; use `1` for
            `(batch, heads, positions, channels)`.
        initializer: Initial values of the factors. Defaults to `"ones"`, which
            leaves the function of the model unchanged. `"uniform"` is uniform
            in (0, 1); `"random_uniform"` is the initializer of Keras, in
            (-0.05, 0.05).
        regularizer: Regularizer of the factors. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factors. Defaults to `None`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        Any of rank 3 or more. The size of `axis` must be known. Sparse tensors
        are converted to dense ones.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `axis` is 0, not an integer, or not an axis of the
            input, or if the size of that axis is unknown.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> from keras import ops
    >>> x = keras.Input((9, 16))
    >>> q, k, v = (
    ...     keras.layers.Reshape((9, 4, 8))(keras.layers.Dense(32)(x))
    ...     for _ in range(3)
    ... )
    >>> y = ops.dot_product_attention(q, k, v)
    >>> y = kg.HeadGate(regularizer=kg.regularizers.L1(1e-3))(y)
    >>> y = keras.layers.Dense(16)(keras.layers.Reshape((9, 32))(y))
    >>> model = keras.Model(x, keras.layers.Add()([x, y]))
    >>> model.output_shape
    (None, 9, 16)
    """

    kind = "head"

    def __init__(
        self,
        axis: int = -2,
        initializer: Initializer = "ones",
        regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            axis=axis,
            initializer=initializer,
            regularizer=regularizer,
            activity_regularizer=activity_regularizer,
            constraint=constraint,
            **kwargs,
        )
