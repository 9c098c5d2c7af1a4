"""Attention written out in the ways that people write it.

Each function takes a tensor `(batch, STEPS, WIDTH)` and puts out the heads
side by side, `(batch, STEPS, HEADS * SIZE)`; `behind` stands after the
weighted sum, where the heads are apart, and is told their axis.
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

STEPS, WIDTH, HEADS, SIZE = 5, 12, 3, 4


def nothing(x, axis):
    return x


def head_gate(x, axis):
    return kg.HeadGate(axis, name="gate")(x)


def size_gate(x, axis):
    return kg.FilterGate(name="gate")(x)


def joined(y):
    """Heads `(batch, heads, steps, size)` side by side."""
    y = ops.transpose(y, (0, 2, 1, 3))
    return ops.reshape(y, (-1, STEPS, y.shape[2] * y.shape[3]))


def fused(x, behind=nothing):
    """As in ViT: one Dense, reshaped, turned, and taken apart."""
    y = L.Dense(3 * HEADS * SIZE, name="qkv")(x)
    y = ops.reshape(y, (-1, STEPS, 3, HEADS, SIZE))
    y = ops.transpose(y, (2, 0, 3, 1, 4))
    q, k, v = y[0] * SIZE**-0.5, y[1], y[2]
    weights = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)), -1)
    return joined(behind(ops.matmul(weights, v), 1))


def split(x, behind=nothing):
    """The same with heads before queries, keys and values."""
    y = L.Dense(3 * HEADS * SIZE, name="qkv", use_bias=False)(x)
    y = L.Reshape((STEPS, HEADS, 3 * SIZE))(y)
    q, k, v = ops.split(L.Permute((2, 1, 3))(y), 3, axis=-1)
    weights = L.Softmax()(ops.einsum("bhqd,bhkd->bhqk", q, k))
    weights = L.Dropout(0.1)(weights)
    return joined(behind(weights @ v, 1))


def projected(x, name, heads=HEADS):
    y = L.Dense(heads * SIZE, name=name)(x)
    return L.Reshape((STEPS, heads, SIZE))(y)


def apart(x, behind=nothing):
    """A Dense for each, and one more for the keys of another tensor."""
    y = L.Dense(WIDTH, activation="tanh", name="other")(x)
    q, k, v = projected(x, "q"), projected(y, "k"), projected(y, "v")
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / 2
    y = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
    return ops.reshape(behind(y, 2), (-1, STEPS, HEADS * SIZE))


def einsum_dense(x, behind=nothing):
    def heads(name):
        shape = (STEPS, HEADS, SIZE)
        return L.EinsumDense("abc,cde->abde", shape, bias_axes="de", name=name)

    q, k, v = (heads(name)(x) for name in "qkv")
    scores = ops.einsum("...qhd,...khd->...hqk", q, k)
    y = ops.einsum("...hqk,...khd->...qhd", ops.softmax(scores), v)
    y = behind(y, 2)
    shape = (STEPS, HEADS * SIZE)
    return L.EinsumDense("abcd,cde->abe", shape, name="mixed")(y)


def operation(x, behind=nothing):
    q, k, v = (projected(x, name) for name in "qkv")
    y = ops.dot_product_attention(q, k, v, is_causal=True)
    return ops.reshape(behind(y, 2), (-1, STEPS, HEADS * SIZE))


def causal(x, behind=nothing):
    """With a mask of ones and zeros that is made of the shape alone."""
    q, k, v = (projected(x, name) for name in "qkv")
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
    mask = np.tril(np.ones((1, 1, STEPS, STEPS), bool))
    weights = ops.softmax(ops.where(mask, scores, -1e9))
    y = ops.einsum("bhqk,bkhd->bqhd", weights, v)
    return ops.reshape(behind(y, 2), (-1, STEPS, HEADS * SIZE))


def rotary(x, behind=nothing):
    angles = np.outer(np.arange(STEPS), 10.0 ** -np.arange(SIZE // 2))
    angles = np.tile(angles, 2)[None, :, None].astype("float32")

    def turned(y):
        first, second = ops.split(y, 2, axis=-1)
        other = ops.concatenate([-second, first], axis=-1)
        return y * np.cos(angles) + other * np.sin(angles)

    q, k, v = (projected(x, name) for name in "qkv")
    scores = ops.einsum("bqhd,bkhd->bhqk", turned(q), turned(k))
    y = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
    return ops.reshape(behind(y, 2), (-1, STEPS, HEADS * SIZE))


@keras.saving.register_keras_serializable("tests")
class PositionBias(L.Layer):
    """A number for each head and distance, added to the scores, as in Swin."""

    def build(self, shape):
        self.table = self.add_weight(
            shape=(2 * STEPS - 1, shape[1]), name="table"
        )

    def call(self, scores):
        steps = np.arange(STEPS)
        index = (steps[:, None] - steps[None] + STEPS - 1).reshape(-1)
        bias = ops.take(self.table, index, axis=0)
        bias = ops.reshape(bias, (STEPS, STEPS, -1))
        return scores + ops.expand_dims(ops.transpose(bias, (2, 0, 1)), 0)


def biased(x, behind=nothing):
    q, k, v = (ops.swapaxes(projected(x, name), 1, 2) for name in "qkv")
    scores = PositionBias(name="positions")(q @ ops.swapaxes(k, 2, 3))
    return joined(behind(ops.softmax(scores) @ v, 1))


WAYS = (
    *(fused, split, apart, einsum_dense, operation, causal, rotary, biased),
)


# With heads of keys that several query heads share ---------------------------


def repeated(x, behind=nothing):
    q, k, v = projected(x, "q", 6), projected(x, "k"), projected(x, "v")
    k, v = (ops.repeat(y, 2, axis=2) for y in (k, v))
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
    y = ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v)
    return ops.reshape(behind(y, 2), (-1, STEPS, 6 * SIZE))


def grouped(x, behind=nothing):
    q = ops.reshape(projected(x, "q", 6), (-1, STEPS, HEADS, 2, SIZE))
    k, v = projected(x, "k"), projected(x, "v")
    scores = ops.einsum("btkgd,bskd->bkgts", q, k)
    y = ops.einsum("bkgts,bskd->btkgd", ops.softmax(scores), v)
    return ops.reshape(behind(y, 2), (-1, STEPS, 6 * SIZE))


def grouped_operation(x, behind=nothing):
    q, k, v = projected(x, "q", 6), projected(x, "k"), projected(x, "v")
    y = ops.dot_product_attention(q, k, v)
    return ops.reshape(behind(y, 2), (-1, STEPS, 6 * SIZE))


GROUPED = (repeated, grouped, grouped_operation)


def model_of(way, behind=nothing):
    """A residual block round an attention, with random weights."""
    x = keras.Input((STEPS, WIDTH))
    y = L.Dense(WIDTH, name="proj")(way(x, behind))
    y = L.GlobalAveragePooling1D()(L.Add()([x, y]))
    model = keras.Model(x, L.Dense(2, name="logits")(y))
    return helpers.randomize(model)


def shut_heads(model, heads, count, name="proj"):
    """The truth: the rows of the output kernel of some heads are zero."""
    kernel = model.get_layer(name).kernel
    rows = helpers.numpy_of(kernel).copy()
    by_head = rows.reshape(count, -1, rows.shape[-1])
    by_head[heads] = 0
    kernel.assign(by_head.reshape(rows.shape))
