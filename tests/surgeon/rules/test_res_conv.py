"""Whole layers go where a ResConv's m is below the threshold."""

import keras
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers


def network():
    x = keras.Input((8, 8, 3))
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="wider")(x)
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="goes")(y)
    y = kg.ResConv(6, 3, padding="same", activation="relu", name="stays")(y)
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    # With most seeds a negative `g` and the ReLUs leave an output that hardly
    # varies.
    helpers.randomize(model, seed=3)
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


# The strength of a shortcut that is left ------------------------------------


def one_goes(activation, g, between=None):
    x = keras.Input((8, 8, 6))
    y = kg.ResConv(6, 3, activation=activation, name="before")(x)
    y = kg.ResConv(6, 3, activation=activation, name="goes")(y)
    y = between(y) if between else y
    y = kg.ResConv(6, 3, activation=activation, name="behind")(y)
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    helpers.randomize(model)
    for name, m in (("before", 0.8), ("goes", 0.0), ("behind", 0.9)):
        model.get_layer(name).m.assign(m)
        model.get_layer(name).g.assign(1.0)
    model.get_layer("goes").g.assign(g)
    return model


# Activation, g, what comes between, and whether g is left as a layer. Only
# what is homogeneous lets a factor pass, and a ReLU a positive one alone.
STRENGTHS = [
    ("relu", 0.7, None, False),
    ("relu", 0.7, L.MaxPooling2D, False),
    ("relu", 1.0, L.MaxPooling2D, False),
    ("leaky_relu", 0.7, None, False),
    ("linear", -0.7, None, False),
    ("relu", -0.7, None, True),
    # Into the one before.
    ("linear", -0.7, L.MaxPooling2D, False),
    ("relu", -0.7, L.MaxPooling2D, True),
    ("relu6", 0.7, None, True),
    ("silu", 0.7, None, True),
    ("relu6", 1.0, None, False),
]


@pytest.mark.parametrize("activation, g, between, left", STRENGTHS)
def test_g_goes_into_the_next_layer_where_it_may(activation, g, between, left):
    model = one_goes(activation, g, between and between())
    small = kg.surgeon.prune(model, 0.1)
    fused = kg.fuse(small)
    scales = [x for x in fused.layers if isinstance(x, L.Rescaling)]
    assert len(scales) == left
    assert sum(isinstance(x, L.Conv2D) for x in fused.layers) == 2
    # A ReLU of what is negative is constant: no output could vary.
    helpers.assert_same(model, fused, threshold=0.1, vary=g > 0)


# Called at several places ---------------------------------------------------


def twice(x):
    layer = kg.ResConv(4, 3, activation="leaky_relu", name="shared")
    return layer(kg.ResConv(4, 3, name="between")(layer(x)))


def nested_and_outside(x):
    layer = kg.ResConv(4, 3, activation="leaky_relu", name="shared")
    inputs = keras.Input((8, 8, 4))
    between = kg.ResConv(4, 3, name="between")
    block = keras.Model(inputs, between(layer(inputs)))
    return layer(block(layer(x)))


def of_other_sizes(x):
    """ "same" pads 8 pixels behind, and 5 on both sides."""
    layer = kg.ResConv(4, 3, 2, activation="leaky_relu", name="shared")
    y = L.Cropping2D(((0, 3), (0, 3)))(x)
    y = kg.ResConv(4, 3, name="between")(y)
    ends = [L.GlobalAveragePooling2D()(layer(z)) for z in (x, y)]
    return L.Concatenate()(ends)


SHARED = [twice, nested_and_outside, of_other_sizes]


@pytest.mark.parametrize("build", SHARED)
@pytest.mark.parametrize("closed", ["shared", "between", None])
def test_a_layer_that_is_called_at_several_places(build, closed):
    x = keras.Input((8, 8, 4))
    y = build(x)
    y = L.Flatten()(y) if len(y.shape) > 2 else y
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    for layer in helpers.layers_of(model):
        if isinstance(layer, kg.ResConv):
            layer.m.assign(0.01 if layer.name == closed else 0.8)
    plan = kg.surgeon.plan(model, {"layer": 0.1})
    small = plan.apply()
    helpers.assert_same(model, small, threshold=0.1)
    helpers.assert_same(model, kg.fuse(small), threshold=0.1)
    convs = [x for x in helpers.layers_of(small) if isinstance(x, L.Conv2D)]
    assert len(convs) == 2 - (closed is not None)
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
