"""MobileNet for CIFAR."""

from __future__ import annotations

from typing import Any

import keras

from keras_gates.zoo.style import Style

# Filters and strides of the pointwise and depthwise parts of each block.
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *[(512, 1)] * 5,
    *((1024, 2), (1024, 1)),
)


def mobilenet(
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str = "mobilenet",
    **options: Any,
) -> keras.Model:
    """MobileNet (version 1) for CIFAR: the first convolution has stride 1.

    13 blocks of a depthwise and a 1x1 convolution, each with batch
    normalization and ReLU. At 32x32: 3,217,226 trainable parameters and
    46.354M MACs. (47.18M, which papers state, counts each output of a
    normalization as two more.)

    Reference:

    - [Howard et al., 2017, MobileNets: Efficient Convolutional Neural Networks
      for Mobile Vision Applications](https://arxiv.org/abs/1704.04861)

    Args:
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; the convolutions of its blocks are
        "block1_depthwise", "block1_pointwise", ...

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.mobilenet()).trainable
    3217226
    """
    style = Style.from_options(options)
    inputs = keras.Input(input_shape)
    x = style.conv_norm_relu(inputs, 32, name="conv1")
    for number, (filters, strides) in enumerate(_BLOCKS, 1):
        here = f"block{number}"
        x = style.depthwise(x, 3, strides, name=f"{here}_depthwise")
        x = style.norm_relu(x, f"{here}_depthwise")
        x = style.conv_norm_relu(x, filters, 1, name=f"{here}_pointwise")
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name)
