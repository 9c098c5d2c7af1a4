"""Layers in the styles of public code: what is in them, one thing each."""

import keras
from keras import layers as L
from keras import ops

MODELS = {}


def model(function):
    """Note what makes a model; its name says what it is about."""
    MODELS[function.__name__] = function
    return function


class FeedForward(L.Layer):
    """Two Dense, of which the first is wide; its config tells the widths."""

    def __init__(self, width=8, units=4, activation="relu", **options):
        super().__init__(**options)
        self.width, self.units = width, units
        self.activation = keras.activations.get(activation)
        self.wide, self.narrow = L.Dense(width), L.Dense(units)

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.width))
        self.built = True

    def call(self, x):
        return self.narrow(self.activation(self.wide(x)))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
        }


class Forgetful(L.Layer):
    """A Dense and a normalization; its config tells nothing of them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.wide, self.narrow = L.Dense(8, activation="relu"), L.Dense(4)
        self.norm = L.BatchNormalization()

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 8))
        self.norm.build((*shape[:-1], 4))
        self.built = True

    def call(self, x, training=False):
        return self.norm(self.narrow(self.wide(x)), training=training)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def sequence(*layers, shape=(5, 4), units=3):
    """A model of layers, one after the other, and a Dense."""
    x = y = keras.Input(shape)
    for layer in layers:
        y = layer(y)
    return keras.Model(x, L.Dense(units)(y))


# A function of keras.activations ----------------------------------------------


@model
def relu_by_name():
    return sequence(FeedForward())


@model
def mish_by_name():
    return sequence(FeedForward(activation="mish"))


@model
def hard_silu_by_name():
    return sequence(FeedForward(activation="hard_silu"))


# Step by step -----------------------------------------------------------------


@model
def steps():
    return sequence(L.TimeDistributed(FeedForward(8, 6)))


@model
def steps_of_any_number():
    return sequence(L.TimeDistributed(FeedForward()), shape=(None, 4))


@model
def steps_of_a_forgetful_layer():
    return sequence(L.TimeDistributed(Forgetful()))


@model
def steps_between():
    wide = L.TimeDistributed(L.Dense(8, activation="relu"))
    return sequence(wide, L.TimeDistributed(FeedForward(8, 6)))


@model
def steps_of_steps():
    layer = L.TimeDistributed(L.TimeDistributed(FeedForward()))
    return sequence(layer, shape=(2, 5, 4))


@model
def steps_twice():
    layer = L.TimeDistributed(FeedForward())
    return sequence(layer, layer)


# What `call` makes and keeps --------------------------------------------------


class MadeInCall(FeedForward):
    """Layers without weights are made as it is called, each time anew."""

    def call(self, x):
        wide = L.Activation(self.activation)(self.wide(x))
        wide = L.Concatenate()([wide, L.Dropout(0.0)(wide)])
        half = ops.split(wide, 2, -1)
        return L.add([self.narrow(half[0]), L.average([x, x])])


class Noted(FeedForward):
    """What comes out on the way is kept for the user to look at."""

    def call(self, x):
        self.outputs = [x]
        self.last = self.wide(x)
        self.outputs.append(L.Activation(self.activation)(self.last))
        self.outputs.append(self.narrow(self.outputs[-1]))
        return self.outputs[-1]


@model
def made_in_call():
    return sequence(MadeInCall())


@model
def noted_on_the_way():
    return sequence(Noted())


# Weights in convolutions ------------------------------------------------------


class BareConv(L.Layer):
    """`ops.conv` with a kernel of its own, and a bias."""

    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters

    def build(self, shape):
        kernel = (3, 3, shape[-1], self.filters)
        self.kernel = self.add_weight(shape=kernel, name="kernel")
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        y = ops.conv(x, self.kernel, padding="same")
        return ops.relu(y + self.bias)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


class Standardized(L.Conv2D):
    """Its kernel is standardized where it is used."""

    def convolution_op(self, inputs, kernel):
        kernel = ops.convert_to_tensor(kernel)  # JAX takes no variable here
        mean, variance = ops.moments(kernel, (0, 1, 2), keepdims=True)
        kernel = (kernel - mean) / ops.sqrt(variance + 1e-5)
        return super().convolution_op(inputs, kernel)


@model
def kernels_of_ones_own():
    return sequence(BareConv(8), BareConv(6), shape=(6, 6, 3))


@model
def standardized_kernels():
    first = Standardized(8, 3, activation="relu")
    return sequence(first, Standardized(6, 3), shape=(6, 6, 3))


# Signals ----------------------------------------------------------------------


class Fourier(L.Layer):
    """Mixes by fft2, which asks for the sizes; the rest is as ever."""

    def __init__(self, width=8, **options):
        super().__init__(**options)
        self.width = width
        self.inner = FeedForward(width)
        self.norm = L.LayerNormalization()

    def build(self, shape):
        self.inner.build(shape)
        self.norm.build(shape)
        self.built = True

    def call(self, x):
        mixed, _ = ops.fft2((x, ops.zeros_like(x)))
        x = self.norm(x + mixed)
        return x + self.inner(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@model
def fourier():
    return sequence(Fourier())


@model
def fourier_of_any_length():
    return sequence(Fourier(), shape=(None, 4))


# Several of a kind ------------------------------------------------------------


class Experts(L.Layer):
    """A dict of experts, each weighed by a softmax."""

    def __init__(self, count=3, **options):
        super().__init__(**options)
        self.count = count
        self.experts = {
            f"expert_{n}": keras.Sequential(
                [L.Dense(8, activation="relu"), L.Dense(4)]
            )
            for n in range(count)
        }
        self.router = L.Dense(count, activation="softmax")

    def call(self, x):
        shares = self.router(x)
        outputs = [self.experts[f"expert_{n}"](x) for n in range(self.count)]
        stacked = ops.stack(outputs, axis=-1)
        return ops.sum(stacked * shares[..., None, :], axis=-1)


@model
def experts():
    return sequence(Experts())
