"""A gate on the output of one branch."""

import keras

from keras_gates.layers.gate import Gate


@keras.saving.register_keras_serializable(package="keras_gates")
class BranchGate(Gate):
    """Multiplies the output of a branch by one factor.

    `outputs = factor * inputs`, where a branch is several layers between two
    ends of a shortcut: `h[l] = factor * f(h[l-n]) + h[l-n]`

    A closed gate removes all layers of the branch at once. In a residual
    network, the branch is the path parallel to the shortcut.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), equation 8

    Args:
        initializer: Initial value of the factor. Defaults to `"ones"`, which
            leaves the function of the model unchanged. `"uniform"` is uniform
            in (0, 1), as in the paper; `"random_uniform"` is the initializer of
            Keras, in (-0.05, 0.05).
        regularizer: Regularizer of the factor. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        constraint: Constraint of the factor. Defaults to `None`.
        stochastic: Whether the factor is drawn from the hard concrete
            distribution in training. Defaults to `False`.
        seed: Integer or `keras.random.SeedGenerator`, for a stochastic gate.
            Defaults to `None`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Input shape:
        Any. Sparse tensors are converted to dense ones.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If the input is not a single tensor.

    Example:
    >>> import keras
    >>> import keras_gates as kg
    >>> x = keras.Input((16,))
    >>> h = keras.layers.Dense(32, activation="relu")(x)
    >>> h = keras.layers.Dense(16)(h)
    >>> h = kg.BranchGate(regularizer=kg.regularizers.L1(1e-3))(h)
    >>> model = keras.Model(x, keras.layers.Add()([x, h]))
    >>> model.output_shape
    (None, 16)
    """

    kind = "branch"
