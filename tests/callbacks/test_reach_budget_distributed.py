"""Training to a budget on two virtual devices."""

import keras
import pytest

from tests.virtual_devices import run

# In a process of its own: the number of devices is fixed at the start.
TRAINING = """
x = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
y = (x[:, :3]).argmax(-1)


def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(24, activation="relu", name="hidden"),
            kg.FilterGate(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    reach = kg.callbacks.ReachBudget(macs=0.5)
    model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=[reach])
    return model, reach


def check(model, reach):
    plan = kg.surgeon.plan(model, reach.thresholds)
    assert 0.48 <= plan.macs.after / plan.macs.before <= 0.5, plan
    factor = keras.ops.convert_to_numpy(model.layers[1].factor)
    assert (factor == 0).sum() == 12, factor
    before = model.predict(x, verbose=0)
    after = plan.apply().predict(x, verbose=0)
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()
    return plan


def check_that_it_goes_on(model, plan):
    small = plan.apply(keep_optimizer=True)
    assert small.get_layer("hidden").units == 12
    own, before = small.optimizer, model.optimizer
    for each in (own, before):
        assert keras.ops.convert_to_numpy(each.iterations) == 240
    moment = keras.ops.convert_to_numpy(own._velocities[0])
    kept = keras.ops.convert_to_numpy(model.layers[1].factor) != 0
    whole = keras.ops.convert_to_numpy(before._velocities[0])
    factor = keras.ops.convert_to_numpy(model.layers[1].factor)[kept]
    expected = whole[:, kept] / factor**2
    np.testing.assert_allclose(moment, expected, rtol=1e-4)
    loss = small.evaluate(x, y, verbose=0)
    small.fit(x, y, batch_size=8, epochs=4, verbose=0)
    assert small.evaluate(x, y, verbose=0) < loss
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
    + TRAINING
    + """
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model, reach = trained()
    plan = check(model, reach)
    check_that_it_goes_on(model, plan)
"""
)

PARALLEL = (
    """
import numpy as np
import keras
import keras_gates as kg

devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
DISTRIBUTION
"""
    + TRAINING
    + """
model, reach = trained()
check_that_it_goes_on(model, check(model, reach))
"""
)
DATA = """
keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=devices)
)
"""
MODEL = """
mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
layout = keras.distribution.LayoutMap(mesh)
layout["hidden/kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )
)
"""


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="MirroredStrategy is TensorFlow's",
)
@pytest.mark.once
def test_mirrored_strategy():
    run(MIRRORED)


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="keras.distribution trains on JAX",
)
@pytest.mark.parametrize("distribution", [DATA, MODEL], ids=["data", "model"])
def test_keras_distribution(distribution):
    run(PARALLEL.replace("DISTRIBUTION", distribution))
