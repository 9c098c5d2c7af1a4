"""Custom layers that are unknown to the surgeon."""

import keras

import keras_gates as kg


def told(**keys):
    """A `get_config` with some attributes, under the names of arguments."""

    def get_config(self):
        own = {key: getattr(self, name) for key, name in keys.items()}
        return {**keras.layers.Layer.get_config(self), **own}

    return get_config


class Hidden(keras.layers.Layer):
    """A hidden layer and the way back; it counts how often it is made."""

    made = 0

    def __init__(self, hidden, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        type(self).made += 1
        self.hidden, self.rate = hidden, rate
        self.up = keras.layers.Dense(hidden, "gelu", dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(rate)

    def build(self, shape):
        self.up.build(shape)
        self.down = keras.layers.Dense(shape[-1], dtype=self.dtype_policy)
        self.down.build((*shape[:-1], self.hidden))
        self.built = True

    def call(self, x, training=None):
        y = self.drop(self.up(x), training=training)
        return x + self.down(y)

    get_config = told(hidden="hidden", rate="rate")


class Linear(keras.layers.Layer):
    """Bare weights."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
        self.b = self.add_weight(shape=(self.units,), name="b")

    def call(self, x):
        return keras.ops.tanh(keras.ops.matmul(x, self.w) + self.b)

    get_config = told(units="units")


class Position(keras.layers.Layer):
    """A table that is added; its config holds no size."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


class Listed(keras.layers.Layer):
    """Several widths in a list."""

    def __init__(self, widths, **kwargs):
        super().__init__(**kwargs)
        self.widths = list(widths)
        self.dense = [keras.layers.Dense(n, "tanh") for n in widths]

    def call(self, x):
        for layer in self.dense:
            x = layer(x)
        return x

    get_config = told(widths="widths")


class Ratio(keras.layers.Layer):
    """A width that is a multiple of another."""

    def __init__(self, ratio, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, shape):
        self.up = keras.layers.Dense(int(self.ratio * shape[-1]), "relu")
        self.up.build(shape)
        self.down = keras.layers.Dense(shape[-1])
        self.down.build((*shape[:-1], self.up.units))
        self.built = True

    def call(self, x):
        return x + self.down(self.up(x))

    get_config = told(ratio="ratio")


class Parts(keras.layers.Layer):
    """A width that is a product."""

    def __init__(self, parts, size, **kwargs):
        super().__init__(**kwargs)
        self.parts, self.size = parts, size
        self.up = keras.layers.Dense(parts * size, "silu")
        self.down = keras.layers.Dense(12)

    def call(self, x):
        return self.down(self.up(x))

    get_config = told(parts="parts", size="size")


class Agreed(keras.layers.Layer):
    """Two arguments that must agree."""

    def __init__(self, left, right, **kwargs):
        super().__init__(**kwargs)
        if left != right:
            raise ValueError("left and right must be equal")
        self.left, self.right = left, right
        self.a = keras.layers.Dense(left)
        self.b = keras.layers.Dense(right)
        self.c = keras.layers.Dense(12)

    def call(self, x):
        return self.c(self.a(x) * self.b(x))

    get_config = told(left="left", right="right")


class Unlike(keras.layers.Layer):
    """Two arguments of one size that speak of different things."""

    def __init__(self, hidden, scale, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.scale = hidden, scale
        self.up = keras.layers.Dense(hidden, "relu")
        self.down = keras.layers.Dense(12)

    def call(self, x):
        return self.down(self.up(x)) / self.scale

    get_config = told(hidden="hidden", scale="scale")


class Scaled(keras.layers.Layer):
    """Its width is part of what it computes."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.up = keras.layers.Dense(hidden, "relu")
        self.down = keras.layers.Dense(12, kernel_initializer="zeros")

    def call(self, x):
        return self.down(self.up(x) / self.hidden**0.5)

    get_config = told(hidden="hidden")


class Sorted(keras.layers.Layer):
    """The order of its weights depends on its width."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        width = shape[-1]
        wanted = {"up": (width, self.hidden), "down": (self.hidden, width)}
        for name in sorted(wanted, reverse=self.hidden > 8):
            setattr(self, name, self.add_weight(shape=wanted[name], name=name))

    def call(self, x):
        hidden = keras.ops.relu(keras.ops.matmul(x, self.up))
        return keras.ops.matmul(hidden, self.down)

    get_config = told(hidden="hidden")


class Holding(keras.layers.Layer):
    """It is given a layer."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.down = keras.layers.Dense(12)

    def call(self, x):
        return self.down(self.inner(x))

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config.pop("inner"))
        return cls(inner, **config)


class Forgetful(Hidden):
    """Its config does not tell its width."""

    def __init__(self, hidden=16, **kwargs):
        super().__init__(hidden, **kwargs)

    get_config = told()


class Secretive(keras.layers.Layer):
    """It has no config at all."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.up = keras.layers.Dense(16, activation)
        self.down = keras.layers.Dense(12)

    def call(self, x):
        return self.down(self.up(x))

    def get_config(self):
        raise NotImplementedError


class Gated(keras.layers.Layer):
    """A gate inside, which an argument can leave out."""

    def __init__(self, hidden, gated=True, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.gated = hidden, gated
        self.up = keras.layers.Dense(hidden, "relu")
        self.gate = kg.FilterGate(name="gate") if gated else None
        self.down = keras.layers.Dense(12)

    def call(self, x):
        x = self.up(x)
        return self.down(self.gate(x) if self.gated else x)

    get_config = told(hidden="hidden", gated="gated")


class AlwaysGated(keras.layers.Layer):
    """A gate inside, whatever the config says."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.up = keras.layers.Dense(hidden, "relu")
        self.gate = kg.FilterGate(name="gate")
        self.down = keras.layers.Dense(12)

    def call(self, x):
        return self.down(self.gate(self.up(x)))

    get_config = told(hidden="hidden")


class Trained(Hidden):
    """It computes something else in training."""

    def call(self, x, training=None):
        y = super().call(x, training=training)
        return 2 * y if training else y


class TrainedInSecret(Trained):
    """The same, without a config that tells its width."""

    def __init__(self, hidden=16, **kwargs):
        super().__init__(hidden, **kwargs)

    get_config = told()


class TrainedGated(AlwaysGated):
    """A gate inside what computes something else in training."""

    def call(self, x, training=None):
        y = super().call(x)
        return 2 * y if training else y


class Block(keras.layers.Layer):
    """Layers of the user's in one of hers, without a config of its own."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.scale = keras.layers.Dense(12, "tanh")

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return self.scale(x)

    def get_config(self):
        raise NotImplementedError


class Outer(keras.layers.Layer):
    """Layers of the user's in one of hers, which tells their width."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.inner = [Hidden(hidden), Hidden(hidden)]

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x

    get_config = told(hidden="hidden")


class Vocabulary(keras.layers.Layer):
    """It holds what no config tells, and no weights."""

    words = ()

    def call(self, x):
        return x


class Net(keras.Model):
    """A functional model whose constructor makes its layers."""

    def __init__(self, hidden, temperature=1.0, name=None, **kwargs):
        inputs = keras.Input((12,))
        x = Hidden(hidden, name="first")(inputs)
        x = Hidden(hidden, name="second")(x)
        head = keras.layers.Dense(3, name="head")
        super().__init__(inputs, head(x), name=name, **kwargs)
        self.hidden, self.temperature, self.head = hidden, temperature, head
        self.limit = 10

    def generate(self, x):
        return keras.ops.argmax(self(x), -1) * int(self.temperature)

    def get_config(self):
        keys = ("hidden", "temperature", "name")
        return {key: getattr(self, key) for key in keys}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


class Sampled(Net):
    """A model whose `compile` sets more than that of Keras."""

    def __init__(self, hidden, temperature=1.0, name=None, **kwargs):
        super().__init__(hidden, temperature, name, **kwargs)
        self.compile("sgd", "mse")

    def compile(self, *args, sampler=max, **kwargs):
        super().compile(*args, **kwargs)
        self.sampler = sampler

    def generate(self, x):
        rows = keras.ops.convert_to_numpy(self(x))
        return [
            self.sampler(enumerate(row), key=lambda p: p[1]) for row in rows
        ]


class Task(keras.Model):
    """The same round another one, with a layer beside."""

    def __init__(self, backbone, vocabulary=None, name=None, **kwargs):
        outputs = keras.layers.Dense(2, name="scores")(backbone.output)
        super().__init__(backbone.input, outputs, name=name, **kwargs)
        self.backbone, self.vocabulary = backbone, vocabulary

    def generate(self, x):
        scores = keras.ops.convert_to_numpy(self(x))
        return [self.vocabulary.words[n] for n in scores.argmax(-1)]

    def get_config(self):
        parts = {"backbone": self.backbone, "vocabulary": self.vocabulary}
        config = keras.tree.map_structure(
            keras.saving.serialize_keras_object, parts
        )
        return {**config, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        made = {
            key: keras.saving.deserialize_keras_object(config[key])
            for key in ("backbone", "vocabulary")
        }
        return cls(**made, name=config["name"])


class Closed(Net):
    """A model whose config does not tell its widths."""

    def get_config(self):
        return {"hidden": 16, "name": self.name}


CLASSES = {
    cls.__name__: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, keras.layers.Layer)
}
