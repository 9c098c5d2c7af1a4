"""Multiply-adds of attention and recurrence against counts by hand.

T positions of a query and S of what it attends to, C channels, H heads of d
channels and of e in the value: T*C*H*d for the query, S*C*H*d and S*C*H*e for
key and value, H*T*S*(d + e) for the scores and the sum, T*H*e*C for the
output. A step of a recurrent layer of U units costs (C + U)*U for each gate.
"""

import keras
import pytest
from keras import layers
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules import rule_of

T, S, C, H, D, E, U = 7, 11, 16, 3, 5, 4, 6


def by_hand(t=T, s=T, c=C, key=C, value=C, h=H, d=D, e=E, out=C):
    """Of an attention layer with projections."""
    projections = t * c * h * d + s * key * h * d + s * value * h * e
    return projections + t * h * e * out + h * t * s * (d + e)


def attention(*shape, **options):
    layer = layers.MultiHeadAttention(H, D, E, **options)
    return [(*shape, C)], lambda x: layer(x, x)


def grouped(**options):
    layer = layers.GroupQueryAttention(D, 6, 2, **options)
    return [(T, C), (S, C)], layer


def image(axes):
    """Attention along some of the axes of an image."""
    layer = layers.MultiHeadAttention(H, D, E, attention_axes=axes)
    return [(T, S, C)], lambda x: layer(x, x)


def recurrent(kind, states=0, **options):
    """A recurrent layer; the states come from outside."""
    layer = kind(U, **options)
    shapes = [(T, C), *[(U,)] * states]
    return shapes, lambda x, *s: layer(x, initial_state=[*s] if s else None)


def one(shape, layer):
    return [shape], layer


def cells(kind):
    return layers.RNN([kind(U), kind(2)], return_sequences=True)


def convolution(**options):
    return layers.ConvLSTM2D(U, 3, **options)


projected = T * S * 2 * C * H * (D + E)
grouping = 2 * T * C * 6 * D + 2 * S * C * 2 * D + 2 * 6 * T * S * D
two = [(T, 8), (S, 8)]
heads = [(T, 6, 8), (S, 6, 8)]
step = (C + U) * U
stack = T * (step + (U + 2) * 2)
video = (T, 9, 8, 4)
# An output of 7 * 6 positions, or 5 * 4 with strides; four gates.
filters = 9 * (4 + U) * 4 * U

CASES = {
    "self": (attention(T), by_hand()),
    "scores returned": (
        (
            [(T, C), (S, 10)],
            lambda x, y: layers.MultiHeadAttention(H, D, E)(
                x, y, return_attention_scores=True
            ),
        ),
        by_hand(s=S, key=10, value=10),
    ),
    "cross": (
        (
            [(T, C), (S, 10), (S, 9)],
            layers.MultiHeadAttention(H, D, E, output_shape=8),
        ),
        by_hand(s=S, value=10, key=9, out=8),
    ),
    "causal": (
        (
            [(T, C)],
            lambda x: layers.MultiHeadAttention(H, D, E)(
                x, x, use_causal_mask=True
            ),
        ),
        by_hand(),
    ),
    "both axes": (image((1, 2)), by_hand(t=T * S, s=T * S)),
    "rows": (image(1), projected + S * H * T * T * (D + E)),
    "columns": (image((2,)), projected + T * H * S * S * (D + E)),
    "groups": (grouped(), grouping),
    "Attention": ((two, lambda *x: layers.Attention()([*x])), T * S * 16),
    "Attention with a scale": (
        (two, lambda *x: layers.Attention(use_scale=True)([*x])),
        T * S * 16,
    ),
    "Attention with a key": (
        (
            [(T, 8), (S, 6), (S, 8)],
            lambda *x: layers.Attention()([*x]),
        ),
        T * S * 14,
    ),
    # Its scores are sums, number by number; values are multiplied by them.
    "AdditiveAttention": (
        (two, lambda *x: layers.AdditiveAttention()([*x])),
        T * S * 8,
    ),
    "Dot": ((two, lambda *x: layers.Dot(-1)([*x])), T * S * 8),
    "dot_product_attention": (
        (heads, lambda q, k: ops.dot_product_attention(q, k, k)),
        T * S * 6 * 16,
    ),
    "matmul": (
        ([(T, 8), (8, S)], ops.matmul),
        T * S * 8,
    ),
    "einsum": (
        (heads, lambda q, k: ops.einsum("bthd,bshd->bhts", q, k)),
        T * S * 6 * 8,
    ),
    "time distributed": (
        one((5, T, C), layers.TimeDistributed(layers.LSTM(U))),
        5 * T * step * 4,
    ),
    "convolution": (one(video, convolution()), T * 42 * filters),
    "strides": (
        one(
            video,
            convolution(strides=2, padding="same", return_sequences=True),
        ),
        T * 20 * filters,
    ),
    "one dimension": (
        one((T, 9, 4), layers.ConvLSTM1D(U, 3)),
        T * 7 * 3 * (4 + U) * 4 * U,
    ),
    "channels first": (
        one(
            (T, 4, 5, 5, 5),
            layers.ConvLSTM3D(U, 3, data_format="channels_first"),
        ),
        T * 27 * 27 * (4 + U) * 4 * U,
    ),
}
KINDS = {
    "SimpleRNN": (layers.SimpleRNN, layers.SimpleRNNCell, 1, 1),
    "LSTM": (layers.LSTM, layers.LSTMCell, 4, 2),
    "GRU": (layers.GRU, layers.GRUCell, 3, 1),
}
for name, (kind, cell, gates, states) in KINDS.items():
    CASES |= {
        name: (recurrent(kind), T * step * gates),
        f"{name}, sequences and states": (
            recurrent(kind, return_sequences=True, return_state=True),
            T * step * gates,
        ),
        f"{name}, initial state": (
            recurrent(kind, states=states),
            T * step * gates,
        ),
        f"{name}, both ways": (
            one((T, C), layers.Bidirectional(kind(U))),
            2 * T * step * gates,
        ),
        f"{name}, cells": (one((T, C), cells(cell)), stack * gates),
        f"{name}, cells both ways": (
            one((T, C), layers.Bidirectional(cells(cell))),
            2 * stack * gates,
        ),
    }


