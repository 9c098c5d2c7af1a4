"""The pruned model trains, in memory, flags and precision of its own."""

import keras
import numpy as np
import pytest

from keras_gates.surgeon import prune
from tests import helpers
from tests.surgeon import small_models as sm
from tests.surgeon.results import parts_of
from tests.surgeon.results import same
from tests.surgeon.results import weights_of

T = helpers.THRESHOLD


def fit(model, steps=1):
    """Train for a few steps on random data."""
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    x = helpers.inputs_for(model)
    y = keras.tree.map_structure(
        lambda kt: np.ones((4, *kt.shape[1:]), "float32"),
        helpers.functional(model)._outputs_struct,
    )
    model.fit(x, y, epochs=steps, verbose=0)


@pytest.mark.parametrize("change", [helpers.bump, fit])
@pytest.mark.parametrize("closed", ["none", "half"])
@pytest.mark.parametrize("make", [sm.constants, sm.siamese, sm.sequence])
def test_original_and_result_share_no_memory(make, closed, change):
    """With nothing closed, weights are copied whole: easy to alias."""
    model = helpers.randomize(make(), closed=closed)
    small = prune(model, T)
    old, new = weights_of(model), weights_of(small)
    change(small)
    assert same(old, weights_of(model))
    assert not same(new, weights_of(small))
    new = weights_of(small)
    change(model)
    assert same(new, weights_of(small))
    helpers.run(small, helpers.inputs_for(small))


@pytest.mark.parametrize("make", sm.MODELS)
def test_it_trains(make):
    small = prune(make(), T)
    before = {w.path: helpers.numpy_of(w) for w in small.weights}
    fit(small)
    still = [
        weight.path
        for weight in small.trainable_weights
        if np.array_equal(before[weight.path], helpers.numpy_of(weight))
    ]
    # A bias before a normalization has a gradient of zero, and a ReLU
    # can be shut for all of four samples: most weights move, not each.
    assert len(still) <= len(small.trainable_weights) / 2, still
    assert all(np.isfinite(w).all() for w in weights_of(small))


# Training ------------------------------------------------------------------


def flags(model):
    return {p.name: p.trainable for p in parts_of(model)}


@pytest.mark.parametrize(
    "frozen", [[], ["conv1"], ["norm", "conv2"], ["gate1"], ["out"]]
)
def test_layers_that_were_frozen_stay_frozen(frozen):
    model = sm.constants()
    for name in frozen:
        model.get_layer(name).trainable = False
    small = prune(model, T)
    before = flags(model)
    for layer in small.layers:
        assert layer.trainable is before[layer.name], layer.name
    held = [
        w for n in frozen if n != "gate1" for w in small.get_layer(n).weights
    ]
    values = [helpers.numpy_of(w) for w in held]
    fit(small)
    assert same(values, [helpers.numpy_of(w) for w in held])


def test_models_that_were_frozen_stay_frozen():
    model = sm.siamese()
    tower = model.get_layer("tower")
    tower.trainable = False
    assert not prune(model, T).get_layer("tower").trainable_weights
    tower.get_layer("code").trainable = True
    small = prune(model, T).get_layer("tower")
    assert not small.trainable
    assert small.get_layer("code").trainable
    assert not small.get_layer("hidden").trainable
    model.trainable = False
    assert not prune(model, T).trainable_weights


def test_batch_normalization_still_learns_its_statistics():
    small = prune(sm.constants(), T)
    norm = small.get_layer("norm")
    before = helpers.numpy_of(norm.moving_mean)
    fit(small)
    assert not np.allclose(before, helpers.numpy_of(norm.moving_mean))
    assert norm.momentum == 0.99


def test_dropout_drops_in_training_only_and_starts_where_it_was():
    model = sm.sequential(closed="none")
    x = helpers.inputs_for(model, batch=64)
    model(x, training=True)  # moves the seed on
    small = prune(model, T)
    assert small.get_layer("dropout").rate == 0.3
    states = [
        helpers.numpy_of(m.get_layer("dropout").seed_generator.state)
        for m in (model, small)
    ]
    assert np.array_equal(*states)
    first, second = (helpers.numpy_of(small(x, training=True)) for _ in "ab")
    assert np.abs(first - second).max() > 0.01
    assert same(helpers.run(small, x), helpers.run(small, x))


# Precision -----------------------------------------------------------------

# One rounding is off by 2^-9 in bfloat16 and by 2^-12 in float16; where
# factors are folded, each of some ten operations rounds in another place.
POLICIES = {
    "mixed_bfloat16": ("float32", 10 * 2**-9),
    "mixed_float16": ("float32", 10 * 2**-12),
    "float16": ("float16", 10 * 2**-12),
}


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", POLICIES, indirect=True)
@pytest.mark.parametrize("make", [sm.convnet, sm.rescaled])
def test_policies_are_kept(make, policy):
    variables, tolerance = POLICIES[policy]
    model = make()
    small = prune(model, T)
    names = {layer.name for layer in model.layers}
    for layer in small.layers:
        if layer.name in names:
            before = model.get_layer(layer.name).dtype_policy
            assert layer.dtype_policy.name == before.name
    assert {w.dtype for w in small.weights} == {variables}
    helpers.assert_same(model, small, rtol=tolerance)
