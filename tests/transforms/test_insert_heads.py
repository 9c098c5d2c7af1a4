"""`insert_gates(heads=...)` in models that write out attention."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import written_attention as wa

EVERY = [pytest.param(way, id=way.__name__) for way in (*wa.WAYS, *wa.GROUPED)]


@pytest.mark.parametrize("way", EVERY)
def test_each_head_gets_a_gate_and_goes_with_it(way):
    model = wa.model_of(way)
    gated = kg.insert_gates(model, heads=1e-3)
    x = helpers.inputs_for(model)
    (before,), (after,) = helpers.run(model, x), helpers.run(gated, x)
    np.testing.assert_allclose(after, before, atol=1e-6)
    (gate,) = helpers.gates_of(gated)
    assert type(gate) is kg.HeadGate
    assert gate.factor.shape == (wa.HEADS,)
    assert gate.regularizer is not None
    gate.factor.assign([0.1, 1.5, 0.7])
    small = kg.surgeon.prune(gated, {"head": 0.5})
    helpers.assert_same(gated, small, x)
    assert not helpers.gates_of(small)
    assert small.count_params() < 0.85 * model.count_params()


def test_heads_and_filters_get_gates_of_their_own():
    model = wa.model_of(wa.fused)
    gated = kg.insert_gates(model, heads=True, filters={"weigh": "params"})
    kinds = [gate.kind for gate in helpers.gates_of(gated)]
    assert sorted(set(kinds)) == ["filter", "head"] or kinds == ["head"]
    assert kinds.count("head") == 1
    found = kg.transforms.find_structure(model)
    (qkv,) = (c for c in found.filters if c.name == "qkv")
    assert "`heads` gates" in qkv.reason
    assert "qkv" in str(found)
    (heads,) = found.heads
    assert (heads.name, heads.gate_name) == ("qkv", "qkv_head_gate")


def test_heads_are_chosen_by_the_layer_that_makes_them():
    x = keras.Input((wa.STEPS, wa.WIDTH))
    y = L.Dense(wa.WIDTH, name="one")(wa.fused(x))
    z = L.Dense(wa.WIDTH, name="two")(wa.apart(y))
    model = keras.Model(x, L.Dense(2)(L.Add()([y, z])))
    for spec in (["qkv"], {"exclude": "k"}, {"include": "qk*"}):
        gated = kg.insert_gates(model, heads=spec)
        names = [gate.name for gate in helpers.gates_of(gated)]
        assert names == ["qkv_head_gate"]
    with pytest.raises(ValueError, match="'nowhere'"):
        kg.insert_gates(model, heads=["nowhere"])


def test_a_model_without_heads_is_refused():
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2)(L.Dense(3)(x)))
    with pytest.raises(ValueError, match="No heads of this model"):
        kg.insert_gates(model, heads=True)


def test_a_gate_is_not_put_behind_another():
    model = wa.model_of(wa.fused, wa.head_gate)
    with pytest.raises(ValueError, match="it has a gate already"):
        kg.insert_gates(model, heads=True)


@keras.saving.register_keras_serializable("tests")
class Attention(L.Layer):
    """The attention inside a layer of your own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.projections = L.Dense(3 * wa.HEADS * wa.SIZE, name="qkv")
        self.out = L.Dense(wa.WIDTH, name="out")

    def call(self, x):
        shape = (-1, wa.STEPS, 3, wa.HEADS, wa.SIZE)
        y = keras.ops.reshape(self.projections(x), shape)
        q, k, v = keras.ops.unstack(y, axis=2)
        y = keras.ops.dot_product_attention(q, k, v)
        size = wa.HEADS * wa.SIZE
        return self.out(keras.ops.reshape(y, (-1, wa.STEPS, size)))


def test_inside_a_layer_that_is_seen_through():
    x = keras.Input((wa.STEPS, wa.WIDTH))
    y = L.Add()([x, Attention(name="block")(x)])
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    gated = kg.insert_gates(model, heads=True)
    (gate,) = helpers.gates_of(gated)
    gate.factor.assign([0.1, 1.5, 0.7])
    small = kg.surgeon.prune(gated, 0.5)
    helpers.assert_same(gated, small)
    assert small.count_params() < 0.8 * model.count_params()
    with pytest.raises(ValueError, match="keeps its class"):
        kg.insert_gates(model, heads=True, written_out=False)
