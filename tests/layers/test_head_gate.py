"""A gate on heads is a filter gate of another kind, on another axis."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers


@pytest.mark.parametrize("axis, shape", [(-2, (5, 3, 4)), (1, (3, 5, 4))])
def test_each_head_has_a_factor(axis, shape):
    gate = kg.HeadGate(axis, regularizer=kg.regularizers.L1(0.5))
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    gate(x)
    assert gate.kind == "head"
    gate.factor.assign([2.0, 0.0, -1.0])
    wide = np.array([2.0, 0.0, -1.0]).reshape(-1, *(1,) * (3 - axis % 4))
    np.testing.assert_allclose(helpers.numpy_of(gate(x)), x * wide)
    (loss,) = gate.losses
    assert helpers.numpy_of(loss) == pytest.approx(1.5)


def test_it_comes_back_from_its_config():
    gate = kg.HeadGate(1, initializer="uniform", name="heads")
    again = kg.HeadGate.from_config(gate.get_config())
    assert (again.axis, again.name) == (1, "heads")
    assert kg.HeadGate().axis == -2


def test_errors_name_it():
    with pytest.raises(ValueError, match="HeadGate 'h' cannot gate this axis"):
        kg.HeadGate(0, name="h")
    with pytest.raises(ValueError, match="HeadGate 'h' cannot be built"):
        kg.HeadGate(name="h")(keras.Input((None, 4)))


def test_thresholds_callbacks_and_scores_know_its_kind():
    x = keras.Input((5, 3, 4))
    y = keras.layers.Flatten()(kg.HeadGate(name="heads")(x))
    model = keras.Model(x, keras.layers.Dense(1)(y))
    model.get_layer("heads").factor.assign([0.1, 1.0, 1.0])
    model.compile("sgd", "mse")
    closed = kg.callbacks.ClosedGates({"head": 0.5, "filter": 0.5})
    data = np.ones((2, 5, 3, 4), "float32"), np.ones((2, 1), "float32")
    history = model.fit(*data, verbose=0, epochs=1, callbacks=[closed]).history
    assert history["closed_head_gates"] == [pytest.approx(1 / 3)]
    found = kg.surgeon.plan(model, kg.Quantile(0.4))
    assert "heads" in str(found)
