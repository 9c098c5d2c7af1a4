"""Means and extremes over channels count the zeros that are no longer there.

Spatial attention (CBAM) takes both, and a global response normalization (the
one of ConvNeXt V2) the mean.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH = 8
REDUCTIONS = {
    "mean": ops.mean,
    "max": ops.max,
    "min": ops.min,
    "amax": ops.amax,
    "amin": ops.amin,
}
# What is between the gate and the reduction, and whether zeros stay zero.
BETWEEN = {
    "nothing": (lambda x: x, True),
    "leaky relu": (ops.leaky_relu, True),
    "negative": (ops.negative, True),
    "sigmoid": (ops.sigmoid, False),
    "shift": (lambda x: x - 0.7, False),
}


def gated(reduced):
    inputs = keras.Input((4, 4, 2))
    x = L.Conv2D(WIDTH, 3, padding="same", name="conv")(inputs)
    x = kg.FilterGate(name="gate")(x)
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(reduced(x))))
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([0.7, 0, 1.2, 0, 0, 1, 0.8, -1.3])
    return model


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_zeros_count(name, between):
    function, zeros = BETWEEN[between]
    model = gated(lambda x: REDUCTIONS[name](function(x), axis=-1))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    left = small.get_layer("conv").filters
    assert left == (5 if zeros else left)


@pytest.mark.parametrize("axis", [3, (3,), (1, 2, 3), (2, 3)])
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("name", ["mean", "max"])
def test_axes(name, keepdims, axis):
    def reduced(x):
        return REDUCTIONS[name](ops.tanh(x), axis=axis, keepdims=keepdims)

    model = gated(reduced)
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.get_layer("conv").filters == 5


def test_an_initial_value_is_left_alone():
    model = gated(lambda x: ops.max(x, axis=-1, initial=0.4))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)


def test_pruned_again_and_loaded(tmp_path):
    """Shares multiply."""
    model = gated(lambda x: ops.mean(ops.relu(x), axis=-1))
    half = kg.Quantile(0.5, scope="gate")
    small = model
    for _ in range(2):
        scores = kg.surgeon.score(small, "l2")
        smaller = kg.surgeon.prune(small, half, scores=scores)
        assert max(kg.surgeon.verify(small, smaller, half, scores=scores)) != ""
        small = smaller
    small.save(tmp_path / "small.keras")
    x = helpers.inputs_for(model)
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    got = helpers.run(loaded, x)
    assert max(helpers.differences(helpers.run(small, x), got)) < 1e-6


@keras.saving.register_keras_serializable("reductions")
class SpatialAttention(L.Layer):
    """That of CBAM."""

    def build(self, shape):
        self.conv = L.Conv2D(1, 3, padding="same", activation="sigmoid")
        self.conv.build((*shape[:-1], 2))
        self.built = True

    def call(self, x):
        mean = ops.mean(x, axis=-1, keepdims=True)
        largest = ops.max(x, axis=-1, keepdims=True)
        return x * self.conv(ops.concatenate([mean, largest], axis=-1))


@keras.saving.register_keras_serializable("reductions")
class ResponseNorm(L.Layer):
    """The global response normalization of ConvNeXt V2."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], name="beta")

    def call(self, x):
        size = ops.sum(ops.square(x), axis=(1, 2), keepdims=True)
        size = ops.sqrt(size)
        size = size / (ops.mean(size, axis=-1, keepdims=True) + 1e-6)
        return self.gamma * (x * size) + self.beta + x


@pytest.mark.parametrize("layer", [SpatialAttention, ResponseNorm])
def test_layers_that_look_over_all_channels(layer, tmp_path):
    """Closed by scores: as with zeros in the kernel that makes the channels."""
    inputs = keras.Input((4, 4, 2))
    conv = L.Conv2D(WIDTH, 3, padding="same", activation="relu", name="conv")
    x = layer()(conv(inputs))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    helpers.randomize(model)
    scores = {"conv": np.arange(1.0, WIDTH + 1)}
    small = kg.surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    assert small.get_layer("conv").filters == WIDTH // 2

    kernel, bias = map(helpers.numpy_of, conv.weights)
    kernel[..., : WIDTH // 2] = bias[: WIDTH // 2] = 0
    conv.set_weights([kernel, bias])
    if layer is ResponseNorm:
        # What a score closes is zero where the next kernel reads it.
        beta = helpers.numpy_of(model.layers[2].beta)
        beta[: WIDTH // 2] = 0
        model.layers[2].beta.assign(beta)
    x = helpers.inputs_for(model)
    expected = helpers.run(model, x)
    assert min(helpers.variation(expected)) > 1e-3
    assert max(helpers.differences(expected, helpers.run(small, x))) < 1e-5
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    got = helpers.run(loaded, x)
    assert max(helpers.differences(expected, got)) < 1e-5
