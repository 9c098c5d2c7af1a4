"""Weights to be pruned decay while a model trains."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_gates as kg
from tests import helpers


def numpy_of(x):
    return keras.ops.convert_to_numpy(x)


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, use_bias=False, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, name="second")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def data(count=96):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8, 8, 1)).astype("float32")
    return x, rng.integers(0, 3, count)


def trained(grow, optimizer, epochs=4):
    model = network()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(
        *data(), batch_size=8, epochs=epochs, verbose=0, callbacks=[grow]
    )
    return model, history.history


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_cut_takes_away_nothing(optimizer):
    grow = kg.callbacks.GrowDecay(kg.Quantile(0.5))
    model, history = trained(grow, optimizer)
    small = kg.surgeon.prune(model, grow.thresholds, scores=grow.scores)
    x, _ = data()
    before = helpers.predicted(model, x)
    after = helpers.predicted(small, x)
    scale = np.abs(before).max()
    assert np.abs(after - before).max() < 1e-5 * scale
    plan = kg.surgeon.plan(model, grow.thresholds, scores=grow.scores)
    assert plan.macs.after <= 0.6 * plan.macs.before
    left = history["fading_left"]
    assert left[0] > left[1] > left[-1] == 0


def test_only_what_reads_closed_channels_fades():
    scores = {"first": np.array([1, 0, 1, 1, 0, 1, 1, 1], "float64")}
    grow = kg.callbacks.GrowDecay(0.5, scores=scores)
    model = network()
    before = [numpy_of(w).copy() for w in model.weights]
    grow.start(model, 10)
    for _ in range(10):
        grow.step()
    kernel = model.get_layer("second").kernel
    for weight, old in zip(model.weights, before, strict=True):
        new = numpy_of(weight)
        if weight is kernel:
            kept = [0, 2, 3, 5, 6, 7]
            np.testing.assert_array_equal(new[:, :, kept], old[:, :, kept])
            assert not new[:, :, [1, 4]].any()
        else:
            np.testing.assert_array_equal(new, old)


def test_nothing_closes():
    grow = kg.callbacks.GrowDecay(kg.Budget(macs=1.0))
    with pytest.raises(ValueError, match="nothing in"):
        grow.start(network(), 10)


def test_a_step_before_the_start():
    with pytest.raises(RuntimeError, match="before start"):
        kg.callbacks.GrowDecay(0.5).step()
