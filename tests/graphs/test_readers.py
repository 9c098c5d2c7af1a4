"""The only reader of a tensor, and the only successor of a call."""

import keras
from keras import layers as L

from keras_gates.graphs import graph as gr
from keras_gates.graphs.readers import sole_reader
from keras_gates.graphs.readers import sole_successor


def network():
    """x -> one -> two -> add(two, one) -> sum; two is an output as well."""
    x = keras.Input((3,), name="x")
    one = L.Dense(3, name="one")(x)
    two = L.Dense(3, name="two")(one)
    after = L.Dense(3, name="after")(L.Add(name="add")([two, one]))
    return gr.read(keras.Model(x, [L.ReLU(name="relu")(after), two]))


def names(function, graph):
    found = {}
    for call in graph.calls:
        other = function(graph, call)
        found[call.path] = other and other.path
    return found


def test_sole_readers():
    got = names(lambda graph, c: sole_reader(graph, c.outputs[0]), network())
    assert got == {
        "one": None,  # "two" and "add" read it
        "two": None,  # an output of the model
        "add": "after",
        "after": "relu",
        "relu": None,  # read by none
    }


def test_a_tensor_that_one_call_reads_twice_has_no_sole_reader():
    x = keras.Input((3,))
    one = L.Dense(3, name="one")(x)
    graph = gr.read(keras.Model(x, L.Add(name="add")([one, one])))
    assert sole_reader(graph, graph.calls[0].outputs[0]) is None


def test_a_successor_reads_nothing_else():
    x, y = keras.Input((3,)), keras.Input((3,))
    one = L.Dense(3, name="one")(x)
    add = L.Add(name="add")([one, y])
    graph = gr.read(keras.Model([x, y], L.Dense(2, name="two")(add)))
    assert names(sole_successor, graph) == {
        "one": None,
        "add": "two",
        "two": None,
    }
    reader = sole_reader(graph, graph.calls[0].outputs[0])
    assert reader.path == "add"
