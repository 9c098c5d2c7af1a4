"""A model rebuilt has the same layers and weights, and shares nothing."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from tests import helpers
from tests.surgeon import small_models as sm


def two_outputs():
    x = keras.Input((6, 3), name="in")
    y, state = L.GRU(4, return_sequences=True, return_state=True)(x)
    return keras.Model({"in": x}, {"y": ops.tanh(y), "state": state})


def layers_inside():
    x = keras.Input((5, 3))
    y = L.Bidirectional(L.LSTM(2))(x)
    return keras.Model(x, L.Dropout(0.5, seed=3)(y), name="inside")


MODELS = [*sm.MODELS, two_outputs, layers_inside]


@pytest.mark.parametrize("make", MODELS)
def test_nothing_is_changed_without_an_edit(make):
    model = make()
    before = helpers.fingerprint(model)
    new = rewrite(gr.read(model))
    assert helpers.fingerprint(model) == before
    assert type(new) is type(model) or not isinstance(model, keras.Sequential)
    layers = zip(model.layers, new.layers, strict=True)
    assert all(new.get_config() == old.get_config() for old, new in layers)
    for old, weight in zip(model.variables, new.variables, strict=True):
        assert old is not weight
        np.testing.assert_array_equal(
            helpers.numpy_of(old), helpers.numpy_of(weight)
        )
    x = helpers.inputs_for(model)
    for old, got in zip(
        helpers.run(model, x), helpers.run(new, x), strict=True
    ):
        np.testing.assert_array_equal(old, got)


def test_the_new_model_shares_no_memory_with_the_old():
    model = sm.convnet()
    new = rewrite(gr.read(model))
    before = [helpers.numpy_of(w).copy() for w in model.weights]
    helpers.bump(new)
    for weight, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(helpers.numpy_of(weight), array)


def test_an_edit_sees_calls_in_order_and_may_answer_otherwise():
    x = keras.Input((4,))
    y = L.Dense(3, name="first")(x)
    z = L.Dense(3, name="second")(y)
    model = keras.Model(x, z)
    seen = []

    def edit(recall):
        seen.append(recall.op.name)
        if recall.op.name == "second":
            # The output of the layer, and what stood before it.
            return ops.add(recall(), recall.tensor(y))
        return None

    new = rewrite(gr.read(model), edit, name="other")
    assert seen == ["first", "second"] and new.name == "other"
    data = helpers.inputs_for(model)
    first = helpers.numpy_of(model.get_layer("first")(data))
    (old,), (got,) = helpers.run(model, data), helpers.run(new, data)
    np.testing.assert_allclose(got, old + first, rtol=1e-6)


def test_a_sequential_stays_one_while_it_is_a_chain():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)])

    def gated(recall):
        return kg.FilterGate()(recall())

    def doubled(recall):
        y = recall()
        return ops.add(y, y)

    new = rewrite(gr.read(model), gated)
    assert isinstance(new, keras.Sequential)
    kinds = [type(layer) for layer in new.layers]
    assert kinds == [L.Dense, kg.FilterGate] * 2
    other = rewrite(gr.read(model), doubled)
    assert not isinstance(other, keras.Sequential)
    x = helpers.inputs_for(model)
    (expected,), (got,) = helpers.run(model, x), helpers.run(new, x)
    np.testing.assert_array_equal(expected, got)


def test_inputs_can_be_edited():
    model = sm.chain()
    new = rewrite(gr.read(model), edit_input=lambda x, old: ops.negative(x))
    x = helpers.inputs_for(model)
    negated = keras.tree.map_structure(np.negative, x)
    (expected,), (got,) = helpers.run(model, negated), helpers.run(new, x)
    np.testing.assert_array_equal(expected, got)


def test_nested_models_are_edited_once_and_stay_nested():
    model = sm.siamese()
    count = []
    new = rewrite(gr.read(model), lambda recall: count.append(recall.op))
    assert len(count) == len({id(op) for op in count})
    inner = [s.op for s in gr.read(new).sites if s.child is not None]
    assert len({id(op) for op in inner}) == 1 and len(inner) > 1
