"""Dropped shifts, as in the reference code: against NumPy and by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.transforms import drop_betas
from tests import helpers

CLOSED = {"batch_norm": kg.Quantile(0.5, "gate")}


def network():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(8, 3, padding="same", name="conv")(x)
    y = L.ReLU()(L.BatchNormalization(name="bn")(y))
    y = L.Conv2D(4, 3, padding="same")(y)
    y = L.BatchNormalization(center=False, name="no_beta")(y)
    return helpers.randomize(
        keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    )


def test_betas_of_closed_channels_are_zero_and_all_else_is_not():
    model = network()
    before = helpers.fingerprint(model)
    copy = drop_betas(model, CLOSED)
    assert helpers.fingerprint(model) == before
    gamma = helpers.numpy_of(model.get_layer("bn").gamma)
    closed = np.abs(gamma) <= np.sort(np.abs(gamma))[3]
    for layer, twin in zip(model.layers, copy.layers, strict=True):
        for weight, new in zip(layer.weights, twin.weights, strict=True):
            expected = helpers.numpy_of(weight)
            if weight is model.get_layer("bn").beta:
                expected = np.where(closed, 0, expected)
            np.testing.assert_array_equal(helpers.numpy_of(new), expected)


def test_the_cut_is_that_of_the_reference_code():
    """There, gamma and beta of a closed channel are multiplied by 0."""
    model = network()
    plan = kg.surgeon.plan(model, CLOSED)
    kept = plan.apply()
    small = kg.surgeon.prune(drop_betas(model, CLOSED), CLOSED)
    x = helpers.inputs_for(model)
    exact = helpers.run(kept, x)
    for name, closed in plan.closed.items():
        norm = model.get_layer(name)
        for weight in (norm.gamma, norm.beta):
            if weight is not None:
                values = helpers.numpy_of(weight)
                values[closed] = 0
                weight.assign(values)
    masked = helpers.run(model, x)
    got = helpers.run(small, x)
    assert max(helpers.differences(masked, got)) < helpers.RTOL
    # It is another function, and a channel smaller: none holds constants.
    assert max(helpers.differences(exact, got)) > 1e-2
    assert small.get_layer("conv").filters == 4
    assert kept.get_layer("conv").filters == 5


def test_a_plan_says_what_is_wrong():
    with pytest.raises(ValueError, match="no gates"):
        drop_betas(kg.zoo.mlp(), CLOSED)
