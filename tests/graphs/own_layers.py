"""Layers of your own, made of a function of their weights."""

import keras
from keras import ops

from keras_gates.graphs import opened
from keras_gates.graphs import private
from keras_gates.graphs import trace
from keras_gates.graphs.rewrite import new_copies

STEPS, CHANNELS = 6, 12
# JAX has no float64, if it is not asked for as it starts.
DOUBLE = [] if keras.backend.backend() == "jax" else ["float64"]


class Weighted(keras.layers.Layer):
    """`function(x, *weights)`.

    Args:
        function: what it computes.
        *shapes: those of its weights.
    """

    def __init__(self, function, *shapes, adds=None, **kwargs):
        super().__init__(**kwargs)
        self.function, self.shapes, self.adds = function, shapes, adds or {}

    def build(self, shape):
        self.all = [
            self.add_weight(
                shape=each,
                initializer=keras.initializers.RandomUniform(0.5, 1.5, seed=n),
                name=f"w{n}",
                **self.adds,
            )
            for n, each in enumerate(self.shapes)
        ]

    def call(self, x):
        return self.function(x, *self.all)


def traced(layer, *inputs, **kwargs):
    """What a layer is made of, called on symbolic inputs."""
    layer(*inputs, **kwargs)
    node = private.calls_of(layer)[-1]
    return trace.trace(node, new_copies(), owned=False)


def looked_into(layer, *inputs, **kwargs):
    found = traced(layer, *inputs, **kwargs)
    assert isinstance(found, opened.Opened), found
    return found


def class_token(x, w):
    shape = (ops.shape(x)[0], 1, CHANNELS)
    return ops.concatenate([ops.broadcast_to(w, shape), x], axis=1)


def halves(x, w):
    return ops.concatenate([x[..., :4] * w, x[..., 4:]], axis=-1)


def normalized(x, w):
    squares = ops.sum(ops.square(w), axis=0, keepdims=True)
    return ops.matmul(x, w / ops.sqrt(squares))


def prelu(x, w):
    return ops.maximum(x, 0.0) + w * ops.minimum(x, 0.0)


def attention(x, w, b):
    q, k, v = ops.split(ops.matmul(x, w) + b, 3, axis=-1)
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))))
    return ops.matmul(scores, v)


C = (CHANNELS,)
M = (CHANNELS, 8)
# By name: the function, the shapes of weights, the kinds of the layers that
# hold them. Channels 2, 5 and 6 of the output are those of the input, if the
# name does not say "mixed".
USES = {
    "x * w": (lambda x, w: x * w, [C], "EinsumDense"),
    "w * x": (lambda x, w: w * x, [C], "EinsumDense"),
    "x + w": (lambda x, w: x + w, [C], "EinsumDense"),
    "x - w": (lambda x, w: x - w, [C], "EinsumDense"),
    "w - x": (lambda x, w: w - x, [C], "EinsumDense"),
    "x / w": (lambda x, w: x / w, [C], "EinsumDense"),
    "w / x": (lambda x, w: w / (x * x + 1.0), [C], "EinsumDense"),
    "x ** w": (lambda x, w: (x * x + 1.0) ** w, [C], "EinsumDense"),
    "x * (1 + w)": (lambda x, w: x * (1 + w), [C], "EinsumDense"),
    "x * softplus(w)": (lambda x, w: x * ops.softplus(w), [C], "EinsumDense"),
    "x * reshape(w)": (
        lambda x, w: x * ops.reshape(w, (1, 1, -1)),
        [C],
        "EinsumDense",
    ),
    "x * w + v": (lambda x, w, v: x * w + v, [C, C], "EinsumDense"),
    "scalar": (lambda x, w: x * w, [()], "EinsumDense"),
    "scalar added": (lambda x, w: x + w, [(1,)], "EinsumDense"),
    "by step": (lambda x, w: x * w, [(STEPS, 1)], "EinsumDense"),
    "by place": (lambda x, w: x + w, [(STEPS, CHANNELS)], "EinsumDense"),
    "by place, 1": (lambda x, w: x * w, [(1, STEPS, CHANNELS)], "EinsumDense"),
    "sliced": (lambda x, w: x + w[:STEPS], [(20, CHANNELS)], "EinsumDense"),
    "some channels": (halves, [(4,)], "EinsumDense"),
    "class token": (class_token, [(1, 1, CHANNELS)], "EinsumDense"),
    "maximum": (lambda x, w: ops.maximum(x, w), [C], "EinsumDense"),
    "where": (lambda x, w: ops.where(x > 0, x, ops.abs(w)), [C], "EinsumDense"),
    "prelu": (prelu, [C], "EinsumDense"),
    "twice, one way": (
        lambda x, w: ops.relu(x * w) * w,
        [C],
        "EinsumDense",
    ),
    "a bias twice, mixed": (
        lambda x, w, b: ops.relu(ops.matmul(x, w) + b) + b,
        [M, (8,)],
        "Dense EinsumDense",
    ),
    "twice, two ways": (
        lambda x, w: ops.relu(x * w) + w,
        [C],
        "EinsumDense",
    ),
    "matmul, mixed": (lambda x, w: ops.matmul(x, w), [M], "Dense"),
    "matmul + b, mixed": (
        lambda x, w, b: ops.relu(ops.matmul(x, w) + b),
        [M, (8,)],
        "Dense",
    ),
    "transposed, mixed": (
        lambda x, w: x @ ops.transpose(w),
        [M[::-1]],
        "Dense",
    ),
    "dot, mixed": (lambda x, w: ops.dot(x, w), [M], "Dense"),
    "tensordot, mixed": (
        lambda x, w: ops.tensordot(x, w, axes=1),
        [M],
        "Dense",
    ),
    "normalized, mixed": (normalized, [M], "Dense"),
    "einsum, mixed": (
        lambda x, w: ops.einsum("btc,cd->btd", x, w),
        [M],
        "EinsumDense",
    ),
    "einsum, w first, mixed": (
        lambda x, w: ops.einsum("cd,btc->btd", w, x),
        [M],
        "EinsumDense",
    ),
    "convolution, mixed": (
        lambda x, w, b: ops.conv(x, w, padding="same") + b,
        [(3, CHANNELS, 8), (8,)],
        "Conv1D",
    ),
    "depthwise": (
        lambda x, w: ops.depthwise_conv(x, w, padding="same"),
        [(3, CHANNELS, 1)],
        "DepthwiseConv1D",
    ),
    "separable, mixed": (
        lambda x, v, w: ops.separable_conv(x, v, w, padding="same"),
        [(3, CHANNELS, 1), (1, CHANNELS, 8)],
        "DepthwiseConv1D Conv1D",
    ),
    "transposed convolution, mixed": (
        lambda x, w: ops.conv_transpose(x, w, padding="same"),
        [(3, 8, CHANNELS)],
        "Conv1DTranspose",
    ),
    "attention, mixed": (attention, [(CHANNELS, 24), (24,)], "Dense"),
}
