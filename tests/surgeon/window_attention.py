"""Attention within windows, as Swin has it, in the ways that people write it.

A table of a number for each head and distance, looked up by an index; windows
that are taken for samples; a mask where the windows are shifted.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

SIDE, WINDOW, WIDTH, HEADS, SIZE = 8, 4, 12, 3, 4
AREA = WINDOW * WINDOW
register = keras.saving.register_keras_serializable("tests.windows")


def places():
    """For each pair of places in a window, the row of the table."""
    grid = np.meshgrid(np.arange(WINDOW), np.arange(WINDOW), indexing="ij")
    flat = np.stack(grid).reshape(2, -1)
    apart = flat[:, :, None] - flat[:, None] + WINDOW - 1
    return apart[0] * (2 * WINDOW - 1) + apart[1]


def shifted_mask(shift):
    """What may not be seen in the windows of a shifted image."""
    image = np.zeros((SIDE, SIDE))
    spans = slice(0, -WINDOW), slice(-WINDOW, -shift), slice(-shift, None)
    for number, (h, w) in enumerate((h, w) for h in spans for w in spans):
        image[h, w] = number
    count = SIDE // WINDOW
    windows = image.reshape(count, WINDOW, count, WINDOW)
    windows = windows.transpose(0, 2, 1, 3).reshape(-1, AREA)
    apart = windows[:, None] != windows[:, :, None]
    return np.where(apart, -100.0, 0.0).astype("float32")


@register
class WindowAttention(L.Layer):
    """As in keras.io's example; the size of a head is an argument.

    Args:
        heads: how many heads.
        size: the size of each; by default, what follows from the width.
        parts: how queries, keys and values are told apart.
    """

    def __init__(self, heads, size=None, parts="picked", **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size, self.parts = heads, size, parts
        self.table = self.add_weight(
            shape=((2 * WINDOW - 1) ** 2, heads), name="table"
        )
        self.index = places().reshape(-1)
        self.supports_masking = True

    def build(self, shape):
        self.own = self.size or shape[-1] // self.heads
        self.qkv = L.Dense(3 * self.heads * self.own, name="qkv")
        self.proj = L.Dense(shape[-1], name="proj")
        self.qkv.build(shape)
        self.proj.build((*shape[:-1], self.heads * self.own))

    def call(self, x, mask=None):
        area = x.shape[1]
        y = self.qkv(x)
        y = ops.reshape(y, (-1, area, 3, self.heads, self.own))
        y = ops.transpose(y, (2, 0, 3, 1, 4))
        if self.parts == "picked":
            q, k, v = y[0], y[1], y[2]
        elif self.parts == "unstacked":
            q, k, v = ops.unstack(y, axis=0)
        else:
            parts = ops.split(y, 3, axis=0)
            q, k, v = (ops.squeeze(part, axis=0) for part in parts)
        scores = q * self.own**-0.5 @ ops.transpose(k, (0, 1, 3, 2))
        bias = ops.take(self.table, self.index, axis=0)
        bias = ops.reshape(bias, (area, area, -1))
        scores = scores + ops.transpose(bias, (2, 0, 1))[None]
        if mask is not None:
            count = mask.shape[0]
            shape = (-1, count, self.heads, area, area)
            scores = ops.reshape(scores, shape) + mask[None, :, None]
            scores = ops.reshape(scores, (-1, self.heads, area, area))
        y = ops.transpose(ops.softmax(scores) @ v, (0, 2, 1, 3))
        return self.proj(ops.reshape(y, (-1, area, self.heads * self.own)))

    def get_config(self):
        own = {"heads": self.heads, "size": self.size, "parts": self.parts}
        return {**super().get_config(), **own}


@register
class ByWidth(WindowAttention):
    """The same, whose heads are as large as the width has it."""

    def get_config(self):
        config = super().get_config()
        del config["size"]
        return config


@register
class SwinBlock(L.Layer):
    """An image to windows, attention, and back.

    Args:
        heads: how many heads.
        size: as in `WindowAttention`.
        parts: as in `WindowAttention`.
        shift: how far the windows are shifted.
        mask: what the mask is: "variable", or "constant".
        told: whether the config tells the size of a head.
    """

    def __init__(
        self,
        heads,
        size=None,
        parts="picked",
        shift=0,
        mask="variable",
        told=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.heads, self.size, self.parts = heads, size, parts
        self.shift, self.mask, self.told = shift, mask, told
        kind = WindowAttention if told else ByWidth
        self.attention = kind(heads, size, parts, name="attention")

    def build(self, shape):
        self.attention.build((None, AREA, shape[-1]))
        self.seen = shifted_mask(self.shift) if self.shift else None
        if self.shift and self.mask == "variable":
            self.seen = self.add_weight(
                shape=self.seen.shape,
                initializer=keras.initializers.Zeros(),
                trainable=False,
                name="seen",
            )
            self.seen.assign(shifted_mask(self.shift))

    def call(self, x):
        width, count = x.shape[-1], SIDE // WINDOW
        y = ops.roll(x, (-self.shift,) * 2, (1, 2)) if self.shift else x
        y = ops.reshape(y, (-1, count, WINDOW, count, WINDOW, width))
        y = ops.transpose(y, (0, 1, 3, 2, 4, 5))
        y = ops.reshape(y, (-1, AREA, width))
        seen = self.seen
        if self.shift and self.mask == "constant":
            seen = ops.convert_to_tensor(seen)
        y = self.attention(y, mask=seen) if self.shift else self.attention(y)
        y = ops.reshape(y, (-1, count, count, WINDOW, WINDOW, width))
        y = ops.transpose(y, (0, 1, 3, 2, 4, 5))
        y = ops.reshape(y, (-1, SIDE, SIDE, width))
        y = ops.roll(y, (self.shift,) * 2, (1, 2)) if self.shift else y
        return x + y

    def get_config(self):
        names = "heads", "size", "parts", "shift", "mask", "told"
        own = {name: getattr(self, name) for name in names}
        if not self.told:
            del own["size"]
        return {**super().get_config(), **own}


def model_of(**options):
    """One block on an image, with random weights."""
    x = keras.Input((SIDE, SIDE, WIDTH))
    y = SwinBlock(HEADS, name="block", **options)(x)
    y = L.GlobalAveragePooling2D()(y)
    model = keras.Model(x, L.Dense(2, name="logits")(y))
    block = model.get_layer("block")
    seen = block.seen
    model = helpers.randomize(model)
    if isinstance(seen, keras.Variable):
        seen.assign(shifted_mask(block.shift))
    return model


def shut_heads(model, closed):
    """The truth: the rows of the output kernel of some heads are zero."""
    attention = model.get_layer("block").attention
    rows = helpers.numpy_of(attention.proj.kernel).copy()
    rows.reshape(HEADS, SIZE, -1)[closed] = 0
    attention.proj.kernel.assign(rows)


def closing(model):
    """A plan that closes the heads of the lowest scores but one."""
    scores = kg.surgeon.score(model, "l2")
    (name,) = (n for n, values in scores.items() if len(values) == HEADS)
    return name, kg.surgeon.plan(
        model, kg.Quantile(0.5), scores={name: scores[name]}
    )
