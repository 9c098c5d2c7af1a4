"""Gammas of batch normalizations as gates: cut exactly, beta and all."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

KIND = {"batch_norm": kg.Quantile(0.5)}


def plain():
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(8, 3)(x)))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


def pre_activation():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(16, 3, padding="same")(x)
    for _ in range(3):
        z = L.ReLU()(L.BatchNormalization()(y))
        z = L.Conv2D(16, 1, use_bias=False)(z)
        y = L.Add()([y, L.Conv2D(16, 3, padding="same")(z)])
    y = L.ReLU()(L.BatchNormalization()(y))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))


def tied():
    """A stream that a barrier keeps whole: closed channels must stay."""
    x = keras.Input((6,))
    y = L.BatchNormalization()(L.Dense(8)(x))
    return keras.Model(x, L.LayerNormalization()(y))


def on_the_input():
    x = keras.Input((6,))
    return keras.Model(x, L.Dense(3)(L.BatchNormalization()(x)))


def shared():
    x, y = keras.Input((6,)), keras.Input((6,))
    dense, norm = L.Dense(8), L.BatchNormalization()
    ends = [norm(dense(x)), norm(dense(y))]
    return keras.Model([x, y], L.Dense(2)(L.Concatenate()(ends)))


def without_center():
    x = keras.Input((6,))
    y = L.BatchNormalization(center=False)(L.Dense(8)(x))
    return keras.Model(x, L.Dense(2)(L.Activation("sigmoid")(y)))


NETWORKS = [plain, pre_activation, tied, on_the_input, shared, without_center]


def gammas_zeroed(model, closed):
    """The outputs of the model with those gammas at zero, by hand."""
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, L.BatchNormalization) and layer.name in closed
    ]
    before = [helpers.numpy_of(norm.gamma).copy() for norm in norms]
    for norm, gamma in zip(norms, before, strict=True):
        gamma = gamma.copy()
        gamma[closed[norm.name]] = 0.0
        norm.gamma.assign(gamma)
    x = helpers.inputs_for(model)
    outputs = helpers.run(model, x)
    for norm, gamma in zip(norms, before, strict=True):
        norm.gamma.assign(gamma)
    return outputs


@pytest.mark.parametrize("scope", ["global", "gate"])
@pytest.mark.parametrize("make", NETWORKS)
def test_the_cut_computes_what_gammas_at_zero_do(make, scope):
    model = make()
    helpers.randomize(model)
    plan = kg.surgeon.plan(model, {"batch_norm": kg.Quantile(0.5, scope)})
    small = plan.apply()
    expected = gammas_zeroed(model, plan.closed)
    got = helpers.run(small, helpers.inputs_for(model))
    for before, after in zip(expected, got, strict=True):
        # float32 sums of a few hundred terms, taken in another order.
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert small.count_params() == plan.params[1]


@pytest.mark.parametrize("make", [plain, pre_activation, shared])
def test_closed_channels_really_go(make):
    model = make()
    helpers.randomize(model)
    small = kg.surgeon.prune(model, {"batch_norm": kg.Quantile(0.75, "gate")})
    assert small.count_params() < 0.75 * model.count_params()


def test_a_number_speaks_of_gates_only():
    model = plain()
    with pytest.raises(ValueError, match="no gates.*batch_norm"):
        kg.surgeon.plan(model, 0.1)


def test_one_norm_by_name():
    model = pre_activation()
    helpers.randomize(model)
    norm = next(
        layer
        for layer in model.layers
        if isinstance(layer, L.BatchNormalization)
    )
    plan = kg.surgeon.plan(model, {norm.name: kg.Quantile(0.5)})
    assert list(plan.closed) == [norm.name]
    assert len(plan.closed[norm.name]) == 8


def test_no_gamma_is_no_gate():
    x = keras.Input((4,))
    y = L.BatchNormalization(scale=False)(L.Dense(3)(x))
    model = keras.Model(x, L.Dense(2)(y))
    with pytest.raises(ValueError, match="no gates"):
        kg.surgeon.plan(model, KIND)


def test_a_floor_holds_channels_open():
    model = plain()
    helpers.randomize(model)
    all_closed = {"batch_norm": kg.Quantile(1.0)}
    with pytest.raises(ValueError, match="'bn'.*keep_at_least"):
        kg.surgeon.plan(model, all_closed)
    small = kg.surgeon.prune(model, all_closed, keep_at_least=2)
    assert small.get_layer("bn").gamma.shape == (2,)


def test_widths_are_rounded_up():
    model = plain()
    helpers.randomize(model)
    small = kg.surgeon.prune(
        model, {"batch_norm": kg.Quantile(0.6)}, round_to=4
    )
    assert small.get_layer("bn").gamma.shape == (4,)


def test_the_plan_goes_through_json_and_verifies():
    model = pre_activation()
    helpers.randomize(model)
    plan = kg.surgeon.plan(model, KIND)
    again = kg.surgeon.Plan.from_json(plan.to_json(), model)
    differences = kg.surgeon.verify(model, again.apply(), again)
    # As above, relative to the largest output.
    assert max(differences.values()) < 1e-5
    assert "channels closed" in str(plan)
