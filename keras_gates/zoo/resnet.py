"""ResNet for CIFAR, with and without shortcuts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
from keras import layers
from keras import ops

from keras_gates.zoo.style import Style

# A function of a style, a block's input and output, its strides, and a name.
Join: TypeAlias = Callable[
    [Style, keras.KerasTensor, keras.KerasTensor, int, str], keras.KerasTensor
]
_SHORTCUTS = ("identity", "pad", "projection")


def resnet(
    depth: int = 20,
    shortcut: str = "pad",
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """ResNet for CIFAR: three stages of basic blocks, of 16 to 64 channels.

    At 32x32, in millions:

    | depth | MACs | with projections | trainable parameters | with those |
    | --- | --- | --- | --- | --- |
    | 20 | 40.551 | 40.813 | 0.2697 | 0.2725 |
    | 32 | 68.863 | 69.125 | 0.4642 | 0.4669 |
    | 56 | 125.486 | 125.748 | 0.8530 | 0.8558 |
    | 110 | 252.888 | 253.150 | 1.7280 | 1.7307 |

    Reference:

    - [He et al., 2016, Deep Residual Learning for Image
      Recognition](https://arxiv.org/abs/1512.03385), section 4.2

    Args:
        depth: Integer, `6 n + 2`: 20, 32, 44, 56, 110, 1202, ...
        shortcut: The shortcut of blocks that change the shape (all others have
            the identity). `"pad"`: every second pixel, with zeros for the new
            channels, the paper's option A. `"projection"`: a 1x1 convolution
            with batch normalization, its option B. `"identity"`: none, so that
            all shortcuts of the model are identities.
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model. Defaults to "resnet" with the depth.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are "stage1_block1_conv1",
        "stage1_block1_conv1_bn", ...

    Raises:
        ValueError: If `depth` is not `6 n + 2`, or `shortcut` none of the
            three.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.resnet(20, shortcut="projection")
    >>> round(kg.stats.count(model).macs / 1e6, 3)
    40.813
    """
    if shortcut not in _SHORTCUTS:
        raise ValueError(
            f"Unknown shortcut. Received: shortcut={shortcut!r}. Expected: "
            f"one of {_SHORTCUTS}. For a network without shortcuts, use "
            "`plain_resnet`."
        )
    join = {"identity": _same, "pad": _pad, "projection": _project}[shortcut]
    name = name or f"resnet{depth}"
    return _stages(depth, join, input_shape, classes, name, options)


def plain_resnet(
    depth: int = 20,
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """The layers of `resnet` without its shortcuts.

    Reference:

    - [He et al., 2016, Deep Residual Learning for Image
      Recognition](https://arxiv.org/abs/1512.03385), section 4.2

    Args:
        depth: Integer, `6 n + 2`: 20, 32, 44, 56, 110, ...
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model. Defaults to "plain_resnet" with the depth.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are named as in `resnet`.

    Raises:
        ValueError: If `depth` is not `6 n + 2`.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.plain_resnet(20)
    >>> round(kg.stats.count(model).macs / 1e6, 3)
    40.551
    """
    name = name or f"plain_resnet{depth}"
    return _stages(depth, None, input_shape, classes, name, options)


def _stages(
    depth: int,
    join: Join | None,
    input_shape: tuple[int | None, ...],
    classes: int,
    name: str,
    options: dict[str, Any],
) -> keras.Model:
    """The network; `join` adds the shortcut of a block, None where none."""
    style = Style.from_options(options)
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(
            f"Model '{name}' can't have this depth. Received: "
            f"depth={depth!r}. Expected: 6 n + 2, such as 20, 32, 56 or 110."
        )
    inputs = keras.Input(input_shape)
    x = style.conv_norm_relu(inputs, 16, name="conv1")
    for stage, filters in enumerate((16, 32, 64), 1):
        for number in range(1, blocks + 1):
            here = f"stage{stage}_block{number}"
            strides = 2 if stage > 1 and number == 1 else 1
            y = style.conv_norm_relu(
                x, filters, 3, strides, name=f"{here}_conv1"
            )
            y = style.conv_norm(y, filters, name=f"{here}_conv2")
            x = join(style, x, y, strides, here) if join else y
            x = layers.ReLU(name=f"{here}_relu")(x)
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name)


def _same(
    style: Style,
    x: keras.KerasTensor,
    y: keras.KerasTensor,
    strides: int,
    name: str,
) -> keras.KerasTensor:
    if x.shape != y.shape:
        return y
    return layers.Add(name=f"{name}_add")([x, y])


def _project(
    style: Style,
    x: keras.KerasTensor,
    y: keras.KerasTensor,
    strides: int,
    name: str,
) -> keras.KerasTensor:
    if x.shape != y.shape:
        width = y.shape[style.channels]
        to = f"{name}_shortcut"
        x = style.conv_norm(x, width, 1, strides, name=to)
    return layers.Add(name=f"{name}_add")([x, y])


def _pad(
    style: Style,
    x: keras.KerasTensor,
    y: keras.KerasTensor,
    strides: int,
    name: str,
) -> keras.KerasTensor:
    if x.shape != y.shape:
        # A pool of size 1 takes every second pixel.
        x = style.average_pool(x, 1, strides, name=f"{name}_shortcut")
        widths = [(0, 0)] * 4
        new = y.shape[style.channels] - x.shape[style.channels]
        widths[style.channels] = (0, new)
        x = ops.pad(x, widths)
    return layers.Add(name=f"{name}_add")([x, y])
