"""Layers with incomplete configs, each as `vectors -> vectors`.

Keras serializes a function by its name; a `get_config` may forget an argument
or be missing; layers hold what no config speaks of. What they compute is told
by the layers themselves, never by a copy.
"""

import functools

import keras
import numpy as np
from keras import layers as L
from keras import ops

WIDTH = 16


def gelu(x):
    """Another function of the name of one of Keras."""
    return x * ops.sigmoid(1.702 * x)


def relu(x):
    return ops.relu(x) + 0.1 * ops.sin(3.0 * x)


def scaled(x, by):
    return ops.tanh(x) * by


class Callable:
    """An activation with state."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return ops.tanh(x) * self.by


class Forgets(L.Layer):
    """Its config forgets the factor."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return L.Layer.get_config(self)


class ForgetsArray(Forgets):
    """Its config can't tell the table."""

    def __init__(self, factor=1.0, table=None, **kwargs):
        super().__init__(factor, **kwargs)
        self.table = np.ones(WIDTH, "float32") if table is None else table

    def call(self, x):
        return ops.multiply(x, self.table) + self.factor


class Loud(L.Dense):
    """A subclass of a layer of Keras with more state than that has."""

    def __init__(self, units, loudness=1.0, **kwargs):
        super().__init__(units, **kwargs)
        self.loudness = loudness

    def call(self, x, training=None):
        return self.loudness * super().call(x)


class Bare(L.Layer):
    """No config at all; weights by position and without a name."""

    def __init__(self, inner, by):
        super().__init__()
        self.inner = inner
        self.by = by

    def build(self, shape):
        self.scale = self.add_weight((shape[-1],), initializer="normal")
        self.inner.build(shape)
        self.offset = self.add_weight(
            shape=(shape[-1],), initializer="normal", name="offset"
        )

    def call(self, x):
        return self.by(self.inner(x) * self.scale + self.offset)


class Holder(L.Layer):
    """Holds what layers may hold, some of it in functions."""

    def __init__(self):
        super().__init__()
        self.parts = [L.Dense(WIDTH), {"deep": (L.Dense(WIDTH, gelu), 2.0)}]
        self.table = np.linspace(0.5, 1.5, WIDTH).astype("float32")
        self.tensor = ops.convert_to_tensor(self.table[::-1].copy())
        self.alpha = keras.Variable(0.7, trainable=False)
        self.noise = L.GaussianNoise(0.1, seed=3)
        self.seeds = keras.random.SeedGenerator(5)
        self.mean = keras.metrics.Mean(name="mean")
        self.method = self.helped
        self.function = lambda x: self.alpha * self.parts[0](x)
        self.partial = functools.partial(scaled, by=0.5)

    def helped(self, x):
        return ops.multiply(x, self.tensor)

    def call(self, x, training=None):
        x = self.noise(self.function(x), training=training)
        part, by = self.parts[1]["deep"]
        x = self.partial(self.method(part(x)))
        return ops.multiply(x, by * self.table)


class Losing(L.Layer):
    """Adds a loss in its call, and keeps its last mean."""

    def call(self, x):
        self.add_loss(0.01 * ops.mean(ops.square(x)))
        self.last = ops.mean(x)
        return 2.0 * x


