"""What Keras records of a functional model."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.graphs import private


class Own(keras.Model):
    def call(self, x):
        return x


class Twice(keras.Model):
    def call(self, x):
        return 2 * super().call(x)


def small():
    """Two inputs, a shared layer, an operation; the calls in order."""
    first, second = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    dense = L.Dense(3, name="dense")
    joined = L.Add(name="add")([dense(first), dense(inputs=second)])
    y = keras.ops.relu(joined)
    return keras.Model({"a": first, "b": second}, [y], name="small")


def test_Node():
    model = small()
    node = private.nodes_of(model)[-2]
    assert node.operation is model.get_layer("add") and not node.is_input
    assert [tuple(x.shape) for x in node.input_tensors] == [(None, 3)] * 2
    assert node.arguments.args[0][0] is node.input_tensors[0]
    (called,) = [n for n in private.nodes_of(model) if n.arguments.kwargs]
    assert called.arguments.kwargs["inputs"] is called.input_tensors[0]
    assert private.nodes_of(model)[-1].outputs[0] is model.outputs[0]


def test_graph_of():
    model, chain = small(), keras.Sequential([L.Dense(2)])
    assert private.graph_of(model) is model
    assert private.graph_of(chain) is private.graph_of(Own()) is None
    chain.build((None, 3))
    assert private.graph_of(chain).inputs[0] is chain.inputs[0]


def test_runs_its_graph():
    x = keras.Input((3,))
    assert private.runs_its_graph(keras.Model(x, L.ReLU()(x)))
    assert private.runs_its_graph(keras.Sequential([x, L.ReLU()]))
    assert not private.runs_its_graph(Twice(x, L.ReLU()(x)))


def test_nodes_of():
    model = small()
    names = [n.operation.name for n in private.nodes_of(model)]
    assert names[:3] == ["dense", "dense", "add"] and len(names) == 4
    function = keras.Function(model.inputs, model.outputs)
    assert len(private.nodes_of(function)) == 4


def test_structures_of():
    model = small()
    inputs, outputs = private.structures_of(model)
    assert inputs.keys() == {"a", "b"} and inputs["b"].name == "b"
    assert outputs == [model.outputs[0]]
    function = keras.Function(model.inputs, {"y": model.outputs[0]})
    assert private.structures_of(function)[1].keys() == {"y"}


def test_origin_of():
    x = keras.Input((4,))
    dense = L.Dense(4)
    second = keras.ops.split(dense(dense(x)), 2, axis=1)[1]
    op, call, number = private.origin_of(second)
    assert (call, number) == (0, 1)
    assert private.origin_of(private.calls_of(op)[0].input_tensors[0]) == (
        dense,
        1,
        0,
    )


def test_calls_of():
    model = small()
    dense = model.get_layer("dense")
    nodes = [n for n in private.nodes_of(model) if n.operation is dense]
    assert sorted(map(id, private.calls_of(dense))) == sorted(map(id, nodes))
    assert private.calls_of(L.Dense(1)) == []


def test_record():
    """A noted call is as one that Keras makes."""
    x = keras.Input((3,))
    called, noted = L.Dense(2), L.Dense(2)
    y = called(x)
    noted.build((None, 3))
    output = keras.KerasTensor((None, 2))
    private.record(noted, (x,), {}, output)
    changed = {
        name
        for name, value in vars(called).items()
        if type(value) is not type(vars(noted)[name])
        or (isinstance(value, (bool, int, str)) and value != vars(noted)[name])
    }
    assert changed <= {"name", "_name", "_path"}
    assert private.origin_of(output) == (noted, 0, 0)
    noted.set_weights(called.get_weights())
    data = np.ones((1, 3), "float32")
    assert np.allclose(
        keras.Model(x, y).predict(data, verbose=0),
        keras.Model(x, output).predict(data, verbose=0),
    )


def test_building():
    called, built = L.Dense(2, name="dense"), L.Dense(2, name="dense")
    called(keras.Input((3,)))
    with private.building(built):
        built.build((None, 3))
    assert [w.path for w in built.weights] == [w.path for w in called.weights]
    assert built.weights[0].path == "dense/kernel"


def test_mark_called():
    model = small()
    before = set(vars(model))
    private.mark_called(model)
    assert set(vars(model)) == before and vars(model)["_called"] is True


def test_other_loop():
    model = small()
    data = dict.fromkeys("ab", np.ones((1, 3), "float32"))
    seen = []

    def loop(inputs, operation_fn):
        seen.extend(keras.tree.flatten(inputs))
        relu = operation_fn(private.nodes_of(model)[-1].operation)
        return [relu(seen[0] - 2.0)]

    with private.other_loop(model, loop):
        assert (keras.ops.convert_to_numpy(model(data)[0]) == 0.0).all()
    assert len(seen) == 2
    model(data)
    assert len(seen) == 2


def test_init_functional():
    class Picky(keras.Model):
        def __init__(self, inputs, outputs, setting):
            super().__init__(inputs, outputs)

    x = keras.Input((3,))
    y = L.Dense(2)(x)
    old = Picky(x, y, setting=1)
    model = Picky.__new__(type(old))
    private.init_functional(model, x, y, "picky")
    assert model.name == "picky" and len(model.weights) == 2
    assert model.predict(np.ones((1, 3)), verbose=0).shape == (1, 2)


def test_the_record_is_complete():
    """All that leads to the outputs is there, whatever is not."""
    model = small()
    L.Dense(2)(model.outputs[0])
    known = {id(x) for x in model.inputs}
    for node in private.nodes_of(model):
        assert all(id(x) in known for x in node.input_tensors)
        known |= {id(x) for x in node.outputs}
    with pytest.raises(AttributeError):
        private.nodes_of(Own())
