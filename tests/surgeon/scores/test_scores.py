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
    y = y + z  # An operation, no layer: it has no weights.
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


@pytest.mark.parametrize(
    "ignore, left",
    [
        (("second",), ["first"]),
        (("head",), ["first", "second"]),  # whose channels stay in any case
        (("first", "head"), ["second"]),
    ],
)
def test_any_layer_may_be_ignored(ignore, left):
    assert list(kg.surgeon.score(chain(), "l1", ignore=ignore)) == left


def test_each_layer_may_have_a_share_of_its_own():
    model = chain()
    scores = kg.surgeon.score(model, "l2")
    shares = {"group": kg.Quantile(0.5), "second": kg.Quantile(0.2)}
    small = kg.surgeon.prune(model, shares, scores=scores)
    units = [small.get_layer(n).units for n in ("first", "second")]
    assert units == [3, 4]


def test_local_and_global_ranking():
    model = chain()
    first = np.arange(1.0, 7)
    scores = {"first": first, "second": 100 + np.arange(5.0)}
    closed = kg.surgeon.plan(model, kg.Quantile(0.4), scores=scores).closed
    assert closed == {"first": [0, 1, 2, 3], "second": []}
    local = kg.Quantile(0.4, scope="gate")
    closed = kg.surgeon.plan(model, local, scores=scores).closed
    assert closed == {"first": [0, 1], "second": [0, 1]}


# Scores of gates -------------------------------------------------------------


def gated():
    """Two gates, whose factors say other things than their scores."""
    inputs = keras.Input((4,))
    x = L.Dense(6, activation="relu", name="first")(inputs)
    x = kg.FilterGate(name="gate1")(x)
    x = L.Dense(5, activation="relu", name="second")(x)
    x = kg.FilterGate(name="gate2")(x)
    model = keras.Model(inputs, L.Dense(2, name="head")(x))
    helpers.randomize(model, closed="none")
    return model


SCORES = {
    "gate1": np.array([5.0, 1.0, 4.0, 2.0, 6.0, 3.0]),
    "gate2": np.array([9.0, 8.0, 0.5, 7.0, 0.6]),
}


def test_gates_are_closed_by_their_scores():
    model = gated()
    plan = kg.surgeon.plan(model, kg.Quantile(0.4), scores=SCORES)
    assert plan.closed == {"gate1": [1, 3], "gate2": [2, 4]}
    small = plan.apply()
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    for gate, shut in plan.closed.items():
        factor = model.get_layer(gate).factor
        values = helpers.numpy_of(factor)
        values[shut] = 0.0
        factor.assign(values)
    helpers.assert_same(model, small)


def test_gates_without_scores_stay_open():
    some = {"gate2": SCORES["gate2"]}
    plan = kg.surgeon.plan(gated(), kg.Quantile(0.4), scores=some)
    assert plan.closed.get("gate1", []) == []
    assert plan.closed["gate2"] == [2, 4]
    shares = {"filter": kg.Quantile(0.4)}
    plan = kg.surgeon.plan(gated(), shares, scores=some)
    assert plan.closed.get("gate1", []) == []
    shares["gate1"] = 10.0  # by name, and so by its factors
    plan = kg.surgeon.plan(gated(), shares, scores=some, keep_at_least=1)
    assert len(plan.closed["gate1"]) == 5


@pytest.mark.filterwarnings("ignore:Budget.*larger steps:UserWarning")
def test_floors_and_multiples_go_by_the_scores_of_gates():
    model = gated()
    plan = kg.surgeon.plan(model, 5.5, scores=SCORES, keep_at_least=2)
    assert plan.closed["gate1"] == [1, 2, 3, 5]
    plan = kg.surgeon.plan(model, 3.5, scores=SCORES, round_to=4)
    assert plan.closed["gate1"] == [1, 3]
    budget = kg.Budget(macs=0.6)
    plan = kg.surgeon.plan(model, budget, scores=SCORES)
    closed = np.isin(np.arange(6), plan.closed["gate1"])
    assert closed.any()
    assert SCORES["gate1"][closed].max() < SCORES["gate1"][~closed].min()


