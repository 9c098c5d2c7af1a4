"""A small Inception, for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_gates.zoo.style import Style

# Filters of the 1x1 and the 3x3 convolution of a block; one number for the
# convolution of a downsampling block.
_MODULES = (
    *((32, 32), (32, 48), 80),
    *((112, 48), (96, 64), (80, 80), (48, 96), 96),
    *((176, 160), (176, 160)),
)


def inception(
    modules: Sequence[int | tuple[int, int]] = _MODULES,
    input_shape: tuple[int | None, ...] = (32, 32, 3),
    classes: int = 10,
    name: str = "inception",
    **options: Any,
) -> keras.Model:
    """A small Inception: blocks of two parallel convolutions.

    A first 3x3 convolution of 96 filters, then eight blocks of a 1x1 and a 3x3
    convolution in parallel, and two that halve the size with a strided 3x3
    convolution in parallel with a max pooling. Each convolution has batch
    normalization and ReLU. 1,651,114 trainable parameters; the paper states
    1,649,402, which is without the normalizations' gammas
    (`batch_norm={"scale": False}`). It trains on images of 28x28.

    Reference:

    - [Zhang et al., 2017, Understanding Deep Learning Requires Rethinking
      Generalization](https://arxiv.org/abs/1611.03530), figure 3

    Args:
        modules: The blocks in order: a pair, the filters of the 1x1 and of
            the 3x3 convolution; or a number, those of the convolution of a
            block that halves the size.
        input_shape: Shape of an image.
        classes: Integer, the number of classes.
        name: Name of the model.
        **options: `data_format`, `l2`, `batch_norm`,
            `classifier_activation`; see `keras_gates.zoo`.

    Returns:
        A functional `keras.Model`; its layers are "conv1", "block1_1x1",
        "block1_3x3", "block1_concat", ...

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.inception(batch_norm={"scale": False})
    >>> kg.stats.count(model).trainable
    1649402
    """
    style = Style.from_options(options)
    inputs = keras.Input(input_shape)
    x = style.conv_norm_relu(inputs, 96, name="conv1")
    for number, filters in enumerate(modules, 1):
        here = f"block{number}"
        if isinstance(filters, int):
            both = _halving(style, x, filters, here)
        else:
            both = _parallel(style, x, filters, here)
        x = layers.Concatenate(style.channels, name=f"{here}_concat")(both)
    outputs = style.classify(x, classes)
    return keras.Model(inputs, outputs, name=name)


def _parallel(
    style: Style, x: keras.KerasTensor, filters: tuple[int, int], name: str
) -> list[keras.KerasTensor]:
    point, wide = filters
    return [
        style.conv_norm_relu(x, point, 1, name=f"{name}_1x1"),
        style.conv_norm_relu(x, wide, 3, name=f"{name}_3x3"),
    ]


def _halving(
    style: Style, x: keras.KerasTensor, filters: int, name: str
) -> list[keras.KerasTensor]:
    y = style.conv_norm_relu(x, filters, 3, 2, name=f"{name}_3x3")
    x = style.padded(x, 3, 2, f"{name}_pool").tensor
    return [y, style.max_pool(x, 3, 2, name=f"{name}_pool")]