@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize("case", CASES)
def test_by_hand(case, sizes):
    (shapes, call), macs = CASES[case]
    given = None
    if sizes == "open":
        # A length in front; the last axis may have one in `matmul` alone.
        given = shapes
        shapes = [(None, *s[1:]) if len(s) > 1 else s for s in shapes]
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, call(*inputs))
    found = kg.stats.count(model, given)
    assert not found.unknown
    assert found.macs == macs
    assert found.params == model.count_params()
    if given:
        with pytest.raises(ValueError, match="depend on sizes"):
            kg.stats.count(model)


def test_a_gate_reads_the_query_once_more():
    """Keras has it from 3.12 on."""
    shapes, _ = grouped()
    inputs = [keras.Input(shape) for shape in shapes]
    try:
        pairs = [
            (grouped(use_gate=True)[1], grouping + T * C * 6 * D),
            (
                layers.MultiHeadAttention(H, D, E, use_gate=True),
                by_hand(s=S) + T * C * H * E,
            ),
        ]
    except (TypeError, ValueError):
        pytest.skip("this Keras has no gate in attention")
    for layer, macs in pairs:
        model = keras.Model(inputs, layer(*inputs))
        assert kg.stats.count(model).macs == macs


# After a cut -----------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda h, d, e: layers.MultiHeadAttention(h, d, e),
        lambda h, d, e: layers.GroupQueryAttention(d, 2 * h, h),
    ],
    ids=["heads", "groups"],
)
@pytest.mark.parametrize("cut", [(2, 5, 4), (3, 2, 4), (3, 5, 1), (1, 1, 1)])
def test_weights_of_fewer_heads_cost_what_a_smaller_layer_does(make, cut):
    x, y = keras.Input((T, C)), keras.Input((S, C))

    def read(h, d, e):
        model = keras.Model([x, y], make(h, d, e)(x, y))
        graph = gr.read(model)
        (call,) = graph.calls
        return call, costs.weight_shapes(call.op), shapes_of(graph)

    whole, _, shapes = read(H, D, E)
    small, weights, own = read(*cut)
    found = costs.call_macs(whole, rule_of(whole), weights, shapes)
    assert found == costs.call_macs(small, rule_of(small), weights, own)


@pytest.mark.parametrize(
    "equation, shapes, cut",
    [
        ("bthd,bshd->bhts", heads, {0: {3: 2}, 1: {3: 2}}),
        ("bthd,bshd->bhts", heads, {0: {2: 1}, 1: {2: 1}}),
        # A head of the keys serves all of the query.
        ("bthd,bshd->bhts", [(T, 6, 8), (S, 1, 8)], {0: {2: 4}}),
    ],
    ids=["channels", "one head", "spread"],
)
def test_einsum_of_cut_tensors(equation, shapes, cut):
    inputs = [keras.Input(shape) for shape in shapes]
    output = ops.einsum(equation, *inputs)
    graph = gr.read(keras.Model(inputs, output))
    (call,) = graph.calls
    left = shapes_of(graph)
    for number, axes in cut.items():
        shape = list(left[call.inputs[number]])
        for axis, size in axes.items():
            shape[axis] = size
        left[call.inputs[number]] = tuple(shape)
    first = left[call.inputs[0]]
    found = costs.call_macs(call, rule_of(call), [], left)
    assert found == T * S * first[2] * first[3]


# Inside layers of your own, at any size -------------------------------------


