"""A model read as calls, on models small enough to write these out."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.graphs import graph as gr


def described(graph):
    """A line for each call: its path, what it reads, what it makes."""
    names = {x: f"input {n}" for n, x in enumerate(graph.inputs)}
    lines = []
    for call in graph.calls:
        for number, tensor in enumerate(call.outputs):
            several = len(call.outputs) > 1
            made = len([c for c in graph.calls if c.path == call.path]) > 1
            nth = [c for c in graph.calls if c.path == call.path].index(call)
            name = call.path + (f" ({nth})" if made else "")
            names[tensor] = name + (f" [{number}]" if several else "")
        shapes = [x.shape for x in call.outputs]
        lines.append((call.path, [names[x] for x in call.inputs], *shapes))
    lines.append(("outputs", [names[x] for x in graph.outputs]))
    return lines


def branches():
    """A fork, a sum with a keyword, and two outputs."""
    x = keras.Input((8, 8, 3), name="image")
    h = L.Conv2D(4, 3, padding="same", name="conv")(x)
    y = L.BatchNormalization(name="norm")(h, training=False)
    y = L.Add(name="add")([h, y])
    left, right = keras.ops.split(y, 2, axis=-1)
    return keras.Model(x, [L.Flatten(name="flat")(left), right])


def test_a_functional_model():
    graph = gr.read(branches())
    split = graph.calls[3].path
    whole, half = (None, 8, 8, 4), (None, 8, 8, 2)
    assert described(graph) == [
        ("conv", ["input 0"], whole),
        ("norm", ["conv"], whole),
        ("add", ["conv", "norm"], whole),
        (split, ["add"], half, half),
        ("flat", [f"{split} [0]"], (None, 128)),
        ("outputs", ["flat", f"{split} [1]"]),
    ]


def test_each_part_shows_itself_and_not_the_graph():
    graph = gr.read(branches())
    call = graph.calls[0]
    shown = [*map(repr, [call.site, call, *call.inputs, *call.outputs])]
    assert shown == [
        "<Site 'conv'>",
        "<Call 'conv'>",
        "<Tensor: float32 (None, 8, 8, 3)>",
        "<Tensor of 'conv': float32 (None, 8, 8, 4)>",
    ]
    assert repr(graph).endswith(f": {len(graph.calls)} calls>")


def test_the_tensors_of_a_functional_model():
    graph = gr.read(branches())
    conv, norm, add, *_ = graph.calls
    assert graph.inputs[0].shape == (None, 8, 8, 3)
    assert graph.inputs[0].dtype == "float32"
    assert graph.inputs[0].producer is None
    assert conv.outputs[0].producer is conv
    assert conv.outputs[0].consumers == [norm, add]
    assert graph.outputs[0].consumers == []
    assert norm.argument("training") is False
    assert norm.argument("inputs") is conv.outputs[0]
    assert norm.argument("no such argument", "none") == "none"
    assert add.args == ([conv.outputs[0], norm.outputs[0]],)


def test_a_shared_layer():
    first, second = keras.Input((3,)), keras.Input((3,))
    dense = L.Dense(2, name="dense")
    model = keras.Model(
        [first, second], L.Add(name="add")([dense(second), dense(first)])
    )
    graph = gr.read(model)
    assert described(graph) == [
        ("dense", ["input 1"], (None, 2)),
        ("dense", ["input 0"], (None, 2)),
        ("add", ["dense (0)", "dense (1)"], (None, 2)),
        ("outputs", ["add"]),
    ]
    sites = [call.site for call in graph.calls]
    assert sites[0] is not sites[1] and sites[0].op is sites[1].op is dense
    assert [len(site.calls) for site in sites] == [1, 1, 1]


def nested():
    """A model that is called twice, in which another one is."""
    inner_x = keras.Input((3,))
    deep = keras.Sequential(
        [keras.Input((3,)), L.Dense(3, name="dense")], name="deep"
    )
    inner = keras.Model(inner_x, L.ReLU(name="relu")(deep(inner_x)))
    inner.name = "inner"
    x = keras.Input((3,))
    y = inner(inner(x))
    return keras.Model(x, L.Dense(1, name="last")(y)), inner, deep


def test_a_nested_model():
    model, inner, deep = nested()
    graph = gr.read(model)
    assert described(graph) == [
        ("inner/deep/dense", ["input 0"], (None, 3)),
        ("inner/relu", ["inner/deep/dense (0)"], (None, 3)),
        ("inner/deep/dense", ["inner/relu (0)"], (None, 3)),
        ("inner/relu", ["inner/deep/dense (1)"], (None, 3)),
        ("last", ["inner/relu (1)"], (None, 1)),
        ("outputs", ["last"]),
    ]
    scopes = [[s.site.op for s in call.scopes] for call in graph.calls]
    assert scopes == [[inner, deep], [inner], [inner, deep], [inner], []]


def test_the_sites_of_a_nested_model():
    model, inner, deep = nested()
    graph = gr.read(model)
    assert [site.name for site in graph.sites] == ["inner", "inner", "last"]
    of_inner, of_deep = graph.nested()
    assert (of_inner.model, of_deep.model) == (inner, deep)
    assert graph.sites[0].child is graph.sites[1].child is of_inner
    assert [site.name for site in of_inner.sites] == ["deep", "relu"]
    (dense,) = of_deep.sites
    assert dense.calls == [graph.calls[0], graph.calls[2]]
    first, second = of_inner.bounds
    assert first == graph.inputs and second == graph.calls[1].outputs


def test_a_model_in_time_distributed():
    inner = keras.Sequential([keras.Input((3,)), L.Dense(2, name="dense")])
    x = keras.Input((5, 3))
    model = keras.Model(x, L.TimeDistributed(inner, name="steps")(x))
    graph = gr.read(model)
    assert described(graph) == [
        ("steps", ["input 0"], (None, 3)),
        ("steps/dense", ["steps (0)"], (None, 2)),
        ("steps", ["steps/dense"], (None, 5, 2)),
        ("outputs", ["steps (1)"]),
    ]
    assert graph.calls[1].times == (graph.inputs[0],)


def test_a_model_on_other_arguments_is_a_layer():
    inner = keras.Sequential(
        [keras.Input((4, 1)), L.Flatten(), L.Dense(2)], name="inner"
    )
    x = keras.Input((4,))
    graph = gr.read(keras.Model(x, inner(x)))
    assert [call.path for call in graph.calls][-1] == "inner"
    assert "other arguments than its own inputs" in graph.unread[id(inner)]


@pytest.mark.filterwarnings("ignore:Layer 'inner' .*mask:UserWarning")
def test_a_mask_that_is_found_inside():
    """The calls of a nested model find what its input carries."""
    inner_x = keras.Input((4, 3))
    inner = keras.Model(inner_x, L.LSTM(2, name="lstm")(inner_x), name="inner")
    x = keras.Input((4,), dtype="int32")
    h = L.Embedding(5, 3, mask_zero=True, name="table")(x)
    hidden = L.LSTM(3, return_sequences=True, name="outer")(h)
    graph = gr.read(keras.Model(x, inner(hidden)))
    outer, lstm = graph.calls[-2:]
    assert (outer.path, outer.found) == ("outer", ())
    assert (lstm.path, lstm.found) == ("inner/lstm", ("mask",))
    mask = outer.kwargs["mask"]
    assert lstm.inputs == [outer.outputs[0], mask]
    assert lstm.kwargs["mask"] is mask and mask.dtype == "bool"
    assert [g.model for g in graph.masking] == [inner]


def test_what_layers_find_by_the_numbers_of_inputs():
    x = keras.Input((4, 3))
    lstm = L.LSTM(2)
    model = keras.Model(x, lstm(x))
    assert gr.finds(model, masked=True) == {id(lstm): {(("mask", (0,)),)}}
    assert gr.finds(model, masked=False) == {id(lstm): {()}}


def test_replace():
    graph = gr.read(branches())
    conv, norm, add, *_ = graph.calls
    new = gr.Tensor(conv.outputs[0].shape, "float32")
    gr.replace(graph, conv.outputs[0], new)
    assert norm.inputs == [new] and norm.args == (new,)
    assert add.inputs == [new, norm.outputs[0]]
    assert norm.kwargs["training"] is False


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: L.Dense(1), TypeError, "must be a built Keras model"),
        (lambda: keras.Sequential([L.Dense(1)]), ValueError, "is not built"),
        (lambda: Own(name="mine"), ValueError, "'mine' .*is subclassed"),
    ],
)
def test_what_has_no_graph_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        gr.read(make())


class Own(keras.Model):
    def call(self, x):
        return x


def test_what_needs_no_reading():
    model, inner, deep = nested()
    x = model.inputs[0]
    assert isinstance(gr.input_layer(x), L.InputLayer)
    last = model.get_layer("last")
    assert gr.maker(model.outputs[0]) == (last, 0)
    assert gr.own_weights(last) == [last.kernel, last.bias]
    assert gr.own_weights(keras.ops.relu(x)) == []
    assert gr.is_functional(deep) and not gr.is_functional(Own())
    inputs, outputs = map(keras.tree.flatten, gr.structures(model))
    assert inputs[0] is x and outputs[0] is model.outputs[0]
    deep.call = lambda x: x
    assert gr.has_own_call(deep) and not gr.has_own_call(model)


def test_a_size_of_numpy_becomes_a_number():
    x = keras.Input((np.int64(3),))
    graph = gr.read(keras.Model(x, L.ReLU()(x)))
    assert type(graph.inputs[0].shape[1]) is int
