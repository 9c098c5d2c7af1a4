"""Symbolic tensors in place of a layer's variables."""

import keras
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import private
from keras_gates.graphs import stand_ins


class Holder(L.Layer):
    def build(self, shape):
        self.single = self.add_weight(shape=(3,), name="single")
        self.same = self.single
        self.several = [self.add_weight(shape=(2,), name="first")]
        self.named = {"a": {"b": self.add_weight(shape=(4, 5), name="deep")}}
        self.inner = L.Dense(2)
        self.inner.build((None, 3))
        self.number = 3


def built(**options):
    layer = Holder(**options)
    layer.build((None, 3))
    return layer


def test_each_variable_has_one_stand_in():
    layer = built()
    weights = list(layer.weights)
    with stand_ins.in_place(layer) as made:
        assert isinstance(layer.single, stand_ins.StandIn)
        assert layer.single is layer.same
        assert layer.single.variable is weights[0]
        assert isinstance(layer.several[0], stand_ins.StandIn)
        assert layer.named["a"]["b"].shape == (4, 5)
        # Layers inside are called with what they hold.
        assert isinstance(layer.inner.kernel, keras.Variable)
        assert layer.number == 3
        assert len(made) == 3
        assert all(map(lambda a, b: a is b, layer.weights, weights))
    assert layer.single is weights[0] and layer.same is weights[0]
    assert layer.several[0] is weights[1]
    assert layer.named["a"]["b"] is weights[2]


def test_they_are_put_back_after_an_error():
    layer = built()
    with pytest.raises(RuntimeError), stand_ins.in_place(layer):
        raise RuntimeError
    assert isinstance(layer.single, keras.Variable)
    assert isinstance(layer.several[0], keras.Variable)


def test_they_come_in_one_order():
    layer = built()
    for _ in range(2):
        with stand_ins.in_place(layer) as made:
            names = [x.variable.name for x in made]
        assert names == ["deep", "single", "first"]


def test_they_are_used_as_variables_are():
    layer = built(dtype="mixed_float16")
    with stand_ins.in_place(layer), private.any_key_recorded():
        w, table = layer.single, layer.named["a"]["b"]
        assert w.dtype == "float16" and w.trainable and w.value is w
        assert w[:2].shape == (2,) and w[None].shape == (1, 3)
        assert w[1].shape == () and w[..., None].shape == (3, 1)
        index = keras.KerasTensor((None, 7), "int32")
        assert table[index].shape == (None, 7, 5)
        x = keras.KerasTensor((None, 3))
        assert (x * w).shape == ops.add(w, x).shape == (None, 3)


@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
def test_a_state_is_refused(method):
    layer = built()
    refused = pytest.raises(stand_ins.SideEffect, match="assigns.*'single'")
    with stand_ins.in_place(layer), refused:
        getattr(layer.single, method)(1.0)