def test_what_score_returns_for_gates_is_taken():
    model = gated()
    model.compile(loss="mse")
    data = helpers.inputs_for(model, batch=6), np.zeros((6, 2), "float32")
    scores = kg.surgeon.score(model, "taylor", data, of="gates")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    assert sum(map(len, plan.closed.values())) == 5


@pytest.mark.parametrize(
    "scores, error, words",
    [
        ([1.0], TypeError, "must be a dict from the names"),
        ({"gate1": np.ones(5)}, ValueError, r"'gate1'.*shape \(6,\)"),
        ({"gate1": np.full(6, np.nan)}, ValueError, "finite"),
        ({"nowhere": np.ones(6)}, ValueError, "not the first layer of a group"),
    ],
)
def test_bad_scores(scores, error, words):
    with pytest.raises(error, match=words):
        kg.surgeon.prune(gated(), 0.5, scores=scores)


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
        ({"of": "layers"}, '"groups", "dims" or "gates"'),
        ({"of": "gates"}, "are without scores"),
        ({"normalize": "most"}, "`normalize` must be"),
        ({"ignore": ("nowhere",)}, "'nowhere'.*'first'.*'second'"),
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


def obs_pair():
    model = keras.Sequential(
        [
            keras.Input((12,)),
            L.Dense(8, name="hidden"),
            L.Dense(3, name="reader"),
        ]
    )
    helpers.randomize(model)
    x = np.random.default_rng(2).normal(size=(256, 12)).astype("float32")
    return model, x


def test_obs_is_what_least_squares_is_off_by():
    model, x = obs_pair()
    costs = kg.surgeon.score(model, "obs", x, normalize=None)["hidden"]
    hidden, reader = map(model.get_layer, ("hidden", "reader"))
    h = x @ helpers.numpy_of(hidden.kernel)
    y = h @ helpers.numpy_of(reader.kernel)
    h, y = h - h.mean(axis=0), y - y.mean(axis=0)
    wrong = []
    for unit in range(8):
        rest = np.delete(h, unit, axis=1)
        fitted = rest @ np.linalg.lstsq(rest, y, rcond=None)[0]
        wrong.append((((y - fitted) ** 2).mean(0) / y.var(0)).sum())
    first = np.argmin(wrong)
    assert first == np.argmin(costs)
    # A ridge of a hundredth keeps H from being singular, and costs up.
    assert wrong[first] < costs[first] < 1.25 * wrong[first]


def test_obs_knows_what_the_others_can_stand_for():
    """A copy of a channel costs nothing, its twin then all that both do."""
    model, x = obs_pair()
    hidden = model.get_layer("hidden")
    kernel = helpers.numpy_of(hidden.kernel)
    kernel[:, 5] = kernel[:, 2]
    hidden.kernel.assign(kernel)
    costs = kg.surgeon.score(model, "obs", x, normalize=None)["hidden"]
    first, second = np.sort(costs[[2, 5]])
    assert first == costs.min() < 0.1 * second


def test_obs_weighs_layers_by_the_loss_where_there_are_labels():
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    used = L.Dense(8, "relu", name="used")(x)
    idle = L.Dense(8, "relu", name="idle")(x)
    idle = L.Dense(4, "relu", name="behind")(idle)
    little = keras.initializers.RandomNormal(stddev=1e-4)
    idle = L.Dense(2, kernel_initializer=little)(idle)
    model = keras.Model(x, L.Add()([L.Dense(2)(used), idle]))
    data = np.random.default_rng(0).normal(size=(128, 6)).astype("float32")
    labels = np.random.default_rng(1).normal(size=(128, 2))
    plain = kg.surgeon.score(model, "obs", data, normalize=None)
    aware = kg.surgeon.score(
        model, "obs", (data, labels), loss="mse", normalize=None
    )
    assert plain["idle"].mean() > 0.1 * plain["used"].mean()
    assert aware["idle"].mean() < 0.1 * aware["used"].mean()
