"""Gammas pulled to zero: against gradient descent written in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

RATE, STRENGTH, STEPS = 0.1, 0.3, 40
CONSTANT = keras.initializers.Constant


def plain():
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(8, 3)(x)))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


def nested():
    x = keras.Input((6,))
    inner = keras.Sequential(
        [keras.Input((8,)), L.Dense(5), L.BatchNormalization()], name="inner"
    )
    y = L.BatchNormalization()(L.Dense(8)(x))
    return keras.Model(x, L.Dense(2)(inner(L.ReLU()(y))))


def shared():
    x, y = keras.Input((6,)), keras.Input((6,))
    norm = L.BatchNormalization()
    return keras.Model([x, y], L.Concatenate()([norm(x), norm(y)]))


def chain():
    return keras.Sequential(
        [keras.Input((6,)), L.BatchNormalization(), L.Dense(2)]
    )


def penalised():
    x = keras.Input((6,))
    norm = L.BatchNormalization(
        gamma_regularizer="l2", gamma_constraint="non_neg"
    )
    return keras.Model(x, L.Dense(2)(norm(x)))


NETWORKS = {
    make.__name__: make for make in (plain, nested, shared, chain, penalised)
}
NETWORKS["preact"] = lambda: kg.zoo.preact_resnet(11, (8, 8, 3))


def norms_of(model):
    return [
        layer
        for layer in helpers.layers_of(model)
        if isinstance(layer, L.BatchNormalization)
    ]


def made(case, negative=True):
    """A model, some of whose gammas are negative."""
    model = helpers.randomize(NETWORKS[case]())
    for norm in norms_of(model):
        gamma = helpers.numpy_of(norm.gamma)
        gamma[::3] *= -1 if negative else 1
        norm.gamma.assign(gamma)
    return model


@pytest.mark.parametrize("case", NETWORKS)
def test_the_function_stays_and_the_loss_is_penalised(case):
    model = made(case)
    before = helpers.fingerprint(model)
    x = helpers.inputs_for(model)
    slimmed = kg.slim(model, STRENGTH)
    assert type(slimmed) is type(model)
    # The same operations on the same numbers.
    expected, got = helpers.run(model, x), helpers.run(slimmed, x)
    assert max(helpers.differences(expected, got)) == 0
    gammas = [helpers.numpy_of(norm.gamma) for norm in norms_of(model)]
    penalty = STRENGTH * sum(np.abs(gamma).sum() for gamma in gammas)
    # A float32 sum of up to some hundred terms.
    got = sum(helpers.numpy_of(loss) for loss in slimmed.losses)
    np.testing.assert_allclose(got, penalty, rtol=1e-5)
    helpers.bump(slimmed)
    assert helpers.fingerprint(model) == before


@pytest.mark.parametrize("case", NETWORKS)
def test_gammas_start_where_they_are_told(case):
    slimmed = kg.slim(made(case), STRENGTH, gamma_initializer=CONSTANT(0.5))
    for norm in norms_of(slimmed):
        assert (helpers.numpy_of(norm.gamma) == 0.5).all()
        assert norm.gamma_constraint.signs == 1


def test_training_is_what_numpy_says():
    """A normalization alone: its gammas follow projected gradient descent."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4)).astype("float32")
    y = (x * [1.0, 0.2, -0.9, 0.05]).astype("float32")
    norm = L.BatchNormalization(center=False, epsilon=1e-3)
    model = keras.Sequential([keras.Input((4,)), norm])
    start = np.array([1.5, 0.5, -1.0, -0.5])
    norm.gamma.assign(start)
    slimmed = kg.slim(model, STRENGTH)
    slimmed.compile(keras.optimizers.SGD(RATE), "mse")
    slimmed.fit(x, y, batch_size=32, epochs=STEPS, verbose=0)

    normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    gamma, sign = start.copy(), np.sign(start)
    for _ in range(STEPS):
        slope = 2 * ((normed * gamma - y) * normed).sum(0) / y.size
        gamma = gamma - RATE * (slope + STRENGTH * np.sign(gamma))
        gamma = sign * np.maximum(sign * gamma, 0)
    got = helpers.numpy_of(slimmed.layers[-1].gamma)
    # 40 steps in float32, each contracting what the one before was off by.
    np.testing.assert_allclose(got, gamma, rtol=1e-4, atol=1e-6)
    # All four cases: open, closed from above, open below 0, closed from there.
    assert (got == 0).tolist() == [False, True, False, True]
    assert got[0] > 0 > got[2]


