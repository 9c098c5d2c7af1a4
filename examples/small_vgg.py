"""A narrow VGG for CIFAR-10, for machines without a GPU."""

import keras
from keras import layers


def small_vgg(shape, decay, widths, pooled, **norm):
    """3x3 convolutions with batch normalizations, which returns logits.

    Args:
        shape: of the images.
        decay: L2 on kernels.
        widths: the filters of each convolution.
        pooled: the convolutions after which the size is halved, from 1 on.
        **norm: arguments of the batch normalizations.
    """
    inputs = x = keras.Input(shape)
    for number, filters in enumerate(widths, 1):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(decay),
            name=f"conv{number}",
        )(x)
        x = norm_relu(x, f"conv{number}", **norm)
        if number in pooled:
            x = layers.MaxPooling2D(name=f"pool{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def norm_relu(x, name, **options):
    """The statistics follow a short training at 0.9, not at 0.99."""
    options = {"momentum": 0.9, "name": f"{name}_bn", **options}
    x = layers.BatchNormalization(**options)(x)
    return layers.ReLU(name=f"{name}_relu")(x)
