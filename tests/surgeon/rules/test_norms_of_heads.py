"""Normalizations of queries and keys: each head alone, with the same weights.

What a score closes is compared with the user's own model whose output kernel
has zeros for the closed heads; what gates close, with the gated model.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

HEADS, SIZE = 4, 3


@keras.saving.register_keras_serializable("norms_of_heads")
class OwnNorm(L.Layer):
    """As language models write it."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, x):
        size = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(size + 1e-6) * self.scale


class ShiftedNorm(OwnNorm):
    """As Gemma has it: the scale is around 1."""

    def call(self, x):
        size = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(size + 1e-6) * (1 + self.scale)


NORMS = {
    "layer": lambda: L.LayerNormalization(),
    "layer without weights": lambda: L.LayerNormalization(
        center=False, scale=False
    ),
    "rms": lambda: L.RMSNormalization(),
    "own": OwnNorm,
    "shifted": ShiftedNorm,
}


def heads_last(x, norm, gate):
    """Queries, keys and values as `(batch, steps, heads, size)`."""

    def projected(name):
        y = L.Dense(HEADS * SIZE, name=name)(x)
        return L.Reshape((x.shape[1], HEADS, SIZE))(y)

    query, key = (norm()(gate(projected(n), 2)) for n in ("query", "key"))
    value = gate(projected("value"), 2)
    y = ops.dot_product_attention(query, key, value)
    return L.Reshape((x.shape[1], HEADS * SIZE))(y)


def heads_first(x, norm, gate):
    """Those of one Dense, as `(batch, heads, steps, size)`."""
    steps = x.shape[1]
    y = L.Dense(3 * HEADS * SIZE, name="query")(x)
    y = ops.transpose(
        ops.reshape(y, (-1, steps, 3, HEADS, SIZE)), (2, 0, 3, 1, 4)
    )
    query, key = (norm()(gate(part, 1)) for part in (y[0], y[1]))
    attention = ops.softmax(query @ ops.swapaxes(key, -1, -2) * SIZE**-0.5)
    y = ops.transpose(attention @ gate(y[2], 1), (0, 2, 1, 3))
    return L.Reshape((steps, HEADS * SIZE))(y)


def by_einsum(x, norm, gate):
    """Those of an `EinsumDense` each, which makes heads of its own."""

    def projected(name):
        return L.EinsumDense("btd,dhk->bthk", (None, HEADS, SIZE), name=name)(x)

    query, key = (norm()(gate(projected(n), 2)) for n in ("query", "key"))
    y = ops.dot_product_attention(query, key, gate(projected("value"), 2))
    return L.EinsumDense("bthk,hkd->btd", (None, 5), name="output")(y)


def nothing(x, axis):
    return x


def model_of(way, norm, gate=nothing):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6))
    y = way(inputs, norm, gate)
    if way is not by_einsum:
        y = L.Dense(5, name="output")(y)
    outputs = L.Dense(2)(L.GlobalMaxPooling1D()(y))
    model = keras.Model(inputs, outputs)
    helpers.randomize(model, closed="none")
    return model


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", [heads_last, heads_first, by_einsum])
def test_heads_go_by_scores(way, norm):
    model = model_of(way, NORMS[norm])
    x = helpers.inputs_for(model)
    scores = kg.surgeon.score(model, "l2")
    (name,) = [n for n, each in scores.items() if each.shape == (HEADS,)]
    scores = {name: np.array([3.0, 1, 4, 2])}
    small = kg.surgeon.prune(model, kg.Quantile(0.5), scores=scores)

    kernel = model.get_layer("output").kernel
    values = helpers.numpy_of(kernel)
    closed = values.reshape(HEADS, SIZE, -1).copy()
    closed[[1, 3]] = 0
    kernel.assign(closed.reshape(values.shape))
    expected = helpers.run(model, x)
    assert min(helpers.variation(expected)) > 1e-3
    assert max(helpers.differences(expected, helpers.run(small, x))) < 1e-5
    # Those of the heads are halved: three kernels and their biases, and one.
    gone = 2 * SIZE * (3 * (6 + 1) + 5)
    if way is by_einsum:
        gone -= 3 * 2 * SIZE
    assert model.count_params() - small.count_params() == gone


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", [heads_last, heads_first])
def test_heads_go_by_gates_before_the_norms(way, norm):
    def gate(x, axis):
        return kg.FilterGate(axis=axis)(x)

    model = model_of(way, NORMS[norm], gate)
    for each in helpers.gates_of(model):
        each.factor.assign([0.7, 0, 1.2, 0])
    x = helpers.inputs_for(model)
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    small = plan.apply()
    helpers.assert_same(model, small, x)
    heads = 3 * 2 * SIZE * (6 + 1) + 2 * SIZE * 5
    assert model.count_params() - small.count_params() >= heads


def test_channels_inside_of_heads_stay():
    """A gate on some of the size of the heads takes nothing away."""

    def gate(x, axis):
        return kg.FilterGate(axis=-1)(x)

    model = model_of(heads_last, NORMS["layer"], gate)
    for each in helpers.gates_of(model):
        each.factor.assign([0.7, 0, 1.2])
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small, helpers.inputs_for(model))


def test_channels_beside_the_normalized_axis_go_alone():
    """Statistics along one axis, channels along the other."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6))
    x = kg.FilterGate()(L.Dense(8, name="hidden")(inputs))
    x = L.LayerNormalization(center=False)(L.Permute((2, 1))(x))
    x = L.Dense(3)(L.Permute((2, 1))(x))
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    helpers.randomize(model)
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("hidden").units < 8
