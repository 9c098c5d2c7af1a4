"""The gates of a graph, and messages for what is not a gate."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.gates import find


class Doubling(kg.FilterGate):
    """Computes an output of its own."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def model_of(*layers, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *layers], name="model")


def test_gates_by_path_in_the_order_of_the_model():
    inner = keras.Sequential(
        [keras.Input((4,)), kg.FilterGate(name="deep"), L.Dense(2)],
        name="inner",
    )
    model = model_of(
        L.Dense(4), kg.LayerGate(name="whole"), kg.FilterGate(name="g"), inner
    )
    found = find.gates_of(gr.read(model))
    assert [(name, s.kind, s.shape) for name, s in found.items()] == [
        ("whole", "layer", ()),
        ("g", "filter", (4,)),
        ("inner/deep", "filter", (4,)),
    ]
    assert found["g"].layer is model.get_layer("g")


def test_a_gate_that_is_called_twice_is_one():
    gate = kg.FilterGate(name="gate")
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([a, b], [gate(a), gate(b)])
    assert list(find.gates_of(gr.read(model))) == ["gate"]


def test_factors_are_what_the_gates_hold():
    model = model_of(kg.FilterGate(name="gate"))
    model.get_layer("gate").factor.assign([0.25, -1.0, 3.0])
    (factors,) = find.factors_of(gr.read(model))
    assert (factors.name, factors.kind) == ("gate", "filter")
    np.testing.assert_array_equal(factors.values, [0.25, -1.0, 3.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_factors_that_are_no_numbers_are_refused_by_name(bad):
    model = model_of(kg.FilterGate(name="gate"))
    model.get_layer("gate").factor.assign([1.0, bad, 1.0])
    with pytest.raises(ValueError, match="'gate' has factors that are not"):
        find.factors_of(gr.read(model))


def test_a_gate_with_a_call_of_its_own_is_none_and_is_named():
    graph = gr.read(model_of(Doubling(name="double"), kg.FilterGate(name="g")))
    assert list(find.gates_of(graph)) == ["g"]
    said = find.unknown_gates(graph)
    assert "'double' (of type Doubling)" in said
    assert "'g'" not in said


def test_all_gates_are_known():
    graph = gr.read(model_of(kg.FilterGate()))
    assert find.unknown_gates(graph) == ""


def test_a_gate_inside_a_layer_is_refused():
    class Block(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.gate = kg.FilterGate(name="within")

        def call(self, x):
            return self.gate(x)

    model = model_of(Block(name="block"))
    with pytest.raises(ValueError, match="'within' is inside 'block'"):
        find.gates_of(gr.read(model))
