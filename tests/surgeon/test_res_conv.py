"""Whole layers go where a ResConv's m is below the threshold."""

import keras
from keras import layers as L

import keras_gates as kg
from tests import helpers


def network():
    x = keras.Input((8, 8, 3))
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="wider")(x)
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="goes")(y)
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="stays")(y)
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    helpers.randomize(model)
    for name, m in (("wider", 0.5), ("goes", 0.01), ("stays", 0.7)):
        model.get_layer(name).m.assign(m)
    return model


def test_a_closed_layer_leaves_its_shortcut():
    model = network()
    before = helpers.fingerprint(model)
    plan = kg.surgeon.plan(model, {"layer": 0.1})
    assert {n: at for n, at in plan.closed.items() if at} == {"goes": [0]}
    small = plan.apply()
    names = {layer.name for layer in small.layers}
    assert "stays_conv" in names and "goes_conv" not in names
    # Relative to the largest output: float32 sums in another order.
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    assert helpers.fingerprint(model) == before


def test_nothing_of_the_layer_is_left_but_stock_keras():
    small = kg.surgeon.prune(network(), 0.1)
    kinds = {type(layer).__module__.split(".")[0] for layer in small.layers}
    assert kinds == {"keras"}
