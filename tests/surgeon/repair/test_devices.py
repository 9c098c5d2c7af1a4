"""A repair on two virtual devices is the repair on one."""

import keras
import pytest

from tests.virtual_devices import run

# In a process of its own: the number of devices is fixed at the start.
REPAIR = """
layers = keras.layers
x = np.random.default_rng(0).normal(size=(70, 8, 8, 3)).astype("float32")


def repaired():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(6, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Budget(macs=0.5), scores=scores)
    return kg.surgeon.repair(plan, x)


def check(one, two):
    assert one.total.after < 0.9 * one.total.before, one
    for a, b in zip(one.model.weights, two.model.weights, strict=True):
        a, b = map(keras.ops.convert_to_numpy, (a, b))
        # Sums in another order, then a least squares fit.
        assert np.abs(a - b).max() <= 1e-3 * np.abs(a).max() + 1e-6
"""
MIRRORED = (
    """
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
import keras
import keras_gates as kg
"""
    + REPAIR
    + """
one = repaired()
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    check(one, repaired())
"""
)
PARALLEL = (
    """
import numpy as np
import keras
import keras_gates as kg
from keras_gates.surgeon.repair import walk
"""
    + REPAIR
    + """
one = repaired()
seen = set()
run = walk.run


def watched(call, get, values=()):
    outputs = run(call, get, values)
    seen.update(len(y.sharding.device_set) for y in outputs)
    return outputs


walk.run = watched
keras.distribution.set_distribution(keras.distribution.DataParallel())
check(one, repaired())
# Batches of 32 and, at the end, 6.
assert seen == {2}, seen
"""
)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="MirroredStrategy is TensorFlow's",
)
@pytest.mark.once
def test_mirrored_strategy():
    run(MIRRORED)


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="it is JAX that spreads tensors"
)
def test_data_parallel():
    run(PARALLEL)
