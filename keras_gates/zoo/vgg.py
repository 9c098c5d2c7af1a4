"""VGG with batch normalization, for CIFAR."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style

_FILTERS = (64, 128, 256, 512, 512)


def vgg16(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    hidden: Sequence[int] = (512,),
    dropout: float = 0.0,
    name: str = "vgg16",
    **options: Any,
) -> keras.Model:
    """VGG-16 with batch normalization after each of 13 convolutions.

    At 32x32 the convolutions cost 313,196,544 MACs. With its 512-512-10
    head it has 14,986,698 trainable parameters; with `hidden=()`, the
    512-10 head, 14,724,042. Convolutions have no bias.

    Haider and Taj train it with `l2=0.05` and `dropout=0.5`.

    Reference:

    - [Simonyan and Zisserman, 2015, Very Deep Convolutional Networks for
      Large-Scale Image Recognition](https://arxiv.org/abs/1409.1556)
    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623)

    Args:
        input_shape: Shape of an image, 32 pixels or more each way.
        classes: Integer, the number of classes.
        hidden: Sequence of integers, the units of the fully connected layers
            before the classifier.
        dropout: Rate of the dropout after the first of them.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its convolutions are "conv1_1" to
        "conv5_3", with "_bn" and "_relu" layers named after them.

    Raises:
        ValueError: If the images are smaller than 32 pixels.

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.vgg16(hidden=())).trainable
    14724042
    """
    style = Style.from_options(options)
    inputs = keras.Input(input_shape)
    x = _features(style, inputs, (2, 2, 3, 3, 3), style.max_pool, name)
    return _headed(style, inputs, x, classes, hidden, dropout, name)


def vgg19(
    input_shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    name: str = "vgg19",
    **options: Any,
) -> keras.Model:
    """VGG-19 with batch normalization, as Network Slimming has it.

    16 convolutions without bias; the last of the five poolings takes the
    average. At 32x32 the convolutions cost 398.13M MACs, and with the plain
    512-10 head it has 20,035,018 trainable parameters.

    Reference:

    - [Liu et al., 2017, Learning Efficient Convolutional Networks through
      Network Slimming](https://arxiv.org/abs/1708.06519)

    Args:
        input_shape: Shape of an image, 32 pixels or more each way.
        classes: Integer, the number of classes.
        hidden: Sequence of integers, the units of fully connected layers
            before the classifier.
        dropout: Rate of the dropout after the first of them.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its convolutions are "conv1_1" to
        "conv5_4", with "_bn" and "_relu" layers named after them.

    Raises:
        ValueError: If the images are smaller than 32 pixels.

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.vgg19()).trainable
    20035018
    """
    style = Style.from_options(options)
    inputs = keras.Input(input_shape)
    x = _features(style, inputs, (2, 2, 4, 4, 4), style.average_pool, name)
    return _headed(style, inputs, x, classes, hidden, dropout, name)


def _features(
    style: Style,
    x: keras.KerasTensor,
    depths: Sequence[int],
    last_pool: Callable[..., Any],
    name: str,
) -> keras.KerasTensor:
    """Five stages of 3x3 convolutions, each with a 2x2 pooling after it."""
    sides = [s for a, s in enumerate(x.shape) if a not in (0, style.channels)]
    if any(side is not None and side < 32 for side in sides):
        raise ValueError(
            f"Model '{name}' halves an image five times. Received: images of "
            f"{sides} pixels. Expected: at least 32 in each direction. Pad or "
            "enlarge the images, and pass their shape as `input_shape`."
        )
    for stage, (filters, depth) in enumerate(
        zip(_FILTERS, depths, strict=True), 1
    ):
        for number in range(1, depth + 1):
            x = style.conv_norm_relu(x, filters, name=f"conv{stage}_{number}")
        pool = style.max_pool if stage < len(depths) else last_pool
        x = pool(x, name=f"pool{stage}")
    return x


def _headed(
    style: Style,
    inputs: keras.KerasTensor,
    x: keras.KerasTensor,
    classes: int,
    hidden: Sequence[int],
    dropout: float,
    name: str,
) -> keras.Model:
    x = style.flatten(x)
    for number, units in enumerate(hidden, 1):
        x = style.hidden(x, units, name=f"fc{number}")
        if dropout and number == 1:
            x = layers.Dropout(dropout, name="dropout")(x)
    outputs = style.classify(x, classes, pool=False)
    return keras.Model(inputs, outputs, name=name)
