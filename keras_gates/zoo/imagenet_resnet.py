"""ResNets for ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
from keras import layers

from keras_gates.zoo.style import Style

# A function of a style, the input, the filters, the strides, and a name.
Branch: TypeAlias = Callable[
    [Style, keras.KerasTensor, int, int, str], keras.KerasTensor
]


def resnet18(
    input_shape: tuple[int | None, ...] = (224, 224, 3),
    classes: int = 1000,
    name: str = "resnet18",
    **options: Any,
) -> keras.Model:
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
    input_shape: tuple[int | None, ...] = (224, 224, 3),
    classes: int = 1000,
    name: str = "resnet50",
    **options: Any,
) -> keras.Model:
    """ResNet-50 for ImageNet: bottleneck blocks.

    A block's stride is that of its 3x3 convolution, as in PyTorch and in
    most papers that prune it ("version 1.5"); `keras.applications` has it on
    the preceding 1x1 convolution. At 224x224: 4.089G MACs and 25,557,032
    trainable parameters.

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
    depths: Sequence[int],
    branch: Branch,
    widening: int,
    input_shape: tuple[int | None, ...],
    classes: int,
    name: str,
    options: dict[str, Any],
) -> keras.Model:
    style = Style.from_options(options)
    inputs = keras.Input(input_shape)
    x = style.conv_norm_relu(inputs, 64, 7, 2, name="conv1")
    x = style.padded(x, 3, 2, "pool1").tensor
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


def _basic(
    style: Style, x: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    x = style.conv_norm_relu(x, filters, 3, strides, name=f"{name}_conv1")
    return style.conv_norm(x, filters, name=f"{name}_conv2")


def _bottleneck(
    style: Style, x: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    x = style.conv_norm_relu(x, filters, 1, name=f"{name}_conv1")
    x = style.conv_norm_relu(x, filters, 3, strides, name=f"{name}_conv2")
    return style.conv_norm(x, 4 * filters, 1, name=f"{name}_conv3")
