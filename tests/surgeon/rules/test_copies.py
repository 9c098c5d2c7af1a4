"""One value, repeated along an axis that meets channels, as attention does."""

import keras
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

UNITS, STEPS = 8, 5


def by_layers(weights):
    x = L.RepeatVector(UNITS)(L.Flatten()(weights))
    return L.Permute((2, 1))(x)


def by_a_product(states, weights):
    return L.Multiply()([states, by_layers(weights)])


# Each weighs the states, `(steps, units)`, by `(steps, 1)`.
WAYS = {
    "RepeatVector": by_a_product,
    "the weights first": lambda h, a: L.Multiply()([by_layers(a), h]),
    "RepeatVector of two": lambda h, a: L.Multiply()(
        [h, L.Permute((2, 1))(L.RepeatVector(UNITS)(L.Reshape((STEPS,))(a)))]
    ),
    "repeat": lambda h, a: h * ops.repeat(a, UNITS, axis=-1),
    "tile": lambda h, a: h * ops.tile(a, (1, 1, UNITS)),
    "tile, without the batch": lambda h, a: h * ops.tile(a, (UNITS,)),
    "broadcast_to": lambda h, a: h * ops.broadcast_to(a, (4, STEPS, UNITS)),
    "added": lambda h, a: L.Add()([h, by_layers(a)]),
    "largest": lambda h, a: L.Maximum()([h, by_layers(a)]),
}


def model(way, reads=lambda x: ops.sum(x, axis=1), states=None, batch=4):
    inputs = keras.Input(batch_shape=(batch, STEPS, 3))
    make = L.Dense(UNITS, activation="relu") if states is None else states
    h = make(inputs)
    a = L.Softmax(axis=1)(L.Dense(1, activation="tanh")(h))
    x = reads(WAYS[way](h, a))
    return helpers.randomize(keras.Model(inputs, L.Dense(2)(x)))


def pruned(network):
    """What is left of half the channels, after a comparison."""
    scores = kg.surgeon.score(network, "random", seed=1)
    plan = kg.surgeon.plan(network, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    found = kg.surgeon.verify(network, small, plan, samples=4)
    assert max(found.values()) < 1e-5, found
    return small


READS = {
    "sum": lambda x: ops.sum(x, axis=1),
    "mean": lambda x: ops.mean(x, axis=1),
    "pooling": L.GlobalAveragePooling1D(),
    "each step": lambda x: x,
}


@pytest.mark.parametrize("way", WAYS)
def test_channels_go_with_their_copies(way):
    small = pruned(model(way))
    assert small.layers[1].units == UNITS // 2


@pytest.mark.parametrize("name", READS)
def test_whatever_reads_them(name):
    small = pruned(model("RepeatVector", READS[name]))
    assert small.layers[1].units == UNITS // 2


def test_recurrent_units_go_with_theirs():
    states = L.LSTM(UNITS, return_sequences=True)
    small = pruned(model("RepeatVector", states=states))
    assert small.layers[1].units == UNITS // 2
    (repeat,) = (x for x in small.layers if isinstance(x, L.RepeatVector))
    assert repeat.n == UNITS // 2


def test_gates_close_them_as_well():
    gated = kg.insert_gates(model("RepeatVector"), filters=True)
    gate = helpers.gates_of(gated)[0]
    gate.factor.assign([0.0, 1.2, 0.9, 0.0, 1.1, 0.0, 0.8, 1.3])
    small = kg.surgeon.prune(gated, helpers.THRESHOLD)
    helpers.assert_same(gated, small)
    assert small.layers[1].units == UNITS - 3


def test_steps_that_are_copies_are_no_channels():
    inputs = keras.Input((6,))
    x = L.RepeatVector(STEPS)(L.Dense(UNITS, activation="relu")(inputs))
    x = L.Dense(4, activation="relu")(x)
    small = pruned(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    (repeat,) = (x for x in small.layers if isinstance(x, L.RepeatVector))
    assert repeat.n == STEPS


def test_a_layer_that_is_called_twice_has_one_size():
    inputs = keras.Input((STEPS, 3))
    repeat, permute = L.RepeatVector(UNITS), L.Permute((2, 1))
    total = []
    for _ in range(2):
        h = L.Dense(UNITS, activation="relu")(inputs)
        a = L.Softmax()(L.Flatten()(L.Dense(1)(h)))
        total.append(L.Multiply()([h, permute(repeat(a))]))
    x = ops.mean(L.Concatenate()(total), axis=1)
    network = helpers.randomize(keras.Model(inputs, L.Dense(2)(x)))
    small = pruned(network)
    widths = [x.units for x in small.layers if isinstance(x, L.Dense)]
    assert widths.count(UNITS // 2) == 2
