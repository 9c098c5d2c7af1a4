"""Scores of coupled channels, against the same by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

T = helpers.THRESHOLD


def network():
    x = keras.Input((6, 6, 2))
    y = L.Conv2D(5, 3, padding="same", name="stem")(x)
    z = L.BatchNormalization(name="bn")(y)
    z = L.ReLU(name="relu")(z)
    z = L.Conv2D(5, 3, padding="same", name="branch")(z)
    y = L.Add(name="add")([y, z])
    y = L.GlobalAveragePooling2D(name="pool")(y)
    model = keras.Model(x, L.Dense(3, name="head")(y))
    helpers.randomize(model)
    return model


def chain():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(6, activation="relu", name="first"),
            L.Dropout(0.5),
            L.Dense(5, activation="relu", name="second"),
            L.Dense(2, name="head"),
        ]
    )
    helpers.randomize(model)
    return model


def kernel(model, name):
    return helpers.numpy_of(model.get_layer(name).kernel).astype("float64")


def rows(array, axis):
    array = np.moveaxis(array, axis, 0)
    return array.reshape(len(array), -1)


NORMS = {
    "l1": lambda r: np.abs(r).sum(1),
    "l2": lambda r: np.sqrt((r**2).sum(1)),
}


@pytest.mark.parametrize("criterion", NORMS)
def test_norms_are_means_over_the_whole_group(criterion):
    model = network()
    found = kg.surgeon.score(model, criterion, normalize=None)
    stem, branch, head = (
        kernel(model, name) for name in ("stem", "branch", "head")
    )
    members = [
        *(rows(stem, -1), rows(branch, -1)),
        *(rows(branch, -2), rows(head, -2)),
    ]
    expected = np.mean([NORMS[criterion](m) for m in members], axis=0)
    assert list(found) == ["stem"]
    np.testing.assert_allclose(found["stem"], expected, rtol=1e-6)


def test_geometric_median_is_the_distance_to_all_others():
    model = chain()
    found = kg.surgeon.score(model, "fpgm", normalize=None)
    filters = kernel(model, "first").T
    expected = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    # The distance of a filter to itself comes out as a rounding error.
    np.testing.assert_allclose(found["first"], expected, rtol=1e-5)


def test_batch_norm_is_the_size_of_gamma():
    model = network()
    found = kg.surgeon.score(model, "batch_norm", normalize=None)
    gamma = helpers.numpy_of(model.get_layer("bn").gamma)
    np.testing.assert_allclose(found["stem"], np.abs(gamma), rtol=1e-6)


@pytest.mark.parametrize("criterion", ["apoz", "mean"])
def test_activations(criterion):
    model = chain()
    x = helpers.inputs_for(model, batch=50)
    found = kg.surgeon.score(model, criterion, x, normalize=None, batch_size=16)
    for name in ("first", "second"):
        probe = keras.Model(model.inputs[0], model.get_layer(name).output)
        y = helpers.numpy_of(probe(x))
        expected = (y != 0).mean(0) if criterion == "apoz" else y.mean(0)
        # Sums of 50 in float32, by batches.
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_taylor_is_what_a_small_step_of_each_gate_does():
    model = chain()
    x = helpers.inputs_for(model, batch=8)
    y = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    found = kg.surgeon.score(
        model, "taylor", (x, y), loss="mse", normalize=None
    )
    first = keras.Model(model.inputs[0], model.get_layer("first").output)
    hidden = helpers.numpy_of(first(x)).astype("float64")
    second, head = model.get_layer("second"), model.get_layer("head")

    def loss(factors):
        z = hidden * factors
        for layer, last in ((second, False), (head, True)):
            z = z @ kernel(model, layer.name) + helpers.numpy_of(layer.bias)
            z = z if last else np.maximum(z, 0)
        return ((z - y) ** 2).mean()

    step, ones = 1e-6, np.ones(6)
    expected = [
        abs(loss(ones + step * e) - loss(ones - step * e)) / (2 * step)
        for e in np.eye(6)
    ]
    # Central differences in float64 against a gradient in float32.
    np.testing.assert_allclose(found["first"], expected, rtol=1e-3, atol=1e-5)


def test_taylor_of_gates():
    x = keras.Input((4,))
    gate = kg.FilterGate(name="gate")
    y = gate(L.Dense(3, name="dense")(x))
    model = keras.Model(x, y)
    helpers.randomize(model)
    gate.factor.assign([0.5, -2.0, 0.0])
    model.compile(loss="mse")
    data = helpers.inputs_for(model, batch=6)
    truth = np.zeros((6, 3), "float32")
    found = kg.surgeon.score(
        model, "taylor", (data, truth), of="gates", normalize=None
    )
    before = helpers.numpy_of(model.get_layer("dense")(data))
    factor = np.array([0.5, -2.0, 0.0])
    gradient = (2 * factor * before**2).sum(0) / truth.size
    # A gradient of six samples in float32.
    np.testing.assert_allclose(
        found["gate"], np.abs(factor * gradient), rtol=1e-4, atol=1e-7
    )


def test_the_model_is_left_as_it_was():
    model = chain()
    x = helpers.inputs_for(model)
    y = np.zeros((len(x), 2), "float32")
    before = helpers.fingerprint(model)
    for criterion in ("l2", "apoz", "taylor"):
        kg.surgeon.score(model, criterion, (x, y), loss="mse")
    assert helpers.fingerprint(model) == before


def test_random_repeats_with_its_seed():
    one, two, other = (
        kg.surgeon.score(chain(), "random", seed=seed)["first"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_layers_may_be_compared_or_left_out():
    found = kg.surgeon.score(chain(), "l1", ignore=("second",))
    assert list(found) == ["first"]
    np.testing.assert_allclose(found["first"].mean(), 1.0)


def test_what_scores_close_is_cut():
    model = network()
    scores = kg.surgeon.score(model, "l1")
    plan = kg.surgeon.plan(model, kg.Quantile(0.4), scores=scores)
    small = plan.apply()
    assert small.get_layer("branch").filters == 3
    smallest = np.argsort(scores["stem"])[:2]
    assert sorted(plan.closed["stem"]) == sorted(smallest.tolist())
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.parametrize(
    "options, words",
    [
        ({"criterion": "l3"}, "'l3'.*'l1', 'l2', 'fpgm'"),
        ({"criterion": "taylor"}, "needs data"),
        ({"criterion": "apoz"}, "needs data"),
        ({"of": "layers"}, '"groups" or "gates"'),
        ({"of": "gates"}, "are without scores"),
        ({"normalize": "most"}, "`normalize` must be"),
        ({"ignore": ("nowhere",)}, "'nowhere'.*first, second"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        kg.surgeon.score(chain(), **options)


def test_taylor_needs_labels_and_a_loss():
    model = chain()
    x = helpers.inputs_for(model)
    with pytest.raises(ValueError, match="needs labels"):
        kg.surgeon.score(model, "taylor", x, loss="mse")
    with pytest.raises(ValueError, match="not compiled"):
        kg.surgeon.score(model, "taylor", (x, x))
