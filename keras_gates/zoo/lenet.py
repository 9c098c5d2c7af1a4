"""LeNet."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style


def lenet5(
    input_shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    name: str = "lenet5",
    **options: Any,
) -> keras.Model:
    """LeNet-5 as in Caffe: 20-50-800-500, for MNIST.

    Two 5x5 convolutions without padding, each with ReLU and 2x2 max pooling,
    and a hidden layer of 500 units: 430,500 weights, biases aside, and
    2.293M MACs. Caffe's version has a ReLU only after the hidden layer; papers
    that prune it have one after each layer.

    Reference:

    - [LeCun et al., 1998, Gradient-Based Learning Applied to Document
      Recognition](http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf)

    Args:
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model.
        **options: `data_format`, `l2`, `classifier_activation`; see
            `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`.

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.lenet5()).macs
    2293000
    """
    style = Style.from_options(options)
    inputs = x = keras.Input(input_shape)
    for number, filters in enumerate((20, 50), 1):
        x = layers.Conv2D(
            filters,
            5,
            data_format=style.layout,
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(),
            kernel_regularizer=style.penalty(),
            name=f"conv{number}",
        )(x)
        x = style.max_pool(x, name=f"pool{number}")
    x = style.hidden(style.flatten(x), 500, name="fc1")
    outputs = style.classify(x, classes, pool=False)
    return keras.Model(inputs, outputs, name=name)
