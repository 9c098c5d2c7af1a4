"""`verify` closes what is inside a layer in each of the layer's calls."""

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers


class Around(keras.layers.Layer):
    """Attention, and a way round."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.MultiHeadAttention(4, 3, name="inner")

    def build(self, shape):
        self.inner.build(shape, shape)
        self.built = True

    def call(self, x):
        return x + self.inner(x, x)

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_heads_in_every_call_of_a_layer(calls):
    model = _model(calls)
    scores = {"around/inner/heads": np.arange(4.0)}
    plan = kg.surgeon.plan(model, {"head": 1.5}, scores=scores)
    small = plan.apply()
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    # Float32 rounding of two or three layers.
    assert max(plan.verify(small, x).values()) < 1e-5
    kernel = model.get_layer("around").inner._output_dense.kernel
    rows = helpers.numpy_of(kernel).copy()
    rows[:2] = 0
    kernel.assign(rows)
    truth = helpers.predicted(model, x)
    np.testing.assert_allclose(
        helpers.predicted(small, x), truth, atol=1e-5 * np.abs(truth).max()
    )


def test_a_wrong_model_is_found_out_in_every_call():
    model = _model(2)
    scores = {"around/inner/heads": np.arange(4.0)}
    plan = kg.surgeon.plan(model, {"head": 1.5}, scores=scores)
    # Nothing is closed in it: a `verify` that masks too little calls it right.
    assert max(plan.verify(model).values()) > 1e-3


def _model(calls):
    x = keras.Input((5, 8))
    around, y = Around(name="around"), x
    for _ in range(calls):
        y = around(y)
    model = keras.Model(x, keras.layers.Dense(2)(y))
    return helpers.randomize(model)
