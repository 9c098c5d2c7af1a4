"""Subclassed models as people write them, each with inputs for it."""

import keras
import numpy as np
from keras import layers as L
from keras import ops


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__(name="autoencoder")
        self.encoder = keras.Sequential(
            [L.Dense(16, activation="relu"), L.Dense(6, activation="relu")],
            name="encoder",
        )
        self.decoder = keras.Sequential(
            [L.Dense(16, activation="relu"), L.Dense(10)], name="decoder"
        )

    def call(self, x):
        return self.decoder(self.encoder(x))


class Block(keras.Model):
    """Two convolutions with a shortcut."""

    def __init__(self, filters, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.convs = [
            L.Conv2D(filters, 3, s, padding="same", use_bias=False)
            for s in (stride, 1)
        ]
        self.norms = [L.BatchNormalization() for _ in self.convs]
        self.shortcut = L.Conv2D(filters, 1, stride) if stride > 1 else None

    def call(self, x, training=None):
        y = x
        for number, (conv, norm) in enumerate(
            zip(self.convs, self.norms, strict=True)
        ):
            y = norm(conv(y), training=training)
            if number == 0:
                y = ops.relu(y)
        return ops.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(keras.Model):
    """Blocks in a list; dropout in training only, as Keras' guides have it."""

    def __init__(self):
        super().__init__(name="resnet")
        self.stem = L.Conv2D(8, 3, padding="same", name="stem")
        self.blocks = [
            Block(8, name="first"),
            Block(12, 2, name="second"),
            Block(12, name="third"),
        ]
        self.drop = L.Dropout(0.5, name="drop")
        self.pool = L.GlobalAveragePooling2D(name="pool")
        self.top = L.Dense(4, name="top")

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.pool(x)
        if training:
            x = self.drop(x, training=training)
        return {"logits": self.top(x), "features": x}


class Translator(keras.Model):
    """An encoder and a decoder of LSTMs, attention, masks, two inputs."""

    def __init__(self):
        super().__init__(name="translator")
        self.words = L.Embedding(20, 8, mask_zero=True, name="words")
        self.targets = L.Embedding(20, 8, mask_zero=True, name="targets")
        self.encoder = L.LSTM(
            12, return_sequences=True, return_state=True, name="encoder"
        )
        self.decoder = L.LSTM(12, return_sequences=True, name="decoder")
        self.attention = L.Attention(name="attention")
        self.hidden = L.Dense(10, activation="relu", name="hidden")
        self.logits = L.Dense(20, name="logits")

    def call(self, inputs):
        source, target = inputs
        states, *last = self.encoder(self.words(source))
        y = self.decoder(self.targets(target), initial_state=last)
        context = self.attention([y, states])
        y = ops.concatenate([y, context], axis=-1)
        return self.logits(self.hidden(y))


class BareWeights(keras.Model):
    """Weights of the model itself, in an attribute, a list and a dict."""

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], 9), initializer="glorot_uniform", name="kernel"
        )
        self.biases = [self.add_weight(shape=(9,), name="bias")]
        self.more = {"scale": self.add_weight(shape=(9,), name="scale")}
        self.logits = L.Dense(3, name="logits")
        self.logits.build((None, 9))

    def call(self, x):
        y = ops.relu(ops.matmul(x, self.kernel) + self.biases[0])
        return self.logits(y * self.more["scale"])


class Tower(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.hidden = L.Dense(units, activation="relu", name="hidden")
        self.last = L.Dense(5, name="last")

    def call(self, x):
        return self.last(self.hidden(x))


class Pair(keras.Model):
    """Models in a model in a model, with inputs and outputs in dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = Tower(12, name="left")
        self.right = Tower(8, name="right")

    def call(self, inputs):
        return {"sum": self.left(inputs["a"]) + self.right(inputs["b"])}


class Nested(keras.Model):
    def __init__(self):
        super().__init__(name="nested")
        self.pair = Pair(name="pair")
        self.top = Tower(7, name="top")

    def call(self, inputs):
        found = self.pair(inputs)
        return [self.top(found["sum"]), found]


class Gan(keras.Model):
    """Its `call` is its generator; the discriminator trains it."""

    def __init__(self):
        super().__init__(name="gan")
        self.generator = keras.Sequential(
            [
                L.Dense(16, activation="relu"),
                L.BatchNormalization(),
                L.Reshape((4, 4)),
                L.Conv1DTranspose(6, 3, padding="same", activation="tanh"),
            ],
            name="generator",
        )
        self.discriminator = Tower(8, name="discriminator")

    def build(self, shape):
        self.generator.build(shape)

    def call(self, z, training=False):
        return self.generator(z, training=training)

    def train_step(self, *data):
        return {}


def floats(*shape):
    random = np.random.default_rng(0)
    return lambda: random.normal(size=shape).astype("float32")


def tokens():
    random = np.random.default_rng(0)
    source, target = random.integers(1, 20, (2, 3, 6)).astype("int32")
    source[0, 3:] = target[1, 4:] = 0
    return source, target


MODELS = {
    "autoencoder": (Autoencoder, floats(3, 10)),
    "resnet": (ResNet, floats(3, 8, 8, 3)),
    "translator": (Translator, tokens),
    "bare weights": (BareWeights, floats(3, 5)),
    "nested": (
        Nested,
        lambda: {"a": floats(3, 4)(), "b": floats(3, 6)()},
    ),
    "gan": (Gan, floats(3, 5)),
}
