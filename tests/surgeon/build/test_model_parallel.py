"""Widths that a mesh of devices does not divide."""

import os
import subprocess
import sys

import keras
import pytest

# In a process of its own: the number of devices is fixed at the start.
SCRIPT = """
import keras
from keras import layers as L
import keras_gates as kg

mesh = keras.distribution.DeviceMesh(
    (1, 4), ["batch", "model"], keras.distribution.list_devices()
)
layout = keras.distribution.LayoutMap(mesh)
layout["a/kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )
)
inputs = keras.Input((4,))
x = kg.FilterGate(name="g")(L.Dense(8, name="a")(inputs))
model = keras.Model(inputs, L.Dense(2)(x))
model.get_layer("g").factor.assign([0.0] * 3 + [1.0] * 5)
try:
    kg.surgeon.prune(model, 0.5)
except ValueError as error:
    assert "'a' (of type Dense)" in str(error), error
    assert "ModelParallel" in str(error) and "round_to" in str(error), error
else:
    raise AssertionError("5 channels were shared out on 4 devices")
model.get_layer("g").factor.assign([0.0] * 4 + [1.0] * 4)
small = kg.surgeon.prune(model, 0.5, round_to=4)
assert small.get_layer("a").units == 4
"""


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="only the JAX backend has ModelParallel",
)
def test_round_to_is_the_remedy():
    flags = "--xla_force_host_platform_device_count=4"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
