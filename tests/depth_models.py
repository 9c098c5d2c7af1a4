"""Transformers of blocks, as libraries write them: for tests of depth."""

import keras
import numpy as np
from keras import layers as L

WIDTH, HIDDEN, LENGTH = 8, 16, 6


@keras.saving.register_keras_serializable("depth")
class Block(L.Layer):
    """Attention and two layers, each with a way around it."""

    def __init__(self, hidden, post=False, **options):
        super().__init__(**options)
        self.hidden, self.post = hidden, post
        self.attention = L.MultiHeadAttention(2, WIDTH // 2, name="attention")
        self.norms = [L.LayerNormalization(name=f"norm_{n}") for n in (1, 2)]
        self.wide = L.Dense(hidden, activation="gelu", name="wide")
        self.narrow = L.Dense(WIDTH, name="narrow")

    def build(self, x_shape, allowed_shape=None):
        self.attention.build(x_shape, x_shape)
        for layer in (*self.norms, self.wide):
            layer.build(x_shape)
        self.narrow.build((*x_shape[:-1], self.hidden))
        self.built = True

    def call(self, x, allowed=None):
        if allowed is not None:
            allowed = keras.ops.cast(allowed, "bool")[:, None, :]
        first, second = self.norms
        if self.post:
            x = first(x + self.attention(x, x, attention_mask=allowed))
            return second(x + self.narrow(self.wide(x)))
        y = first(x)
        x = x + self.attention(y, y, attention_mask=allowed)
        return x + self.narrow(self.wide(second(x)))

    def compute_output_shape(self, x_shape, allowed_shape=None):
        return x_shape

    def get_config(self):
        own = {"hidden": self.hidden, "post": self.post}
        return {**super().get_config(), **own}


def stack(count=3, post=False, masked=False, shared=False, length=LENGTH):
    """A functional model of a loop over blocks."""
    inputs = [keras.Input((length, 5), name="x")]
    if masked:
        inputs.append(keras.Input((length,), name="mask", dtype="int32"))
    x = L.Dense(WIDTH, name="embed")(inputs[0])
    block = Block(HIDDEN, post, name="block")
    for number in range(count):
        if not shared:
            block = Block(HIDDEN, post, name=f"block_{number}")
        x = block(x, allowed=inputs[1]) if masked else block(x)
    x = L.LayerNormalization(name="last")(x)
    x = L.Dense(3, name="logits")(L.GlobalAveragePooling1D()(x))
    return keras.Model(inputs if masked else inputs[0], x)


@keras.saving.register_keras_serializable("depth")
class Backbone(keras.Model):
    """A functional model whose constructor makes its blocks."""

    def __init__(self, num_layers, hidden=HIDDEN, post=False, **options):
        inputs = keras.Input((LENGTH, 5), name="x")
        x = L.Dense(WIDTH, name="embed")(inputs)
        blocks = [
            Block(hidden, post, name=f"block_{n}") for n in range(num_layers)
        ]
        for block in blocks:
            x = block(x)
        x = L.LayerNormalization(name="last")(x)
        super().__init__(inputs, x, **options)
        self.num_layers, self.hidden, self.post = num_layers, hidden, post

    def get_config(self):
        return {
            "name": self.name,
            "num_layers": self.num_layers,
            "hidden": self.hidden,
            "post": self.post,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def randomized(model, seed=0):
    """The model with random weights, normalizations included."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        shift = 1.0 if weight.name == "gamma" else 0.0
        weight.assign(0.3 * random.normal(size=weight.shape) + shift)
    return model


def left(model, count, blocks):
    """The weights of a model of some of `count` blocks, moved up."""
    names = [f"block_{n}" for n in range(count)]
    gone = [name for n, name in enumerate(names) if n not in blocks]
    return [
        keras.ops.convert_to_numpy(weight)
        for layer in model.layers
        if layer.name not in gone
        for weight in layer.weights
    ]