def test_what_is_cut_needs_this_package_no_longer():
    model = kg.slim(made("plain"), STRENGTH)
    plan = kg.surgeon.plan(model, {"batch_norm": kg.Quantile(0.5)})
    for small in (plan.apply(), kg.surgeon.prune(model, {"bn": 0.0})):
        assert "keras_gates" not in small.to_json()
        assert not small.losses
    assert "keras_gates" in model.to_json()


def test_it_is_saved_and_loaded(tmp_path):
    model = kg.slim(made("plain"), STRENGTH)
    model.save(tmp_path / "slim.keras")
    again = keras.models.load_model(tmp_path / "slim.keras")
    norm, twin = (m.get_layer("bn") for m in (model, again))
    assert twin.get_config() == norm.get_config()
    assert twin.gamma_constraint.signs == [-1, 1, 1, -1, 1, 1, -1, 1]


def without_norm():
    return keras.Sequential([keras.Input((4,)), L.Dense(2)], name="bare")


def without_scale():
    x = keras.Input((4,))
    y = L.BatchNormalization(name="fine")(x)
    return keras.Model(x, L.BatchNormalization(scale=False, name="none")(y))


@pytest.mark.parametrize(
    "make, arguments, match",
    [
        (without_norm, (0.1,), "'bare' has no batch normalization"),
        (without_scale, (0.1,), "no gamma: 'none'.*scale=True"),
        (plain, (-1.0,), "slim cannot use this `strength`"),
        (plain, (float("nan"),), "`strength`"),
        (plain, (0.1, "zeros"), "gamma_initializer='zeros', which"),
        (plain, (0.1, CONSTANT(float("inf"))), "or infinity"),
        (plain, (0.1, "half"), "gamma_initializer='half'"),
        (plain, (0.1, 0.5), r"gamma_initializer=0.5.*Constant\(0.5\)"),
    ],
)
def test_what_is_refused(make, arguments, match):
    strength, *start = arguments
    options = {"gamma_initializer": start[0]} if start else {}
    with pytest.raises(ValueError, match=match):
        kg.slim(make(), strength, **options)


def test_the_old_name_is_answered_with_the_new():
    with pytest.raises(TypeError, match="Pass `gamma_initializer`"):
        kg.slim(plain(), 0.1, gamma_init=0.5)


def test_initializers_are_those_of_keras():
    config = {"class_name": "Constant", "config": {"value": -0.5}}
    for given, value in (("ones", 1.0), (config, -0.5)):
        slimmed = kg.slim(plain(), STRENGTH, gamma_initializer=given)
        for norm in norms_of(slimmed):
            assert (helpers.numpy_of(norm.gamma) == value).all()
            # The side of 0 that each gamma starts on.
            signs = np.broadcast_to(
                norm.gamma_constraint.signs, norm.gamma.shape
            )
            assert (signs == np.sign(value)).all()


@pytest.mark.parametrize(
    "options, slimmed",
    [
        ({}, ["first", "second"]),
        ({"include": "f*"}, ["first"]),
        ({"exclude": ["first"]}, ["second"]),
        ({"include": L.BatchNormalization}, ["first", "second"]),
    ],
)
def test_names_choose(options, slimmed):
    x = keras.Input((4,))
    y = L.BatchNormalization(name="first")(x)
    y = L.BatchNormalization(name="second")(y)
    # Without a gamma, but not asked for by any of these.
    y = L.BatchNormalization(name="bare", scale=False)(y)
    model = keras.Model(x, y)
    options = {**options, "exclude": ["bare", *options.get("exclude", [])]}
    found = kg.slim(model, 0.1, **options).layers
    names = [x.name for x in found if getattr(x, "gamma_constraint", None)]
    assert names == slimmed
    with pytest.raises(ValueError, match="'frist', which.*mean 'first'"):
        kg.slim(model, 0.1, include="frist")
    with pytest.raises(ValueError, match="no gamma: 'bare'"):
        kg.slim(model, 0.1)
