"""The common parts of the networks: layout, initial weights, penalties."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import NamedTuple

import keras
from keras import layers

# The papers' code is in PyTorch, whose "momentum 0.1" is 0.9 in Keras.
BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}


class Padded(NamedTuple):
    """A tensor, and the `padding` of the layer that reads it."""

    tensor: keras.KerasTensor
    padding: str


@dataclasses.dataclass(frozen=True)
class Style:
    """The options of all networks; see `keras_gates.zoo`.

    Each method applies layers to a tensor. An unknown option raises a
    `TypeError` that lists them.
    """

    data_format: str | None = None
    l2: float = 0.0
    batch_norm: dict[str, Any] = dataclasses.field(default_factory=dict)
    classifier_activation: str | None = "softmax"

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Style:
        """The style for the keyword arguments of a network."""
        known = [field.name for field in dataclasses.fields(cls)]
        strange = [name for name in options if name not in known]
        if strange:
            raise TypeError(
                f"No network of the zoo takes {strange}. Expected: options "
                f"from {known}, or the network's own arguments."
            )
        return cls(**options)

    @property
    def layout(self) -> str:
        default: str = keras.config.image_data_format()
        return self.data_format or default

    @property
    def channels(self) -> int:
        """The channel axis of a batch of images."""
        return 1 if self.layout == "channels_first" else 3

    def penalty(self) -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L2(self.l2) if self.l2 else None

    def conv(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int = 3,
        strides: int = 1,
        *,
        name: str,
        use_bias: bool = False,
    ) -> keras.KerasTensor:
        """A convolution that keeps the size, up to its strides.

        With strides above 1, the padding is a separate layer, since "same"
        depends on the size and differs from the papers.
        """
        x, padding = self.padded(x, size, strides, name)
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding,
            data_format=self.layout,
            use_bias=use_bias,
            kernel_initializer=_he_normal(),
            kernel_regularizer=self.penalty(),
            name=name,
        )(x)

    def depthwise(
        self,
        x: keras.KerasTensor,
        size: int = 3,
        strides: int = 1,
        *,
        name: str,
    ) -> keras.KerasTensor:
        x, padding = self.padded(x, size, strides, name)
        return layers.DepthwiseConv2D(
            size,
            strides,
            padding,
            data_format=self.layout,
            use_bias=False,
            depthwise_initializer=_he_normal(),
            depthwise_regularizer=self.penalty(),
            name=name,
        )(x)

    def padded(
        self, x: keras.KerasTensor, size: int, strides: int, name: str
    ) -> Padded:
        """The input of the layer `name`, and its padding."""
        if size == 1:
            return Padded(x, "valid")
        if strides == 1:
            return Padded(x, "same")
        pad = layers.ZeroPadding2D(
            size // 2, data_format=self.layout, name=f"{name}_pad"
        )
        return Padded(pad(x), "valid")

    def norm(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        axis = self.channels if len(x.shape) > 2 else -1
        return layers.BatchNormalization(
            axis, **{**BATCH_NORM, **self.batch_norm}, name=name
        )(x)

    def norm_relu(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        """Batch normalization and ReLU, named after the layer `name`."""
        return layers.ReLU(name=f"{name}_relu")(self.norm(x, f"{name}_bn"))

    def conv_norm(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int = 3,
        strides: int = 1,
        *,
        name: str,
    ) -> keras.KerasTensor:
        x = self.conv(x, filters, size, strides, name=name)
        return self.norm(x, f"{name}_bn")

    def conv_norm_relu(
        self,
        x: keras.KerasTensor,
        filters: int,
        size: int = 3,
        strides: int = 1,
        *,
        name: str,
    ) -> keras.KerasTensor:
        x = self.conv_norm(x, filters, size, strides, name=name)
        return layers.ReLU(name=f"{name}_relu")(x)

    def max_pool(
        self,
        x: keras.KerasTensor,
        size: int = 2,
        strides: int = 2,
        *,
        name: str,
    ) -> keras.KerasTensor:
        return layers.MaxPooling2D(
            size, strides, data_format=self.layout, name=name
        )(x)

    def average_pool(
        self,
        x: keras.KerasTensor,
        size: int = 2,
        strides: int = 2,
        *,
        name: str,
    ) -> keras.KerasTensor:
        return layers.AveragePooling2D(
            size, strides, data_format=self.layout, name=name
        )(x)

    def flatten(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Flatten(data_format=self.layout, name="flatten")(x)

    def hidden(
        self, x: keras.KerasTensor, units: int, *, name: str, norm: bool = False
    ) -> keras.KerasTensor:
        """A fully connected layer with ReLU, normalized before it."""
        x = layers.Dense(
            units,
            None if norm else "relu",
            use_bias=not norm,
            kernel_initializer=keras.initializers.HeNormal(),
            kernel_regularizer=self.penalty(),
            name=name,
        )(x)
        return self.norm_relu(x, name) if norm else x

    def classify(
        self, x: keras.KerasTensor, classes: int, pool: bool = True
    ) -> keras.KerasTensor:
        """Global average pooling, if wanted, and the last Dense layer."""
        if pool:
            x = layers.GlobalAveragePooling2D(
                data_format=self.layout, name="pool"
            )(x)
        return layers.Dense(
            classes,
            self.classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.01),
            kernel_regularizer=self.penalty(),
            name="classifier",
        )(x)


def _he_normal() -> keras.initializers.Initializer:
    """He initialization by fan-out, as in the papers on ResNet and VGG.

    A new one each time, since an initializer draws the same numbers again.
    """
    return keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal"
    )