class Tied(L.Layer):
    """Holds another layer of the model."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel))


class Cell(L.Layer):
    """A recurrent cell whose config forgets what it multiplies by."""

    def __init__(self, units, by=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.by = by
        self.mix = L.Dense(units)

    def call(self, x, states):
        y = ops.tanh(self.by * (self.mix(x) + states[0]))
        return y, [y]

    def build(self, shape):
        self.mix.build(shape)

    def get_config(self):
        return {**L.Layer.get_config(self), "units": self.units}


class OwnModel(keras.Model):
    """A functional model that adds nothing but a class."""


def dense(activation, **kwargs):
    return lambda: L.Dense(WIDTH, activation=activation, **kwargs)


def changed(make, **values):
    """A layer whose attributes are set once it is built."""

    def call(x):
        layer = make()
        y = layer(x)
        for name, value in values.items():
            setattr(layer, name, value)
        return y

    return call


def patched(x):
    layer = L.Dense(WIDTH, name="patched")
    y = layer(x)
    inner = layer.call
    layer.call = lambda x, training=None: 3.0 * inner(x)
    return y


def frozen(x):
    layer = Holder()
    y = layer(x)
    layer.parts[0].trainable = False
    return y


def closed_over(x):
    inner = L.Dense(WIDTH)
    inner.build((None, WIDTH))
    table = np.linspace(-1, 1, WIDTH).astype("float32")
    return L.Lambda(lambda x: ops.add(inner(x), table), (WIDTH,))(x)


def tied(x):
    first = L.Dense(WIDTH)
    return Tied(first)(first(x))


def steps(layer):
    """A layer for sequences, on the vectors as four steps."""

    def call(x):
        return L.Flatten()(layer()(L.Reshape((4, WIDTH // 4))(x)))

    return call


def nested(cls, activation):
    def make():
        x = keras.Input((WIDTH,))
        return cls(x, L.Dense(WIDTH, activation)(x))

    return make


def chain():
    return keras.Sequential([keras.Input((WIDTH,)), L.Dense(WIDTH, gelu)])


def with_regularizer():
    return L.Dense(
        WIDTH,
        kernel_regularizer=lambda w: 0.1 * ops.sum(w),
        kernel_initializer=lambda shape, dtype=None: ops.ones(shape, dtype),
        kernel_constraint=lambda w: w,
    )


# Name -> a layer, or what calls some.
ODD = {
    "a gelu of your own": dense(gelu),
    "a relu of your own": dense(relu),
    "keras.ops.gelu": dense(ops.gelu),
    "keras.ops.silu": dense(ops.silu),
    "a lambda": dense(lambda x: ops.sin(x)),
    "a partial": dense(functools.partial(scaled, by=0.3)),
    "an object with state": dense(Callable(0.4)),
    "a layer": dense(L.LeakyReLU(0.35)),
    "Activation": lambda: L.Activation(gelu),
    "functions for weights": with_regularizer,
    "a forgotten argument": lambda: Forgets(3.0),
    "a forgotten array": lambda: ForgetsArray(2.0, np.arange(16.0)),
    "a subclass": lambda: Loud(WIDTH, 2.5),
    "no config": lambda: Bare(L.Dense(WIDTH, gelu), ops.tanh),
    "all sorts": lambda: Holder(),
    "a frozen part": frozen,
    "a loss": lambda: Losing(),
    "set later": changed(lambda: Forgets(), factor=2.0),
    "set later on Keras' own": changed(
        lambda: L.LeakyReLU(0.2), negative_slope=0.6
    ),
    "an epsilon set later": changed(L.LayerNormalization, epsilon=0.3),
    "an activation set later": changed(dense("relu"), activation=gelu),
    "a call of its own": patched,
    "Lambda": lambda: L.Lambda(lambda x: ops.sin(x), (WIDTH,)),
    "Lambda with a layer": closed_over,
    "a tied layer": tied,
    "another dtype": dense(gelu, dtype="mixed_bfloat16"),
    "TimeDistributed": steps(lambda: L.TimeDistributed(L.Dense(4, gelu))),
    "TimeDistributed, forgetful": steps(
        lambda: L.TimeDistributed(Forgets(2.0))
    ),
    "LSTM": steps(
        lambda: L.LSTM(
            4, gelu, recurrent_activation=relu, return_sequences=True
        )
    ),
    "Bidirectional": steps(
        lambda: L.Bidirectional(L.GRU(2, gelu, return_sequences=True))
    ),
    "RNN": steps(lambda: L.RNN(Cell(4, by=0.6), return_sequences=True)),
    "several cells": steps(
        lambda: L.RNN(
            [Cell(4, by=0.6), L.GRUCell(4, gelu)], return_sequences=True
        )
    ),
    "a nested model": nested(keras.Model, gelu),
    "a nested model of your own": nested(OwnModel, ops.gelu),
    "a nested chain": chain,
    "a layer that holds a chain": lambda: Bare(chain(), ops.tanh),
    "a layer that holds a model": lambda: Bare(
        nested(keras.Model, gelu)(), ops.sin
    ),
    "a wrapped model": steps(
        lambda: L.TimeDistributed(
            keras.Sequential([keras.Input((4,)), L.Dense(4, relu)])
        )
    ),
}


def odd(name, x):
    """The outputs of an odd layer."""
    made = ODD[name]
    # A case is either a call, or makes the layer that is called.
    return made(x) if made.__code__.co_argcount else made()(x)
