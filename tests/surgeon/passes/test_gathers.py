"""What costs less: a gather, or kernels that read closed channels."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

# Of 32 channels of a stream, so many are closed for one of its two readers.
STREAM = 32
IMAGES = np.random.default_rng(0).normal(size=(4, 12, 12, 3))


def pre_activation(filters, size, sides=(12, 12), closed=8):
    """Two branches that read one stream, each after its normalization."""
    inputs = keras.Input((*sides, 3))
    x = L.Conv2D(STREAM, 1, name="stem")(inputs)
    ends = []
    for name in "ab":
        y = L.BatchNormalization(name=f"{name}_bn")(x)
        y = L.ReLU(name=f"{name}_relu")(y)
        y = L.Conv2D(filters, size, padding="same", name=name)(y)
        ends.append(L.GlobalAveragePooling2D()(y))
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()(ends)))
    helpers.randomize(model, x=IMAGES)
    gamma = helpers.numpy_of(model.get_layer("a_bn").gamma)
    gamma[:closed] = 0.0
    model.get_layer("a_bn").gamma.assign(gamma)
    return model


def prune(model):
    plan = kg.surgeon.plan(model, {"a_bn": 1e-6})
    small = plan.apply()
    differences = kg.surgeon.verify(model, small, plan, x=IMAGES)
    assert max(differences.values()) < helpers.RTOL
    names = {op.name for op in small.operations}
    return plan, small, "a_bn_channels" in names


# A gather of k channels costs 16 k multiply-adds a pixel, and saves one for
# each filter (nine for 3x3) and closed channel: by hand, for each row.
@pytest.mark.parametrize(
    "filters, size, closed, gathers",
    [
        (64, 1, 8, True),  # 16 * 24 = 384 < 8 * 64 = 512
        (32, 1, 8, False),  # 384 > 8 * 32 = 256
        (8, 1, 16, False),  # 16 * 16 = 256 > 16 * 8 = 128
        (8, 1, 24, True),  # 16 * 8 = 128 < 24 * 8 = 192
        (8, 3, 8, True),  # 384 < 8 * 72 = 576
        (4, 3, 8, False),  # 384 > 8 * 36 = 288
    ],
)
def test_a_gather_must_pay(filters, size, closed, gathers):
    model = pre_activation(filters, size, closed=closed)
    plan, small, found = prune(model)
    assert found is gathers
    left = STREAM - closed if gathers else STREAM
    # With a border, one closed channel stays for the constants of all.
    border = gathers and size > 1
    assert small.get_layer("a").kernel.shape[2] == left + border
    told = "a gather picks" if gathers else "would cost more than it saves"
    (row,) = (row for row in plan.rows if row.layer == "a_bn")
    assert any(told in why for why in row.why)


@pytest.mark.parametrize(
    "closed, gathers", [(3, False), (4, True), (8, True), (1, False)]
)
def test_of_unknown_sizes_an_eighth(closed, gathers):
    model = pre_activation(8, 1, (None, None), closed)
    assert prune(model)[2] is gathers


def test_the_filters_that_stay_count():
    """The kernel is cut too, so that a gather saves less there."""
    model = pre_activation(64, 1)
    x = model.get_layer("a").output
    gate = kg.FilterGate(name="gate")
    y = L.GlobalAveragePooling2D()(gate(x))
    both = [y, model.get_layer("b").output]
    both[1] = L.GlobalAveragePooling2D()(both[1])
    gated = keras.Model(model.input, L.Dense(2)(L.Concatenate()(both)))
    factors = np.where(np.arange(64) < 32, 0.0, 1.0)
    gate.factor.assign(factors)
    plan = kg.surgeon.plan(gated, {"a_bn": 1e-6, "gate": 0.5})
    names = {op.name for op in plan.apply().operations}
    # 16 * 24 > 8 * 32, although 16 * 24 < 8 * 64.
    assert "a_bn_channels" not in names
