"""ResNet in the forms for ImageNet."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style


def resnet18(
    input_shape: Any = (224, 224, 3),
    classes: Any = 1000,
    name: str = "resnet18",
    **options: Any,
) -> Any:
    """ResNet-18 for ImageNet: basic blocks, 1x1 projections between stages.

    At 224x224: 1.8141G MACs and 11,689,512 trainable parameters.

    Reference:

    - [He et al., 2016, Deep Residual Learning for Image
      Recognition](https://arxiv.org/abs/1512.03385)

    Args:
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are "stage1_block1_conv1",
        "stage1_block1_conv1_bn", ...

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.resnet18()).trainable
    11689512
    """
    return _resnet((2, 2, 2, 2), _basic, 1, input_shape, classes, name, options)


def resnet50(
    input_shape: Any = (224, 224, 3),
    classes: Any = 1000,
    name: str = "resnet50",
    **options: Any,
) -> Any:
    """ResNet-50 for ImageNet: bottleneck blocks.

    A block's stride is that of its 3x3 convolution, as in PyTorch and in
    most papers that prune it ("version 1.5"); `keras.applications` has it
    on the 1x1 in front. At 224x224: 4.089G MACs and 25,557,032 trainable
    parameters.

    Reference:

    - [He et al., 2016, Deep Residual Learning for Image
      Recognition](https://arxiv.org/abs/1512.03385)

    Args:
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are "stage1_block1_conv1",
        "stage1_block1_conv1_bn", ...

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.resnet50()).trainable
    25557032
    """
    return _resnet(
        (3, 4, 6, 3), _bottleneck, 4, input_shape, classes, name, options
    )


def _resnet(
    depths: Any,
    branch: Any,
    widening: Any,
    input_shape: Any,
    classes: Any,
    name: str,
    options: Any,
) -> Any:
    style = Style.of(options)
    inputs = keras.Input(input_shape)
    x = style.conv_norm_relu(inputs, 64, 7, 2, name="conv1")
    x, _ = style.padded(x, 3, 2, "pool1")
    x = style.max_pool(x, 3, 2, name="pool1")
    for stage, depth in enumerate(depths, 1):
        filters = 32 * 2**stage
        for number in range(1, depth + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            here = f"stage{stage}_block{number}"
            y = branch(style, x, filters, strides, here)
            if number == 1 and y.shape != x.shape:
                width = widening * filters
                to = f"{here}_shortcut"
                x = style.conv_norm(x, width, 1, strides, name=to)
            x = layers.Add(name=f"{here}_add")([x, y])
            x = layers.ReLU(name=f"{here}_relu")(x)
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name)


def _basic(style: Any, x: Any, filters: Any, strides: Any, name: str) -> Any:
    x = style.conv_norm_relu(x, filters, 3, strides, name=f"{name}_conv1")
    return style.conv_norm(x, filters, name=f"{name}_conv2")


def _bottleneck(
    style: Any, x: Any, filters: Any, strides: Any, name: str
) -> Any:
    x = style.conv_norm_relu(x, filters, 1, name=f"{name}_conv1")
    x = style.conv_norm_relu(x, filters, 3, strides, name=f"{name}_conv2")
    return style.conv_norm(x, 4 * filters, 1, name=f"{name}_conv3")
