"""A layer and a model of its parts, compared by a trial."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs.sampled import Likeness


def node_of(layer, *args, **kwargs):
    layer(*args, **kwargs)
    return private.calls_of(layer)[-1]


def model_of(function, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    y = function(*inputs)
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], y)


def likeness(layer, node, model):
    given = node.arguments.args, node.arguments.kwargs
    return sampled.compared(layer, given, model, node.input_tensors)


def agree(layer, node, model):
    return likeness(layer, node, model) is Likeness.ALIKE


class Doubles(L.Layer):
    def call(self, x):
        return x * 2


@pytest.mark.parametrize(
    ("function", "same"),
    [
        (lambda x: x + x, True),
        (lambda x: x * 2.001, False),
        (lambda x: [x + x, x], False),
        (lambda x: ops.cast(x * 2, "float16"), False),
        (lambda x: ops.expand_dims(x * 2, 1), False),
    ],
)
def test_agree(function, same):
    layer = Doubles()
    node = node_of(layer, keras.Input((4,)))
    assert agree(layer, node, model_of(function, (4,))) == same


def test_a_model_that_fails_does_not_agree():
    layer = Doubles()
    node = node_of(layer, keras.Input((4,)))
    found = likeness(layer, node, model_of(lambda x: x * 2, (5,)))
    assert found is Likeness.FAILS
    found = likeness(layer, node, model_of(lambda x: x * 3, (4,)))
    assert found is Likeness.UNLIKE


class Needs(L.Layer):
    """Takes signals of one length."""

    def __init__(self, length):
        super().__init__()
        self.length = length

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        if x.shape[1] not in (None, self.length):
            raise ValueError(x.shape)
        return x * 2


def test_another_size_is_tried():
    layer = Needs(12)
    node = node_of(layer, keras.Input((None, 4)))
    assert agree(layer, node, model_of(lambda x: x * 2, (None, 4)))
    assert not agree(layer, node, model_of(lambda x: x * 3, (None, 4)))


def test_what_can_not_be_tried_is_refused():
    layer = Needs(1000)
    node = node_of(layer, keras.Input((None, 4)))
    model = model_of(lambda x: x * 2, (None, 4))
    assert likeness(layer, node, model) is Likeness.UNTRIED


def test_arguments_go_to_their_places():
    class Weighs(L.Layer):
        def call(self, x, more, by=1.0):
            return x + more["b"] * by - more["a"]

    layer = Weighs()
    x, a, b = (keras.Input((3,)) for _ in range(3))
    node = node_of(layer, x, {"b": b, "a": a}, by=3.0)
    order = [
        [id(kt) for kt in (x, a, b)].index(id(y)) for y in node.input_tensors
    ]

    def function(*tensors):
        x, a, b = (tensors[order.index(n)] for n in range(3))
        return x + b * 3.0 - a

    assert agree(layer, node, model_of(function, *[(3,)] * 3))


def test_it_is_about_inference():
    layer = L.Dropout(0.5)
    node = node_of(layer, keras.Input((40,)), training=True)
    model = model_of(lambda x: L.Dropout(0.9)(x), (40,))
    assert agree(layer, node, model)


def test_masks_are_carried():
    class Masked(L.Layer):
        def call(self, x, mask=None):
            return x if mask is None else x * ops.cast(mask, x.dtype)[..., None]

    layer, x = Masked(), keras.Input((6, 4))
    private.set_mask(x, keras.KerasTensor((None, 6), "bool"))
    node = node_of(layer, x * 1.0)
    private.set_mask(
        node.input_tensors[0], keras.KerasTensor((None, 6), "bool")
    )
    masked = agree(layer, node, model_of(lambda x: x * 1.0, (6, 4)))
    assert not masked


def test_models_agree():
    def model(swapped):
        a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        y, z = (b, a) if swapped else (a, b)
        return keras.Model({"a": a, "b": b}, {"y": y * 2, "z": z * 3})

    first, other = model(False), model(True)
    assert sampled.models_agree(first, model(False), first.input)
    assert not sampled.models_agree(first, other, first.input)


def test_nothing_is_left_of_it():
    layer = L.BatchNormalization()
    node = node_of(layer, keras.Input((4,)))
    before = [np.array(ops.convert_to_numpy(w)) for w in layer.weights]
    agree(layer, node, model_of(lambda x: x * 1.0, (4,)))
    after = [np.array(ops.convert_to_numpy(w)) for w in layer.weights]
    assert all(map(np.array_equal, before, after))
    assert len(private.calls_of(layer)) == 1
