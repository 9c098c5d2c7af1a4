"""What the networks have in common: layout, initial weights, penalties."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import layers

# The papers' code is in PyTorch, whose "momentum 0.1" is 0.9 in Keras.
BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}


@dataclasses.dataclass(frozen=True)
class Style:
    """The options of all networks; see `keras_gates.zoo`.

    Each method applies layers to a tensor. An option that is no option
    raises a `TypeError` that lists them.
    """

    data_format: str | None = None
    l2: float = 0.0
    batch_norm: dict = dataclasses.field(default_factory=dict)
    classifier_activation: str | None = "softmax"

    @classmethod
    def of(cls, options: Any) -> Any:
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
    def layout(self) -> Any:
        return self.data_format or keras.config.image_data_format()

    @property
    def channels(self) -> Any:
        """The axis of the channels of a batch of images."""
        return 1 if self.layout == "channels_first" else 3

    def penalty(self) -> Any:
        return keras.regularizers.L2(self.l2) if self.l2 else None

    def conv(
        self,
        x: Any,
        filters: Any,
        size: Any = 3,
        strides: Any = 1,
        *,
        name: str,
        use_bias: Any = False,
    ) -> Any:
        """A convolution that keeps the size, up to its strides.

        At strides above 1 the padding is a layer of its own: the one that
        "same" chooses depends on the size and is not the papers'.
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
        self, x: Any, size: Any = 3, strides: Any = 1, *, name: str
    ) -> Any:
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

    def padded(self, x: Any, size: Any, strides: Any, name: str) -> Any:
        """`x`, and the padding that the layer `name` behind it wants."""
        if size == 1:
            return x, "valid"
        if strides == 1:
            return x, "same"
        pad = layers.ZeroPadding2D(
            size // 2, data_format=self.layout, name=f"{name}_pad"
        )
        return pad(x), "valid"

    def norm(self, x: Any, name: str) -> Any:
        axis = self.channels if len(x.shape) > 2 else -1
        return layers.BatchNormalization(
            axis, **{**BATCH_NORM, **self.batch_norm}, name=name
        )(x)

    def norm_relu(self, x: Any, name: str) -> Any:
        """Batch normalization and ReLU, named after the layer `name`."""
        return layers.ReLU(name=f"{name}_relu")(self.norm(x, f"{name}_bn"))

    def conv_norm(
        self,
        x: Any,
        filters: Any,
        size: Any = 3,
        strides: Any = 1,
        *,
        name: str,
    ) -> Any:
        x = self.conv(x, filters, size, strides, name=name)
        return self.norm(x, f"{name}_bn")

    def conv_norm_relu(
        self,
        x: Any,
        filters: Any,
        size: Any = 3,
        strides: Any = 1,
        *,
        name: str,
    ) -> Any:
        x = self.conv_norm(x, filters, size, strides, name=name)
        return layers.ReLU(name=f"{name}_relu")(x)

    def max_pool(
        self, x: Any, size: Any = 2, strides: Any = 2, *, name: str
    ) -> Any:
        return layers.MaxPooling2D(
            size, strides, data_format=self.layout, name=name
        )(x)

    def average_pool(
        self, x: Any, size: Any = 2, strides: Any = 2, *, name: str
    ) -> Any:
        return layers.AveragePooling2D(
            size, strides, data_format=self.layout, name=name
        )(x)

    def flatten(self, x: Any) -> Any:
        return layers.Flatten(data_format=self.layout, name="flatten")(x)

    def hidden(
        self, x: Any, units: Any, *, name: str, norm: Any = False
    ) -> Any:
        """A fully connected layer with ReLU, normalized in front of it."""
        x = layers.Dense(
            units,
            None if norm else "relu",
            use_bias=not norm,
            kernel_initializer=keras.initializers.HeNormal(),
            kernel_regularizer=self.penalty(),
            name=name,
        )(x)
        return self.norm_relu(x, name) if norm else x

    def classify(self, x: Any, classes: Any, pool: Any = True) -> Any:
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


def _he_normal() -> Any:
    """As He et al. start ResNet and Liu et al. VGG: by the fan-out.

    A new one each time: an initializer draws the same numbers again.
    """
    return keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal"
    )
