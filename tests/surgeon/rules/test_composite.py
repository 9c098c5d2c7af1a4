"""A layer made of others is written out, and its gate found."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.rules import Composite
from tests import helpers


@keras.saving.register_keras_serializable(package="tests")
class Scaled(L.Layer):
    """`x + scale * dense(x)`, the scale a factor to close."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def build(self, input_shape):
        self.dense = L.Dense(input_shape[-1], name=f"{self.name}_dense")
        self.dense.build(input_shape)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x):
        return x + self.scale * self.dense(x)


def write_out(layer, x):
    dense = L.Dense(layer.dense.units, name=layer.dense.name)
    gate = kg.LayerGate(name=layer.name)
    y = gate(dense(x))
    dense.set_weights(layer.dense.get_weights())
    gate.set_weights([helpers.numpy_of(layer.scale)])
    return L.Add(name=f"{layer.name}_add")([x, y])


RULE = Composite(expand=write_out, gate=lambda layer: ("layer", layer.scale))
kg.surgeon.register(Scaled, RULE)


def network():
    x = keras.Input((6,))
    y = Scaled(name="one")(L.Dense(8, activation="relu")(x))
    y = Scaled(name="two")(y)
    model = keras.Model(x, L.Dense(2)(y))
    helpers.randomize(model)
    model.get_layer("one").scale.assign(0.01)
    model.get_layer("two").scale.assign(0.7)
    return model


def test_it_is_closed_by_its_own_name_and_kind():
    model = network()
    plan = kg.surgeon.plan(model, {"layer": 0.1})
    assert plan.closed == {"one": [0], "two": []}
    small = plan.apply()
    names = [layer.name for layer in small.layers]
    assert "one_dense" not in names and "two_dense" in names
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-6


def test_the_model_with_it_is_not_changed():
    model = network()
    before = helpers.fingerprint(model)
    kg.surgeon.prune(model, 0.1)
    assert helpers.fingerprint(model) == before


def test_nothing_closed_computes_the_same():
    model = network()
    x = helpers.inputs_for(model)
    small = kg.surgeon.prune(model, 0.0)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    # The factor is multiplied into a kernel: one more float32 rounding.
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_one_that_is_shared_is_refused():
    x = keras.Input((6,))
    layer = Scaled(name="twice")
    model = keras.Model(x, L.Dense(2)(layer(layer(x))))
    with pytest.raises(ValueError, match="'twice'.*2 times"):
        kg.surgeon.plan(model, 0.1)