@keras.saving.register_keras_serializable("tests_of_macs")
class Windows(layers.Layer):
    """Attention in windows of an image, written out."""

    def __init__(self, channels, window=4, **options):
        super().__init__(**options)
        self.channels, self.window = channels, window
        self.qkv = layers.Dense(3 * channels)

    def build(self, shape):
        self.qkv.build(shape)

    def call(self, x):
        _, h, w, c = ops.shape(x)
        n = self.window
        x = ops.reshape(x, (-1, h // n, n, w // n, n, c))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, n * n, c))
        x = ops.reshape(self.qkv(x), (-1, n * n, 3, 2, c // 2))
        q, k, v = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)))
        y = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)))
        y = ops.transpose(ops.matmul(y, v), (0, 2, 1, 3))
        y = ops.reshape(y, (-1, h // n, w // n, n, n, c))
        return ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h, w, c))

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("tests_of_macs")
class Causal(layers.Layer):
    """Attention to what comes before: the mask is made for the length."""

    def __init__(self, channels, **options):
        super().__init__(**options)
        self.channels = channels
        self.query = layers.Dense(channels)
        self.out = layers.EinsumDense("abc,cd->abd", (None, channels))
        self.table = None

    def build(self, shape):
        self.query.build(shape)
        self.out.build(shape)
        self.table = self.add_weight(shape=(32, self.channels), name="table")

    def call(self, x):
        length = ops.shape(x)[1]
        x = x + self.table[:length]
        scores = ops.einsum("abc,adc->abd", self.query(x), x)
        allowed = ops.tril(ops.ones((length, length)))
        scores = ops.where(allowed > 0, scores, -1e9)
        return self.out(ops.einsum("abc,acd->abd", ops.softmax(scores), x))

    def compute_output_shape(self, shape):
        return shape


def in_windows(h, w, c=8, n=4):
    count, tokens = h * w // n**2, n**2
    return count * (tokens * c * 3 * c + 2 * tokens * tokens * c)


def to_before(t, c=8):
    return 2 * t * c * c + 2 * t * t * c


@pytest.mark.parametrize(
    "make, shape, given, macs",
    [
        (Windows, (8, 12, 8), None, in_windows(8, 12)),
        (Windows, (None, None, 8), (8, 12, 8), in_windows(8, 12)),
        (Causal, (9, 8), None, to_before(9)),
        (Causal, (None, 8), (9, 8), to_before(9)),
    ],
    ids=["windows", "open windows", "causal", "open causal"],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_layers_of_ones_own(make, shape, given, macs, depth):
    x = inputs = keras.Input(shape)
    for _ in range(depth):
        x = make(8)(x)
    model = keras.Model(inputs, x)
    found = kg.stats.count(model, given)
    assert not found.unknown
    assert found.macs == depth * macs
    if given is None:
        return
    with pytest.raises(ValueError, match="depend on sizes"):
        kg.stats.count(model)
    longer = (2 * given[0], *given[1:])
    assert kg.stats.count(model, longer).macs > found.macs
    with pytest.raises(ValueError, match="Pass other sizes|does not fit"):
        kg.stats.count(model, (9, 11, 8) if make is Windows else (40, 8))


def test_rows_of_a_batch_of_a_known_size():
    inputs = keras.Input(batch_shape=(2, 8, 8, 8))
    model = keras.Model(inputs, Windows(8)(inputs))
    assert kg.stats.count(model).macs == in_windows(8, 8)


@pytest.mark.parametrize("length", [T, None])
def test_time_in_front(length):
    inputs = keras.Input((length, 4))
    x = ops.transpose(inputs, (1, 0, 2))
    x = ops.transpose(layers.Dense(3)(x), (1, 0, 2))
    model = keras.Model(inputs, x)
    assert kg.stats.count(model, (T, 4)).macs == T * 4 * 3
    if length is not None:
        assert kg.stats.count(model).macs == T * 4 * 3


# Published counts ------------------------------------------------------------


def encoder(tokens, width, hidden, count, depth, x):
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(count, width // count)(y, y)
        y = layers.Dense(hidden, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return x


@pytest.mark.slow
def test_published():
    """In multiply-adds, which papers call FLOPs: 17.6, 4.5 and 11.2 G."""
    image = keras.Input((224, 224, 3))
    x = layers.Reshape((196, 768))(layers.Conv2D(768, 16, 16)(image))
    x = layers.ZeroPadding1D((1, 0))(x)
    vit = keras.Model(image, encoder(197, 768, 3072, 12, 12, x))
    assert kg.stats.count(vit).macs == pytest.approx(17.56e9, rel=1e-3)
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(1000, 768)(tokens)
    bert = keras.Model(tokens, encoder(None, 768, 3072, 12, 12, x))
    assert kg.stats.count(bert, (128,)).macs == pytest.approx(11.17e9, rel=1e-3)
    tiny = keras.applications.ConvNeXtTiny(weights=None, include_top=False)
    found = kg.stats.count(tiny, (224, 224, 3))
    assert found.macs == pytest.approx(4.455e9, rel=1e-3)
