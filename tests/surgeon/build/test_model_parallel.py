"""Widths that a mesh of devices does not divide."""

import keras
import pytest

from tests.virtual_devices import run

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
    run(SCRIPT, count=4)
