"""Gates on a stream that weights are joined with: positions, tokens."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.solving import removable

WIDTH, STEPS = 32, 6


class Positions(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="table"
        )

    def call(self, x):
        return x + self.table


class Token(layers.Layer):
    """Puts a learned step before the others."""

    def build(self, shape):
        self.token = self.add_weight(
            shape=(1, 1, shape[-1]), initializer="random_normal", name="token"
        )

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, WIDTH))
        return ops.concatenate([token, x], axis=1)


def block(x):
    y = layers.LayerNormalization()(x)
    y = layers.Dense(64, activation="relu")(y)
    return layers.Add()([x, layers.Dense(WIDTH)(y)])


def words(*joins):
    inputs = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(10, WIDTH)(inputs)
    for join in joins:
        x = join(x)
    x = layers.GlobalAveragePooling1D()(block(x))
    return keras.Model(inputs, layers.Dense(3)(x))


def images(*joins):
    inputs = keras.Input((4, 6, 1))
    x = layers.Conv2D(WIDTH, 2, strides=2)(inputs)
    x = layers.Reshape((STEPS, WIDTH))(x)
    for join in joins:
        x = join(x)
    x = layers.LayerNormalization()(block(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def data(model):
    shape = (5, *model.input_shape[1:])
    return np.random.default_rng(0).integers(0, 10, shape).astype("float32")


@pytest.mark.parametrize("make", [words, images])
def test_a_gate_behind_positions_removes_channels(make):
    keras.utils.set_random_seed(0)
    model = make(Positions())
    gated = kg.insert_gates(model, filters=True)
    x = data(model)
    whole = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(ops.convert_to_numpy(gated(x)), whole, atol=1e-6)
    (gate,) = (
        layer
        for layer in gated.layers
        if isinstance(layer, kg.FilterGate)
        and tuple(layer.factor.shape) == (WIDTH,)
    )
    gate.factor.assign([0.0] * 16 + [1.0] * (WIDTH - 16))
    plan = kg.surgeon.plan(gated, 0.5)
    assert plan.params.after < 0.7 * plan.params.before
    # By hand: what the gated model computes with these factors.
    expected = ops.convert_to_numpy(gated(x))
    found = ops.convert_to_numpy(plan.apply()(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "joins, last",
    [((Positions,), 0), ((Token,), 0), ((Token, Positions), 1)],
    ids=["positions", "token", "both"],
)
@pytest.mark.parametrize("make", [words, images])
def test_the_gate_is_behind_all_that_is_joined(make, joins, last):
    model = make(*(join(name=f"join{n}") for n, join in enumerate(joins)))
    told = str(kg.transforms.find_structure(model))
    (stream,) = [
        line
        for line in told.splitlines()
        if line.startswith("filters") and f"join{last}" in line
    ]
    assert stream.split()[2].strip(",") == f"join{last}"
    assert "dense" in stream.split()[3]


def test_channels_that_a_table_keeps_are_in_vain():
    """All else may go with a branch, which is not their doing."""
    stream, hidden = kg.FilterGate(name="s"), kg.FilterGate(name="h")
    inputs = keras.Input((STEPS,), dtype="int32")
    x = Positions()(stream(layers.Embedding(10, WIDTH)(inputs)))
    y = layers.Dense(12, activation="relu")(layers.LayerNormalization()(x))
    y = stream(layers.Dense(WIDTH)(hidden(y)))
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(3)(x))
    vain = removable.never(expand.read(model), ["s", "h"])
    assert vain["s"].all() and not vain["h"].any()
