"""Layers of your own, pruned: the truth is the user's own model.

Channels are made zero before the layer and after it, by weights that
are zero; then closing them must not change what the model computes.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.see_through import Seeing
from tests import helpers
from tests.graphs import own_layers as own

DEAD = np.array([2, 5, 6])


def model_of(layer):
    x = keras.Input((own.STEPS, 5))
    y = L.Dense(own.CHANNELS, name="before")(x)
    y = L.Activation("tanh")(layer(y))
    model = keras.Model(x, L.Dense(4, name="after")(y))
    helpers.randomize(model)
    return model


def kill(model, mixed):
    """Make channels zero where they come from, and where they are read."""
    before, after = model.get_layer("before"), model.get_layer("after")
    for weight in before.weights:
        value = helpers.numpy_of(weight)
        value[..., DEAD] = 0.0
        weight.assign(value)
    if not mixed:
        value = helpers.numpy_of(after.kernel)
        value[DEAD] = 0.0
        after.kernel.assign(value)


@pytest.mark.parametrize("name", own.USES)
def test_zero_channels_go_and_the_user_sees_no_difference(name):
    function, shapes, _ = own.USES[name]
    layer = own.Weighted(function, *shapes, name="own")
    model = model_of(layer)
    kill(model, "mixed" in name)
    before = [helpers.numpy_of(w) for w in model.weights]
    calls = len(private.calls_of(layer))
    x = helpers.inputs_for(model)
    want = helpers.numpy_of(model(x))
    scores = kg.surgeon.score(model, "l2")
    ones = {key: np.ones(len(each)) for key, each in scores.items()}
    # Where one channel has to stay, it is the first, and has no score.
    ones["before"][DEAD - (own.CHANNELS - len(ones["before"]))] = 0.0
    plan = kg.surgeon.plan(model, 0.5, scores=ones)
    small = plan.apply()
    assert small.get_layer("before").units == own.CHANNELS - len(DEAD)
    atol = helpers.RTOL * np.abs(want).max()
    got = helpers.numpy_of(small(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    # The user's objects are as they were.
    assert len(private.calls_of(layer)) == calls
    assert all(
        map(np.array_equal, before, map(helpers.numpy_of, model.weights))
    )


def seen(layer, x):
    layer(x)
    return Seeing()(private.calls_of(layer)[-1], False)


def test_layers_with_a_rule_are_not_looked_into():
    assert seen(L.Dense(3), keras.Input((4,))) is None
    assert seen(kg.FilterGate(), keras.Input((4,))) is None


def test_each_layer_is_traced_once():
    layer = own.Weighted(lambda x, w: x * w, own.C)
    x = keras.Input((own.STEPS, own.CHANNELS))
    layer(layer(x))
    seeing = Seeing()
    first, second = (seeing(n, False) for n in private.calls_of(layer))
    assert first is second and isinstance(first, gr.Opened)


def test_a_weight_that_is_used_in_two_ways_keeps_its_layer_closed():
    layer = own.Weighted(lambda x, w: x * w, own.C)
    layer(keras.Input((own.STEPS, own.CHANNELS)))
    layer(keras.Input((own.CHANNELS,)))
    seeing = Seeing()
    first, second = (seeing(n, False) for n in private.calls_of(layer))
    assert isinstance(first, gr.Opened)
    assert isinstance(second, gr.Opaque) and "in two ways" in second.reason


def test_what_is_refused_is_closed_with_its_reason():
    layer = own.Weighted(lambda x, w: x * w, own.C, name="own")
    model = model_of(layer)
    graph = see_through.read(model, refused={layer: "it is asked to stay"})
    (site,) = [s for s in graph.sites if s.op is layer]
    assert site.opened is None and site.opaque == "it is asked to stay"


def test_a_layer_of_two_models():
    layer = own.Weighted(lambda x, w: x * w, own.C, name="own")
    first, second = model_of(layer), model_of(layer)
    for model in (first, second):
        scores = kg.surgeon.score(model, "l2")
        plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
        small = plan.apply()
        assert small.count_params() < model.count_params()
        assert max(plan.verify(small).values()) < helpers.RTOL
    assert first.get_layer("own") is second.get_layer("own") is layer
