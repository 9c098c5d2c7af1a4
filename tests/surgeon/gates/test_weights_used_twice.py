"""Layers that use one weight in several ways: fusions by learned shares.

Their parts would each hold a copy of the weight, so the layer keeps its class.
The truth is the user's own model with zeros in the kernels before it.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH, CLOSED = 6, [0, 2, 5]


class Fusion(L.Layer):
    def build(self, shapes):
        self.w = self.add_weight(shape=(len(shapes),), name="w")


@keras.saving.register_keras_serializable("used_twice")
class Fast(Fusion):
    """The fast normalized fusion of BiFPN."""

    def call(self, tensors):
        w = ops.relu(self.w)
        mixed = sum(w[i] * x for i, x in enumerate(tensors))
        return mixed / (ops.sum(w) + 1e-4)


@keras.saving.register_keras_serializable("used_twice")
class Soft(Fusion):
    def call(self, tensors):
        shares = ops.unstack(ops.softmax(self.w))
        return shares[0] * tensors[0] + shares[1] * tensors[1]


@keras.saving.register_keras_serializable("used_twice")
class Stacked(Fusion):
    def call(self, tensors):
        return ops.sum(ops.stack(tensors, -1) * ops.softmax(self.w), -1)


@keras.saving.register_keras_serializable("used_twice")
class Rest(Fusion):
    def call(self, tensors):
        return self.w[0] * tensors[0] + (1 - self.w[0]) * tensors[1]


def model_of(layer):
    inputs = keras.Input((4,))
    made = [L.Dense(WIDTH, name=name) for name in ("one", "other")]
    x = layer([each(inputs) for each in made])
    model = keras.Model(inputs, L.Dense(3)(ops.relu(x)))
    helpers.randomize(model)
    for weight in layer.weights:
        weight.assign(np.arange(1.0, 3.0).reshape(weight.shape))
    return model, made


def zeroed(model, made, x):
    """The outputs with zeros where the closed channels are made."""
    for layer in made:
        kernel, bias = map(helpers.numpy_of, layer.weights)
        kernel[:, CLOSED] = bias[CLOSED] = 0
        layer.set_weights([kernel, bias])
    expected = helpers.run(model, x)
    assert min(helpers.variation(expected)) > 1e-3
    return expected


@pytest.mark.parametrize("cls", [Fast, Soft, Stacked, Rest])
def test_learned_fusions(cls, tmp_path):
    layer = cls(name="fusion")
    model, made = model_of(layer)
    closed = np.ones(WIDTH)
    closed[CLOSED] = 0.1
    (name,) = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, 0.5, scores={name: closed})
    small = plan.apply()
    x = helpers.inputs_for(model)
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    fusion = small.get_layer("fusion")
    if cls is not Stacked:
        assert type(fusion) is cls
        assert tuple(fusion.w.shape) == tuple(layer.w.shape)
        assert plan.params == (model.count_params(), small.count_params())
    assert small.get_layer("one").units == WIDTH - len(CLOSED)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    expected = zeroed(model, made, x)
    for each in (small, loaded):
        far = helpers.differences(expected, helpers.run(each, x))
        assert max(far) < helpers.RTOL


@pytest.mark.parametrize("cls", [Soft, Rest])
def test_gates_before_a_learned_fusion(cls):
    inputs = keras.Input((4,))
    made = [kg.FilterGate()(L.Dense(WIDTH)(inputs)) for _ in range(2)]
    x = ops.relu(cls(name="fusion")(made))
    model = keras.Model(inputs, L.Dense(3)(x))
    helpers.randomize(model)
    model.get_layer("fusion").w.assign(
        helpers.numpy_of(model.get_layer("fusion").w) ** 2 + 0.3
    )
    for gate in helpers.gates_of(model):
        gate.factor.assign([0.7, 0, 1.2, 0, 0, 1])
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.layers[-1].kernel.shape[0] == 3


def test_it_is_not_written_out():
    model, _ = model_of(Fast(name="fusion"))
    scores = kg.surgeon.score(model, "l2")
    with pytest.raises(ValueError, match=r"'fusion' is kept whole.*two ways"):
        kg.surgeon.plan(
            model, kg.Quantile(0.5), scores=scores, written_out=True
        )
