"""Stripes under the surgeon: what goes with them, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import Plan
from tests import helpers

CLOSED = {"stripe": helpers.THRESHOLD}


def network(shortcut=False):
    """Two layers with stripes; a shortcut round the second if asked for."""
    options = {"padding": "same", "kernel_initializer": "zeros"}
    inputs = keras.Input((7, 8, 3))
    x = kg.StripConv(6, 3, name="first", **options)(inputs)
    x = L.ReLU()(L.BatchNormalization(name="first_bn")(x))
    y = kg.StripConv(6, 3, name="second", **options)(x)
    y = L.BatchNormalization(name="second_bn")(y)
    y = L.Add()([x, y]) if shortcut else y
    y = L.GlobalAveragePooling2D()(L.ReLU()(y))
    outputs = L.Dense(2, kernel_initializer="zeros", name="logits")(y)
    return helpers.randomize(keras.Model(inputs, outputs), closed="ones")


def close(model, name, closed):
    """Factors well below the threshold where `closed`."""
    skeleton = model.get_layer(name).skeleton
    factors = helpers.numpy_of(skeleton)
    skeleton.assign(np.where(closed, 0.1, factors))


def drawn(share=0.6, empty=(1, 4)):
    """A mask to close; some filters lose all of their stripes."""
    closed = np.random.default_rng(0).random((3, 3, 6)) < share
    closed[..., list(empty)] = True
    return closed


def test_filters_without_stripes_go_and_leave_a_constant():
    model = network()
    close(model, "first", drawn())
    small = kg.surgeon.prune(model, CLOSED)
    helpers.assert_same(model, small)
    # Their shifts go on as one channel: the border of the next layer is zero.
    assert small.get_layer("first").filters == 5
    width = small.get_layer("second").stripe_kernel.shape[1]
    assert width == 5


def test_a_shift_that_is_no_more_leaves_no_channel():
    model = network()
    close(model, "first", drawn())
    norm = model.get_layer("first_bn")
    for weight in (norm.gamma, norm.beta):
        values = helpers.numpy_of(weight)
        values[[1, 4]] = 0
        weight.assign(values)
    small = kg.surgeon.prune(model, CLOSED)
    helpers.assert_same(model, small)
    assert small.get_layer("first").filters == 4


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_layer_without_stripes_is_refused_where_nothing_leads_round(name):
    model = network()
    close(model, name, True)
    with pytest.raises(ValueError, match=f"a completely closed gate: '{name}'"):
        kg.surgeon.prune(model, CLOSED)


def test_a_mask_that_empties_a_layer_in_training_is_refused_at_the_cut():
    layer = kg.StripConv(
        2,
        3,
        kernel_initializer="ones",
        skeleton_constraint=kg.constraints.HardThreshold(2.0),
        name="emptied",
    )
    model = keras.Sequential(
        [keras.Input((5, 5, 1)), layer, L.GlobalAveragePooling2D()]
    )
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 5, 5, 1)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="'emptied'. Lower the threshold"):
        kg.surgeon.prune(model, {"stripe": 0.01})


def test_a_branch_without_stripes_goes():
    model = network(shortcut=True)
    close(model, "second", True)
    small = kg.surgeon.prune(model, CLOSED)
    helpers.assert_same(model, small)
    names = {layer.name for layer in small.layers}
    assert "second" not in names and "second_bn" not in names


def test_a_budget_leaves_each_layer_some_stripes():
    model = network()
    before = helpers.fingerprint(model)
    plan = kg.surgeon.plan(model, {"stripe": kg.Budget(macs=0.3)})
    assert 0.28 <= plan.macs[1] / plan.macs[0] <= 0.3
    small = plan.apply()
    assert all(small.get_layer(x).stripes.count for x in ("first", "second"))
    # Relative to the largest output: float32 sums in another order.
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    assert helpers.fingerprint(model) == before


def test_the_plan_says_what_stays_and_goes_through_json():
    model = network()
    close(model, "first", drawn())
    plan = kg.surgeon.plan(model, CLOSED)
    left = (~drawn()).sum()
    assert f"{left} of 54 stripes stay, computed " in str(plan)
    again = Plan.from_json(plan.to_json(), model)
    assert str(again) == str(plan)
    helpers.assert_same(model, again.apply())


def test_filters_of_a_pruned_layer_go_too():
    model = network()
    for name in ("first", "second"):
        close(model, name, drawn())
    small = kg.surgeon.prune(model, CLOSED)
    for name in ("first_bn", "second_bn"):
        gamma = small.get_layer(name).gamma
        values = helpers.numpy_of(gamma)
        values[1::2] = 0
        gamma.assign(values)
    smaller = kg.surgeon.prune(small, {"batch_norm": 1e-3})
    helpers.assert_same(small, smaller)
    for name in ("first", "second"):
        counts = [x.get_layer(name).stripes.count for x in (small, smaller)]
        assert counts[1] < counts[0]
