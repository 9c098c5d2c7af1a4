"""Layers as users write them, without a rule: the surgeon sees through them."""

import keras
from keras import layers as L
from keras import ops


@keras.saving.register_keras_serializable("own")
class Conv(L.Layer):
    """A convolution, its normalization and its activation."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv = L.Conv2D(
            filters, 3, padding="same", use_bias=False, name="conv"
        )
        self.norm = L.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.filters))
        self.built = True

    def call(self, x, training=None):
        return ops.relu(self.norm(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("own")
class Residual(L.Layer):
    """`relu(x + conv(Conv(x)))`: a layer of your own in another."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters
        self.first = Conv(filters, name="first")
        self.second = L.Conv2D(filters, 3, padding="same", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.filters))
        self.built = True

    def call(self, x, training=None):
        y = self.second(self.first(x, training=training))
        return ops.relu(x + y)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable("own")
class FeedForward(L.Layer):
    """Two layers in a list, with a residual connection."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.parts = [L.Dense(width, activation="gelu", name="wide")]

    def build(self, shape):
        self.parts[0].build(shape)
        self.parts.append(L.Dense(shape[-1], name="narrow"))
        self.parts[1].build((*shape[:-1], self.width))
        self.built = True

    def call(self, x):
        y = x
        for part in self.parts:
            y = part(y)
        return x + y

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("own")
class Linear(L.Layer):
    """A matrix and a bias of the layer's own."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return ops.matmul(x, self.w) + self.b

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("own")
class Scale(L.Layer):
    """`x * w + b`, channel by channel."""

    def build(self, shape):
        self.w = self.add_weight(shape=shape[-1:], name="w", initializer="ones")
        self.b = self.add_weight(shape=shape[-1:], name="b")

    def call(self, x):
        return x * self.w + self.b


@keras.saving.register_keras_serializable("own")
class Tower(L.Layer):
    """A functional model in a layer."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        x = keras.Input(shape[1:])
        y = L.Dense(2 * self.units, activation="relu", name="wide")(x)
        y = L.Dense(self.units, name="out")(y)
        self.net = keras.Model(x, y, name="net")
        self.built = True

    def call(self, x):
        return ops.tanh(self.net(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("own")
class Closed(L.Layer):
    """One that can't be seen through: it adds a loss."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.dense = L.Dense(units)

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        y = self.dense(x)
        self.add_loss(0.001 * ops.mean(ops.square(y)))
        return y

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("own")
def squashed(x):
    return ops.tanh(x) * 2.0


def images():
    """Convolutions in layers of your own, and one layer called twice."""
    x = keras.Input((8, 8, 3))
    y = Conv(6, name="stem")(x)
    y = Residual(6, name="block")(y)
    twice = Residual(6, name="twice")
    y = twice(twice(y))
    y = L.GlobalAveragePooling2D()(y)
    y = Linear(8, name="linear")(y)
    y = Scale(name="scale")(L.Activation("tanh")(y))
    return keras.Model(x, L.Dense(3, name="logits")(y))


def sequences():
    """Dense layers, a Lambda, a model in a layer, all in a Sequential."""
    return keras.Sequential(
        [
            keras.Input((7, 5)),
            L.Dense(6, name="embed"),
            FeedForward(10, name="mix"),
            L.Lambda(squashed, name="squash"),
            Tower(6, name="tower"),
            L.GlobalAveragePooling1D(),
            L.Dense(2, name="logits"),
        ]
    )


def nested():
    """Layers of your own in a nested functional model, called twice."""
    inner = keras.Input((8, 8, 6))
    block = keras.Model(inner, Residual(6, name="res")(inner), name="inner")
    x = keras.Input((8, 8, 3))
    y = block(block(Conv(6, name="stem")(x)))
    y = L.GlobalMaxPooling2D()(y)
    return keras.Model(x, L.Dense(3, name="logits")(y))


# The same functions without layers of your own. The weights are in the same
# order.


def plain_conv(x, filters):
    x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return L.ReLU()(L.BatchNormalization()(x))


def plain_images():
    x = keras.Input((8, 8, 3))
    y = plain_conv(x, 6)
    z = L.Conv2D(6, 3, padding="same")(plain_conv(y, 6))
    y = L.ReLU()(L.Add()([y, z]))
    inner = keras.Input((8, 8, 6))
    z = L.Conv2D(6, 3, padding="same")(plain_conv(inner, 6))
    twice = keras.Model(inner, L.ReLU()(L.Add()([inner, z])))
    y = twice(twice(y))
    y = L.Dense(8)(L.GlobalAveragePooling2D()(y))
    y = L.EinsumDense("ab,b->ab", 8, bias_axes="b")(L.Activation("tanh")(y))
    return keras.Model(x, L.Dense(3)(y))


def plain_sequences():
    x = keras.Input((7, 5))
    y = L.Dense(6)(x)
    y = L.Add()([y, L.Dense(6)(L.Dense(10, activation="gelu")(y))])
    y = L.Rescaling(2.0)(L.Activation("tanh")(y))
    y = L.Dense(6, activation="tanh")(L.Dense(12, activation="relu")(y))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(y)))
