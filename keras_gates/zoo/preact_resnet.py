"""Pre-activation ResNet for CIFAR."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style


def preact_resnet(
    depth: int = 164,
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """ResNet with the activations first, of bottleneck blocks.

    Three stages of 64, 128 and 256 channels. A block is batch
    normalization, ReLU and convolution three times (1x1, 3x3, 1x1); the
    first block of a stage has a 1x1 convolution on its shortcut, as in the
    code of Network Slimming. `preact_resnet(164)` has 1.70M parameters and
    248M MACs; Network Slimming counts 499M FLOPs, two a MAC.

    Reference:

    - [He et al., 2016, Identity Mappings in Deep Residual
      Networks](https://arxiv.org/abs/1603.05027)

    Args:
        depth: Integer, `9 n + 2`: 164, 1001, ...
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model. Defaults to "preact_resnet" with the depth.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are "stage1_block1_conv1",
        "stage1_block1_conv1_bn", ...

    Raises:
        ValueError: If `depth` is not `9 n + 2`.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.preact_resnet(20)
    >>> [layer.name for layer in model.layers[2:4]]
    ['stage1_block1_conv1_bn', 'stage1_block1_conv1_relu']
    """
    style = Style.from_options(options)
    blocks, rest = divmod(depth - 2, 9)
    if blocks < 1 or rest:
        raise ValueError(
            f"preact_resnet can't have this depth. Received: depth={depth!r}. "
            "Expected: 9 n + 2, such as 164 or 1001."
        )
    inputs = keras.Input(input_shape)
    x = style.conv(inputs, 16, name="conv1")
    for stage, filters in enumerate((16, 32, 64), 1):
        for number in range(1, blocks + 1):
            strides = 2 if stage > 1 and number == 1 else 1
            here = f"stage{stage}_block{number}"
            x = _block(style, x, filters, strides, number == 1, here)
    x = style.norm_relu(x, "last")
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name or f"preact_resnet{depth}")


def _block(
    style: Style,
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    first: bool,
    name: str,
) -> keras.KerasTensor:
    shortcut = x
    if first:
        here = f"{name}_shortcut"
        shortcut = style.conv(x, 4 * filters, 1, strides, name=here)
    parts = ((filters, 1, 1), (filters, 3, strides), (4 * filters, 1, 1))
    for number, (width, size, step) in enumerate(parts, 1):
        here = f"{name}_conv{number}"
        x = style.norm_relu(x, here)
        x = style.conv(x, width, size, step, name=here)
    return layers.Add(name=f"{name}_add")([shortcut, x])
