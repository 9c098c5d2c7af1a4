"""DenseNet for CIFAR."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style


def densenet(
    depth: int = 40,
    growth: int = 12,
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """DenseNet without bottlenecks: three stages of 3x3 convolutions.

    Each layer reads all earlier layers of its stage; between stages there are a
    1x1 convolution and an average pooling. `densenet(40, 12)` has 1.02M
    parameters and 265M MACs; Network Slimming counts 533M FLOPs, two a MAC.

    Reference:

    - [Huang et al., 2017, Densely Connected Convolutional
      Networks](https://arxiv.org/abs/1608.06993)

    Args:
        depth: Integer, `3 n + 4`: 40, 100, ...
        growth: Integer, the filters of each 3x3 convolution.
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model. Defaults to "densenet" with the depth.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its convolutions are "stage1_layer1",
        ..., and "transition1", "transition2".

    Raises:
        ValueError: If `depth` is not `3 n + 4`.

    Example:
    >>> import keras_gates as kg
    >>> kg.stats.count(kg.zoo.densenet(40, 12)).trainable
    1019722
    """
    style = Style.from_options(options)
    blocks, rest = divmod(depth - 4, 3)
    if blocks < 1 or rest:
        raise ValueError(
            f"densenet can't have this depth. Received: depth={depth!r}. "
            "Expected: 3 n + 4, such as 40 or 100."
        )
    inputs = keras.Input(input_shape)
    x = style.conv(inputs, 16, name="conv1")
    for stage in range(1, 4):
        for number in range(1, blocks + 1):
            here = f"stage{stage}_layer{number}"
            y = style.norm_relu(x, here)
            y = style.conv(y, growth, name=here)
            join = layers.Concatenate(style.channels, name=f"{here}_concat")
            x = join([x, y])
        if stage < 3:
            here = f"transition{stage}"
            y = style.norm_relu(x, here)
            y = style.conv(y, x.shape[style.channels], 1, name=here)
            x = style.average_pool(y, name=f"{here}_pool")
    x = style.norm_relu(x, "last")
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name or f"densenet{depth}")
