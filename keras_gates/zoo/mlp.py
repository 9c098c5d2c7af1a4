"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_gates.zoo.style import Style


def mlp(
    hidden: Sequence[int] = (500, 300),
    input_shape: tuple[int, ...] = (784,),
    classes: int = 10,
    norm: bool = False,
    name: str = "mlp",
    **options: Any,
) -> keras.Model:
    """Fully connected layers with ReLU; 784-500-300-10 by default.

    545,000 weights and as many MACs, biases aside. Network Slimming prunes
    it to 784-100-60-10.

    Reference:

    - [Liu et al., 2017, Learning Efficient Convolutional Networks through
      Network Slimming](https://arxiv.org/abs/1708.06519), table 3

    Args:
        hidden: Sequence of integers, the units of the hidden layers.
        input_shape: Shape of a sample. Images are flattened.
        classes: Integer, the number of classes.
        norm: Whether a batch normalization replaces each hidden layer's bias.
            It is recommended with gates, since it fixes the scale of what they
            multiply.
        name: Name of the model.
        **options: `l2`, `batch_norm`, `classifier_activation`; see
            `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its hidden layers are "fc1", "fc2", ...

    Raises:
        TypeError: If `hidden` is not a list or tuple.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.mlp()
    >>> kg.stats.count(model).macs
    545000
    """
    style = Style.from_options(options)
    if not isinstance(hidden, (list, tuple)):
        raise TypeError(
            "`hidden` must be a list with the units of each hidden layer. "
            f"Received: hidden={hidden!r}."
        )
    inputs = x = keras.Input(input_shape)
    if len(input_shape) > 1:
        x = style.flatten(x)
    for number, units in enumerate(hidden, 1):
        x = style.hidden(x, units, name=f"fc{number}", norm=norm)
    outputs = style.classify(x, classes, pool=False)
    return keras.Model(inputs, outputs, name=name)
