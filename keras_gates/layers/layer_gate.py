"""A gate on the output of one layer."""

import keras

from keras_gates.layers.gate import Gate


@keras.saving.register_keras_serializable(package="keras_gates")
class LayerGate(Gate):
    """Multiplies the output of a layer by one factor.

    `outputs = factor * inputs`, with a shortcut around the gated layer:
    `h[l] = factor * f(h[l-1]) + h[l-1]`

    Closed, the gate removes the layer. Without the shortcut that would cut the
    model in two, and the surgeon refuses it.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), equation 4

    Args:
        initializer: Start of the factor. Defaults to `"ones"`, which leaves
            the model's function as it is. `"uniform"` is the paper's start,
            uniform in (0, 1); `"random_uniform"` is that of Keras, in
            (-0.05, 0.05).
        regularizer: Regularizer of the factor. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factor. Defaults to `None`.
        stochastic: Whether the factor is random in training, of the hard
            concrete distribution. Defaults to `False`.
        seed: Of a stochastic gate, an integer or a
            `keras.random.SeedGenerator`. Defaults to `None`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        Any. Sparse tensors are made dense.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If the input is not one tensor.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> x = keras.Input((8, 8, 4))
    >>> h = keras.layers.Conv2D(4, 3, padding="same")(x)
    >>> h = kg.LayerGate(regularizer=kg.regularizers.L1(1e-3))(h)
    >>> model = keras.Model(x, keras.layers.Add()([x, h]))
    >>> model.output_shape
    (None, 8, 8, 4)
    """

    kind = "layer"
