"""What a plan says of widths that run slowly."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import plan
from tests import helpers


def convnet(width, closed):
    """A network whose convolution `conv` loses channels."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(width, 3, padding="same", name="conv")(x)
    gate = kg.FilterGate()
    x = L.Dense(2)(L.GlobalAveragePooling2D()(gate(x)))
    gate.factor.assign(np.where(np.arange(width) < closed, 0.0, 1.0))
    return keras.Model(inputs, x)


def told(model, **options):
    notes = plan(model, helpers.THRESHOLD, **options).notes
    return [note for note in notes if "onnxruntime" in note]


@pytest.mark.parametrize(
    ("before", "after"), [(32, 30), (64, 45), (16, 12), (16, 8), (130, 127)]
)
def test_a_slow_width_is_told_with_the_remedy(before, after):
    model = convnet(before, before - after)
    (note,) = told(model)
    assert "runs a convolution slower" in note
    assert f"('conv' with {after})" in note
    assert "round_to=16" in note
    assert not told(model, round_to=16)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (32, 16),  # whole blocks
        (32, 24),  # half of one takes no longer
        (64, 33),
        (16, 7),  # not measured
        (30, 30),  # not cut
        (47, 46),  # there is no next multiple
    ],
)
def test_other_widths_are_not_told(before, after):
    assert not told(convnet(before, before - after))


@pytest.mark.parametrize(
    ("after", "slow"), [(31, 2), (30, 2), (26, 1), (28, 0)]
)
def test_a_depthwise_convolution_is_fast_at_multiples_of_4(after, slow):
    x = inputs = keras.Input((8, 8, 3))
    gate = kg.FilterGate()
    x = L.DepthwiseConv2D(3)(gate(L.Conv2D(32, 1, name="conv")(x)))
    gate.factor.assign(np.where(np.arange(32) < 32 - after, 0.0, 1.0))
    notes = told(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    assert len(notes) == bool(slow)
    what = "a convolution" if slow == 1 else f"{slow} convolutions"
    assert all(f"runs {what} slower" in note for note in notes)


def test_channels_may_come_first_and_sizes_be_unknown():
    x = inputs = keras.Input((3, None, None))
    options = {"data_format": "channels_first"}
    gate = kg.FilterGate(axis=1)
    x = gate(L.Conv2D(32, 1, name="conv", **options)(x))
    x = L.Conv2D(2, 1, **options)(x)
    gate.factor.assign(np.where(np.arange(32) < 2, 0.0, 1.0))
    (note,) = told(keras.Model(inputs, x))
    assert "a convolution" in note and "('conv' with 30)" in note


def test_convolutions_in_groups_are_not_told():
    x = inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(32, 1, groups=2)(x)
    gate = kg.FilterGate()
    x = L.GlobalAveragePooling2D()(gate(x))
    gate.factor.assign(np.where(np.arange(32) % 16 < 1, 0.0, 1.0))
    model = keras.Model(inputs, L.Dense(2)(x))
    assert plan(model, helpers.THRESHOLD).rows[1].after == 30
    assert not told(model)


def test_many_widths_are_summed_up():
    x = inputs = keras.Input((8, 8, 3))
    for number in range(5):
        x = L.Conv2D(32, 1, name=f"conv{number}")(x)
        gate = kg.FilterGate()
        x = gate(x)
        gate.factor.assign(np.where(np.arange(32) < 2, 0.0, 1.0))
    (note,) = told(keras.Model(inputs, L.Dense(2)(L.Flatten()(x))))
    assert "5 convolutions" in note
    assert "'conv2' with 30, ...)" in note and "conv3" not in note
