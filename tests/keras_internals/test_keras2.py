"""The record of a model of tf_keras."""

import keras
import pytest

from keras_gates.graphs import private

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf_keras needs TensorFlow", allow_module_level=True)
k2 = pytest.importorskip("tf_keras")


def small():
    first = k2.Input((3,), name="a")
    y = k2.layers.Dense(2, name="dense")(first)
    return k2.Model({"a": first}, [k2.layers.ReLU(name="relu")(y)])


def test_keras2_has_graph():
    assert private.keras2_has_graph(small())
    assert not private.keras2_has_graph(k2.Sequential([k2.layers.ReLU()]))


def test_keras2_nodes_of():
    names = [node.layer.name for node in private.keras2_nodes_of(small())]
    assert names == ["a", "dense", "relu"]


def test_keras2_structures_of():
    model = small()
    inputs, outputs = private.keras2_structures_of(model)
    assert inputs.keys() == {"a"}
    assert keras.tree.flatten(outputs)[0] is model.outputs[0]
