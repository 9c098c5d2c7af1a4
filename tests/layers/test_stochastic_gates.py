"""Hard concrete gates: random in training, plain gates for the surgeon."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers

LOG_ALPHA = np.array([-9.0, -2.0, 0.0, 1.5, 9.0, -2.5, 2.5, -1.0])
GATES = [kg.FilterGate, kg.LayerGate, kg.BranchGate, kg.BlockGate]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def factors_of(log_alpha):
    return np.clip(1.2 * sigmoid(log_alpha) - 0.1, 0, 1)


def built(shape=(8,), **options):
    gate = kg.FilterGate(stochastic=True, **options)
    gate.build((None, *shape))
    return gate


def numpy_of(x):
    return keras.ops.convert_to_numpy(x)


def test_inference_multiplies_by_the_stretched_sigmoid():
    gate = built()
    gate.weight.assign(LOG_ALPHA)
    x = np.ones((2, 8), "float32")
    expected = factors_of(LOG_ALPHA)
    np.testing.assert_allclose(numpy_of(gate(x))[0], expected, atol=1e-6)
    np.testing.assert_allclose(numpy_of(gate.factor), expected, atol=1e-6)
    assert numpy_of(gate.factor)[[0, 5]].tolist() == [0, 0]
    assert numpy_of(gate.factor)[[4, 6]].tolist() == [1, 1]


def test_training_draws_of_the_hard_concrete_distribution():
    gate = built((4000,), seed=3)
    log_alpha = np.repeat([-1.0, 0.0, 1.0, 2.0], 1000)
    gate.weight.assign(log_alpha)
    x = np.ones((1, 4000), "float32")
    first, second = (numpy_of(gate(x, training=True))[0] for _ in range(2))
    assert (first != second).any()
    for part in np.split(np.stack([first, second]), 4, 1):
        assert ((part >= 0) & (part <= 1)).all()
    shift = 2 / 3 * np.log(0.1 / 1.1)
    for at, share in zip(
        np.split(first, 4), sigmoid(log_alpha[::1000] - shift), strict=True
    ):
        # Four deviations of a share of 1,000.
        assert abs((at > 0).mean() - share) < 4 * np.sqrt(0.25 / 1000)


@pytest.mark.parametrize("cls", GATES)
def test_ones_leave_the_function_as_it_is(cls):
    x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    gate = cls(stochastic=True)
    np.testing.assert_array_equal(numpy_of(gate(x)), x)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.7])
def test_other_starts_are_those_of_the_factor(start):
    gate = built(initializer=keras.initializers.Constant(start))
    np.testing.assert_allclose(numpy_of(gate.factor), start, atol=1e-5)


def test_the_penalty_is_on_the_chance_to_be_open():
    gate = built(regularizer=kg.regularizers.L1(0.5))
    gate.weight.assign(LOG_ALPHA)
    expected = 0.5 * sigmoid(LOG_ALPHA - 2 / 3 * np.log(0.1 / 1.1)).sum()
    np.testing.assert_allclose(
        float(numpy_of(gate.losses[0])), expected, rtol=1e-5
    )


@pytest.mark.parametrize("seed", [None, 7, keras.random.SeedGenerator(7)])
def test_config_round_trip(seed):
    gate = built(regularizer=kg.regularizers.L1(0.5), seed=seed)
    again = kg.FilterGate.from_config(gate.get_config())
    assert again.stochastic
    assert again.get_config() == gate.get_config()
    assert "stochastic" not in kg.FilterGate().get_config()


def test_a_constraint_is_refused():
    with pytest.raises(ValueError, match="takes no constraint"):
        kg.FilterGate(stochastic=True, constraint="non_neg")


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="first")(x)
    x = kg.FilterGate(stochastic=True, name="gate")(x)
    y = layers.Dense(8, activation="tanh")(x)
    y = kg.BranchGate(stochastic=True, name="branch")(y)
    x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(3)(x))


def test_thresholds_speak_of_the_factor():
    model = network()
    gate = model.get_layer("gate")
    gate.weight.assign(LOG_ALPHA)
    plan = kg.surgeon.plan(model, 0.3)
    closed = factors_of(LOG_ALPHA) < 0.3
    assert plan.masks()["gate"].tolist() == closed.tolist()
    small = plan.apply()
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    assert max(kg.surgeon.verify(model, small, 0.3, x=x).values()) < 1e-5
    # The truth by hand: the same model with closed gates far on their side.
    gate.weight.assign(np.where(closed, -50.0, LOG_ALPHA))
    np.testing.assert_allclose(
        helpers.predicted(small, x), helpers.predicted(model, x), atol=1e-5
    )
    assert not any(isinstance(x, kg.FilterGate) for x in small.layers)


def test_a_closed_branch_goes():
    model = network()
    model.get_layer("branch").weight.assign(-9.0)
    small = kg.surgeon.prune(model, 0.05)
    assert len([x for x in small.layers if "dense" in x.name]) < 3
    assert max(kg.surgeon.verify(model, small, 0.05).values()) < 1e-5


def test_training_by_insert_gates_moves_log_alpha():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    spec = {"strength": 0.05, "stochastic": True}
    gated = kg.insert_gates(model, filters=spec)
    (gate,) = (x for x in gated.layers if isinstance(x, kg.FilterGate))
    before = numpy_of(gate.weight).copy()
    gated.compile(keras.optimizers.Adam(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    gated.fit(x, x[:, :1], epochs=3, verbose=0)
    after = numpy_of(gate.weight)
    assert after.mean() < before.mean()
    assert np.ptp(after) > 0  # the data pull, too


def test_binary_copies():
    model = network()
    model.get_layer("gate").weight.assign(LOG_ALPHA)
    copy = kg.binarize(model, 0.3)
    expected = factors_of(LOG_ALPHA) >= 0.3
    got = numpy_of(copy.get_layer("gate").factor)
    assert got.tolist() == expected.astype(float).tolist()


def test_thresholds_are_found():
    model = network()
    model.get_layer("gate").weight.assign(LOG_ALPHA)
    before = numpy_of(model.get_layer("gate").weight).copy()
    least = factors_of(LOG_ALPHA).max()

    def largest(model):
        return float(numpy_of(model.get_layer("gate").factor).max())

    kg.find_thresholds(model, largest, max_drop=0.01)
    assert (numpy_of(model.get_layer("gate").weight) == before).all()
    assert largest(model) == pytest.approx(least)


def test_expected_cost_is_that_of_independent_chances():
    gate = kg.FilterGate(stochastic=True)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), gate, keras.layers.Dense(2)]
    )
    penalty = kg.regularizers.ExpectedCost(1.0).bind(model)
    gate.weight.assign(LOG_ALPHA[:4])
    shift = 2 / 3 * np.log(0.1 / 1.1)
    expected = sigmoid(LOG_ALPHA[:4] - shift).mean()
    # One of the channels always stays.
    np.testing.assert_allclose(numpy_of(penalty()), expected, rtol=1e-2)


def test_saved_and_loaded(tmp_path):
    model = network()
    model.get_layer("gate").weight.assign(LOG_ALPHA)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.ones((2, 6), "float32")
    np.testing.assert_allclose(
        numpy_of(again(x)), numpy_of(model(x)), atol=1e-6
    )
    assert kg.surgeon.plan(again, 0.3).masks()["gate"].sum() == 4
