"""`normalize_gammas`: the same function, and a fairer ranking."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from keras_gates.transforms import normalize_gammas
from tests import helpers


def network(**options):
    """Two ResConvs: the first has the larger m, and contributes less."""
    x = keras.Input((8, 8, 4))
    y = kg.ResConv(4, 3, activation="relu", name="loud", **options)(x)
    y = kg.ResConv(4, 3, activation="relu", name="true", **options)(y)
    pooled = keras.layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, keras.layers.Dense(2)(pooled))
    helpers.randomize(model)
    for name, m, gamma in (("loud", 0.5, 0.01), ("true", -0.1, 10.0)):
        layer = model.get_layer(name)
        layer.m.assign(m)
        if layer.norm is not None and layer.norm.gamma is not None:
            layer.norm.gamma.assign(layer.norm.gamma * gamma)
    return model


def effective(model):
    """`m * rms(gamma)` by name, by hand."""
    found = {}
    for name in ("loud", "true"):
        layer = model.get_layer(name)
        gamma = helpers.numpy_of(layer.norm.gamma).astype("float64")
        found[name] = helpers.numpy_of(layer.m) * np.sqrt((gamma**2).mean())
    return found


def test_the_function_stays_and_m_is_what_a_layer_contributes():
    model = network()
    before = helpers.fingerprint(model)
    ranked = normalize_gammas(model)
    helpers.assert_same(model, ranked, threshold=0.0)
    for name, value in effective(model).items():
        # Two products in float32.
        np.testing.assert_allclose(
            helpers.numpy_of(ranked.get_layer(name).m), value, rtol=1e-6
        )
        gamma = helpers.numpy_of(ranked.get_layer(name).norm.gamma)
        np.testing.assert_allclose((gamma**2).mean(), 1, rtol=1e-6)
    assert helpers.fingerprint(model) == before


def test_the_ranking_is_another():
    model = network()
    half = {"layer": kg.Quantile(0.5)}
    by_m = kg.surgeon.plan(model, half)
    assert [n for n, at in by_m.closed.items() if at] == ["true"]
    ranked = normalize_gammas(model)
    plan = kg.surgeon.plan(ranked, half)
    assert [n for n, at in plan.closed.items() if at] == ["loud"]
    # Relative to the largest output: float32 sums in another order.
    assert max(kg.surgeon.verify(ranked, plan.apply(), plan).values()) < 1e-5


@pytest.mark.parametrize("options", [False, {"scale": False}])
def test_a_layer_without_gammas_stays(options):
    model = network(batch_norm=options)
    ranked = normalize_gammas(model)
    for old, new in zip(model.weights, ranked.weights, strict=True):
        np.testing.assert_array_equal(*map(helpers.numpy_of, (old, new)))


def test_gammas_of_zero_close_the_layer_and_keep_the_shift():
    model = network()
    norm = model.get_layer("true").norm
    norm.gamma.assign(0.0 * norm.gamma)
    ranked = normalize_gammas(model)
    helpers.assert_same(model, ranked, threshold=0.0)
    assert abs(helpers.numpy_of(ranked.get_layer("true").m)) < 1e-6


def test_a_layer_that_is_called_twice_or_nested_is_done_once():
    layer = kg.ResConv(4, 3, name="shared")
    inner = keras.Input((8, 8, 4))
    block = keras.Model(inner, layer(layer(inner)))
    x = keras.Input((8, 8, 4))
    model = helpers.randomize(keras.Model(x, block(block(x))))
    helpers.assert_same(model, normalize_gammas(model), threshold=0.0)


def test_a_model_without_is_refused():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2)(x), name="bare")
    with pytest.raises(ValueError, match="'bare' has no ResConv"):
        normalize_gammas(model)
    with pytest.raises(TypeError, match="built Keras model"):
        normalize_gammas(keras.layers.Dense(2))
