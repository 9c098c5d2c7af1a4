"""Layers that put tokens and positions into a stream, as users write them."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

PACKAGE = "tests.token_layers"
register = keras.saving.register_keras_serializable(PACKAGE)


@register
class Position(L.Layer):
    """Adds a table of positions, as long as the sequence is known to be."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, x):
        return x + self.table


@register
class BatchedPosition(L.Layer):
    """The same, with an axis of samples."""

    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), name="table")

    def call(self, x):
        return x + ops.cast(self.table, x.dtype)


@register
class SlicedPosition(L.Layer):
    """A table for more positions than there are, for any length."""

    def __init__(self, most=16, **kwargs):
        super().__init__(**kwargs)
        self.most = most

    def build(self, shape):
        shape = (self.most, shape[-1])
        self.table = self.add_weight(shape=shape, name="table")

    def call(self, x):
        steps = ops.shape(x)[1]
        table = ops.convert_to_tensor(self.table)  # for JAX
        return x + ops.slice(table, (0, 0), (steps, x.shape[-1]))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "most": self.most}


@register
class LookedUpPosition(L.Layer):
    """An Embedding of the numbers of the steps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def build(self, shape):
        self.steps = shape[1]
        self.table = L.Embedding(shape[1], shape[-1], name="table")
        self.table.build(None)

    def call(self, x):
        return x + self.table(ops.arange(self.steps))


@register
class Sine(L.Layer):
    """Positions that are computed, for the width that there is."""

    def call(self, x):
        steps, width = x.shape[1], x.shape[-1]
        at = np.arange(steps)[:, None] / 100 ** (np.arange(width) / width)
        even = (np.arange(width) % 2 == 0).astype("float32")
        table = np.sin(at) * even + np.cos(at) * (1 - even)
        return x + ops.cast(table, x.dtype)


@register
class ClassToken(L.Layer):
    """A token before the sequence, broadcast to the samples."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        shape = (ops.shape(x)[0], 1, x.shape[-1])
        token = ops.broadcast_to(self.token, shape)
        return ops.concatenate([ops.cast(token, x.dtype), x], axis=1)


@register
class TiledToken(L.Layer):
    """The same by `tile`, with registers behind, and positions of all."""

    def build(self, shape):
        width = shape[-1]
        self.token = self.add_weight(shape=(width,), name="token")
        self.registers = self.add_weight(shape=(2, width), name="registers")
        self.position = self.add_weight(
            shape=(1, shape[1] + 3, width), name="position"
        )

    def call(self, x):
        count = ops.shape(x)[0]
        token = ops.tile(self.token[None, None], (count, 1, 1))
        registers = ops.repeat(self.registers[None], count, axis=0)
        return ops.concatenate([token, x, registers], axis=1) + self.position


@register
class HeldToken(L.Layer):
    """The token is the weight of a layer inside, which is not called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.holder = L.Dense(1, use_bias=False, name="holder")

    def build(self, shape):
        self.holder.build((None, shape[-1]))

    def call(self, x):
        token = ops.transpose(self.holder.kernel)[None]
        token = ops.broadcast_to(token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)


@register
class InnerWeight(L.Layer):
    """Holds a weight, and hands it out when it is called."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        shape = (ops.shape(x)[0], 1, x.shape[-1])
        return ops.broadcast_to(self.token, shape)


@register
class AskedToken(L.Layer):
    """The token is what a layer inside says to the sequence."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = InnerWeight(name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return ops.concatenate([self.inner(x), x], axis=1)


@register
class Types(L.Layer):
    """Adds a vector by type, positions, and scales the sum."""

    def __init__(self, kinds=2, **kwargs):
        super().__init__(**kwargs)
        self.kinds = kinds

    def build(self, shape):
        self.table = L.Embedding(self.kinds, shape[-1], name="types")
        self.table.build(None)
        self.position = self.add_weight(shape=shape[1:], name="position")

    def call(self, x):
        # Only one type is there where nothing tells them apart.
        first = ops.zeros((x.shape[1],), dtype="int32")
        return (x + self.table(first) + self.position) * 2.0

    def get_config(self):
        return {**super().get_config(), "kinds": self.kinds}


@register
class Tied(L.Layer):
    """Words in, words out: one table, read by its weight both times."""

    def __init__(self, words, width, **kwargs):
        super().__init__(**kwargs)
        self.words, self.width = words, width
        self.inside = L.Dense(width, activation="tanh", name="inside")

    def build(self, shape):
        shape = (self.words, self.width)
        self.table = self.add_weight(shape=shape, name="table")
        self.inside.build((None, self.width))

    def call(self, x):
        h = ops.take(self.table, x, axis=0)
        h = h + self.inside(h)
        return ops.matmul(h, ops.transpose(self.table))

    def get_config(self):
        more = {"words": self.words, "width": self.width}
        return {**super().get_config(), **more}


@register
class TiedLayer(L.Layer):
    """The same with an Embedding, whose table the way back reads."""

    def __init__(self, words, width, **kwargs):
        super().__init__(**kwargs)
        self.words, self.width = words, width
        self.embedding = L.Embedding(words, width, name="embedding")
        self.inside = L.Dense(width, activation="tanh", name="inside")

    def build(self, shape):
        self.embedding.build(shape)
        self.inside.build((None, self.width))

    def call(self, x):
        h = self.embedding(x)
        h = h + self.inside(h)
        table = ops.transpose(self.embedding.embeddings)
        return ops.matmul(h, table)

    def get_config(self):
        more = {"words": self.words, "width": self.width}
        return {**super().get_config(), **more}


STREAMS = {
    cls.__name__: cls
    for cls in (
        *(Position, BatchedPosition, SlicedPosition, LookedUpPosition, Sine),
        *(ClassToken, TiledToken, HeldToken, AskedToken, Types),
    )
}
