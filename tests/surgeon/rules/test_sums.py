"""Sums over channels, which read them as a kernel of ones would.

So do distances, products that are summed up, and additive attention. The
truth is the user's own model with its closed channels at zero.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH = 8


def pair(x):
    return L.Dense(WIDTH, name="a")(x), L.Dense(WIDTH, name="b")(x)


def plain(x):
    return ops.sum(L.Dense(WIDTH, activation="relu", name="a")(x), axis=-1)


def all_axes(x):
    x = L.Dense(WIDTH, activation="relu", name="a")(x)
    return ops.sum(x, axis=(1, 2), keepdims=True)[:, 0]


def weighed(x):
    a, b = pair(x)
    return ops.sum(ops.tanh(a + b), axis=-1, keepdims=True)[..., 0]


def distance(x):
    a, b = pair(x)
    return ops.sqrt(ops.sum(ops.square(a - b), axis=-1) + 1e-3)


def similarity(x):
    a, b = pair(x)
    return ops.sum(a * b, axis=-1)


def length(x):
    # On JAX, Keras can't take a number for the axis here.
    a, b = pair(x)
    return ops.norm(a - b, axis=(-1,)) + ops.norm(a, ord=1, axis=(-1,))


def joined(x):
    return ops.sum(ops.concatenate(pair(x), axis=-1), axis=-1)


def convolved(x):
    x = L.Conv1D(WIDTH, 3, padding="same", name="a")(x)
    return ops.sum(x, axis=2)


def attention(x):
    return L.Flatten()(L.AdditiveAttention(name="attention")([*pair(x)]))


WAYS = {
    f.__name__: f
    for f in (
        *(plain, all_axes, weighed, distance, similarity, length),
        *(joined, convolved, attention),
    )
}


def model_of(way, gate=False):
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, L.Dense(3, name="end")(way(inputs)))
    if gate:
        model = kg.insert_gates(model, filters=1e-4)
    return helpers.randomize(model)


@pytest.mark.parametrize("way", WAYS)
def test_channels_that_scores_close_go(way):
    model = model_of(WAYS[way])
    scores = kg.surgeon.score(model, "l2")
    scores = {name: np.arange(len(s)) % 2 for name, s in scores.items()}
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    small = plan.apply()
    x = helpers.inputs_for(model)
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    made = [layer for layer in small.layers if layer.name in ("a", "b")]
    assert made
    assert all(layer.kernel.shape[-1] == WIDTH // 2 for layer in made)


@pytest.mark.parametrize("way", WAYS)
def test_channels_that_gates_close_go(way):
    model = model_of(WAYS[way], gate=True)
    for gate in helpers.gates_of(model):
        factors = np.linspace(0.6, 1.4, gate.factor.shape[0])
        factors[1::2] = 0
        gate.factor.assign(factors)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.count_params() < model.count_params()


def test_a_constant_that_is_not_zero_stays_in_a_sum():
    inputs = keras.Input((5, 4))
    x = L.Dense(WIDTH, name="a")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.BatchNormalization()(x)
    model = keras.Model(inputs, L.Dense(3)(ops.sum(x, axis=-1)))
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([0, 1] * 4)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))


def test_a_sum_of_nothing_goes_where_another_way_leads_round():
    inputs = keras.Input((5, 4))
    x = kg.FilterGate(name="gate")(L.Dense(WIDTH, name="a")(inputs))
    x = L.Add()([L.Flatten()(ops.sum(x, axis=-1)), L.Dense(5)(inputs[:, 0])])
    model = helpers.randomize(keras.Model(inputs, L.Dense(3)(x)))
    model.get_layer("gate").factor.assign(np.zeros(WIDTH))
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert "a" not in [layer.name for layer in small.layers]


def test_all_that_is_summed_up_may_not_be_closed():
    model = model_of(plain)
    scores = {"a": np.zeros(WIDTH)}
    with pytest.raises(ValueError, match="closed channels of 'a'"):
        kg.surgeon.prune(model, 0.5, scores=scores)


def least(x, axis):
    return ops.norm(x, ord=-np.inf, axis=(axis,))


@pytest.mark.parametrize("reduce", [ops.prod, ops.var, least])
def test_what_counts_zeros_keeps_them(reduce):
    def way(x):
        return reduce(L.Dense(WIDTH, name="a")(x), axis=-1)

    model = model_of(way)
    with pytest.raises(ValueError, match="along axis 2, which has channels"):
        kg.surgeon.score(model, "l2")
