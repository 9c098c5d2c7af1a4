"""Layers of a user, and activations that Keras does not know.

Each class is a way in which a layer can be more, or less, than its config
says. `MIXES` tells the judge which of them read all channels of their input.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops


class Times(L.Layer):
    """Its config forgets an argument."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()


class Table(L.Layer):
    """It holds an array, and has no config at all."""

    def __init__(self, table):
        super().__init__()
        self.table = np.asarray(table, "float32")

    def call(self, x):
        return x * ops.cast(self.table, x.dtype)


class Bare(L.Layer):
    """A layer inside, and no config."""

    def __init__(self, width):
        super().__init__()
        self.inner = L.Dense(width, activation="tanh")

    def call(self, x):
        return self.inner(x)


class ByPosition(L.Layer):
    """The shape of its weight is given by position."""

    def build(self, shape):
        self.gain = self.add_weight(
            (shape[-1],), initializer="ones", name="gain"
        )

    def call(self, x):
        return x * self.gain


class Unnamed(L.Layer):
    """Two weights, neither of which has a name."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.width))
        self.b = self.add_weight(shape=(self.width,))

    def call(self, x):
        return ops.matmul(x, self.w) + self.b

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Block(L.Layer):
    """Layers inside, written as most users write them."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.norm = L.LayerNormalization()
        self.up = L.Dense(2 * width, activation="gelu")
        self.down = L.Dense(width)

    def call(self, x, training=None):
        return self.down(self.up(self.norm(x)), training=training)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Doubled(L.Dense):
    """A subclass of a layer of Keras that computes something else."""

    def call(self, x, training=None):
        return 2.0 * super().call(x)


class Noted(L.Dense):
    """A subclass of a layer of Keras that computes the same."""

    def __init__(self, units, note="", **kwargs):
        super().__init__(units, **kwargs)
        self.note = note


class Flipped(L.Layer):
    """No weights, and channels that change places."""

    def call(self, x):
        return ops.flip(x, -1) * x


class Model(keras.Model):
    """A functional model of a user's class."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


MIXES = (Bare, Unnamed, Block, Doubled, Noted)


def gelu(x):
    """A function with the name of one of Keras', and other values."""
    return x * ops.sigmoid(1.702 * x)


def relu(x):
    return ops.maximum(x, 0.2 * x) + 0.1


def own(x):
    return ops.tanh(x) * 0.7 + 0.2 * x


ACTIVATIONS = {
    "own activation": [gelu, relu, own],
    "operation as activation": [ops.relu, ops.gelu, ops.silu, ops.tanh],
    "function of Keras": [
        keras.activations.softsign,
        keras.activations.swish,
        keras.activations.mish,
    ],
    "named activation": ["selu", "exponential", "softsign", "hard_silu"],
    "mixing activation": ["softmax"],
}
INSTANCES = {
    "layer as activation": [
        lambda: L.ReLU(max_value=1.5),
        lambda: L.LeakyReLU(negative_slope=0.3),
        lambda: L.ELU(),
        lambda: L.Activation(own),
    ],
    "lambda as activation": [lambda: lambda x: ops.square(x) * 0.3],
}


# Pieces: a draw and a tensor in, a tensor out -----------------------------


def custom_elementwise(d, x):
    kinds = [
        lambda: Times(1.5),
        lambda: Table(np.linspace(0.5, 1.5, x.shape[-1])),
        lambda: ByPosition(),
        lambda: changed(Times(0.5), factor=1.7),
        lambda: Flipped(),
    ]
    layer = d.pick(kinds)()
    d.note(f"custom {type(layer).__name__}")
    return layer(x)


def custom_mixing(d, x):
    width = d.width()
    kinds = [
        lambda: Bare(width),
        lambda: Unnamed(width),
        lambda: Block(width),
        lambda: Doubled(width),
        lambda: Noted(width, note="of mine", activation="relu"),
    ]
    layer = d.pick(kinds)()
    d.note(f"custom {type(layer).__name__}")
    return layer(x)


def changed(layer, **attributes):
    """The layer with attributes that its constructor was not given."""
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def changed_afterwards(d, x):
    """A layer of Keras whose attributes were changed after it was made."""
    kinds = [
        lambda: changed(L.Dense(d.width()), activation=own),
        lambda: changed(L.Dense(d.width()), activation=ops.tanh),
        lambda: changed(L.LeakyReLU(), negative_slope=0.6),
        lambda: changed(L.BatchNormalization(), epsilon=0.3),
        lambda: changed(L.Activation("relu"), activation=own),
        lambda: changed(L.Rescaling(0.5), scale=0.9),
    ]
    return d.pick(kinds)()(x)
