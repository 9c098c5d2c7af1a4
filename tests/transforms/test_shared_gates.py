"""Layers that are called several times share one gate after all calls."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.graphs import graph as gr
from tests import helpers

OPEN = np.arange(16) % 2


def gates(model):
    kinds = (kg.FilterGate, kg.GatedRecurrent)
    found = [x for x in helpers.layers_of(model) if isinstance(x, kinds)]
    inside = [x.gate for x in found if isinstance(x, kg.GatedRecurrent)]
    return [x for x in found if all(x is not gate for gate in inside)]


def inserted(model, **spec):
    """The gated model, half of the channels of each gate closed."""
    x = helpers.inputs_for(model)
    helpers.randomize(model, x=x)
    gated = kg.insert_gates(model, filters=kg.transforms.GateSpec(**spec))
    for a, b in zip(helpers.run(model, x), helpers.run(gated, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(0)
    for gate in gates(gated):
        size = rng.uniform(0.6, 1.5, gate.factor.shape)
        gate.factor.assign(size * (np.arange(len(size)) % 2))
    return gated


def cut(gated, name="shared", size=8):
    small = kg.surgeon.prune(gated, 0.5)
    helpers.assert_same(gated, small)
    layer = small.get_layer(name)
    width = getattr(layer, "units", None) or layer.filters
    assert width == size
    return small


def twins(shared, first, second, shape=(8,)):
    """A shared layer on two inputs, with something of its own after each."""
    a, b = keras.Input(shape), keras.Input(shape)
    parts = [first(shared(a)), second(shared(b))]
    parts = [L.Flatten()(part) for part in parts]
    return keras.Model([a, b], L.Dense(2)(L.Concatenate()(parts)))


def dense():
    return L.Dense(16, activation="relu", name="shared")


def conv(**options):
    return L.Conv2D(16, 3, name="shared", **options)


IMAGE = (8, 8, 3)
TWINS = {
    "dense": (dense, lambda: L.Dense(5), lambda: L.Dense(6), (8,)),
    "time": (dense, lambda: L.Dense(5), lambda: L.Conv1D(6, 3), (8, 4)),
    "norms": (
        conv,
        lambda: L.BatchNormalization(),
        lambda: L.BatchNormalization(),
        IMAGE,
    ),
    "norm and activation": (
        conv,
        lambda: keras.Sequential([L.BatchNormalization(), L.ReLU()]),
        lambda: L.ReLU(),
        IMAGE,
    ),
    "depthwise": (
        conv,
        lambda: L.DepthwiseConv2D(3),
        lambda: L.Conv2D(4, 3, padding="same"),
        IMAGE,
    ),
    "nothing": (conv, lambda: L.Identity(), lambda: L.MaxPooling2D(), IMAGE),
    "lstm": (
        lambda: L.LSTM(16, name="shared", return_sequences=True),
        lambda: L.GRU(5),
        lambda: L.Conv1D(6, 3),
        (8, 4),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_one_gate_for_both_calls(name):
    shared, first, second, shape = TWINS[name]
    gated = inserted(
        twins(shared(), first(), second(), shape), include=["shared"]
    )
    (gate,) = gates(gated)
    calls = [call for call in gr.read(gated).calls if call.op is gate]
    assert len(calls) == 2
    cut(gated)


def test_scores_close_the_units_of_both_calls():
    for shared, first, second, shape in TWINS.values():
        model = twins(shared(), first(), second(), shape)
        x = helpers.inputs_for(model)
        helpers.randomize(model, x=x)
        scores = {"shared": np.arange(16) % 2 + 0.25}
        plan = kg.surgeon.plan(model, 0.5, scores=scores)
        small = plan.apply()
        layer = small.get_layer("shared")
        assert (getattr(layer, "units", None) or layer.filters) == 8
        assert max(kg.surgeon.verify(model, small, plan, x).values()) < 1e-5


def test_siamese_distances():
    shared = dense()
    a, b = keras.Input((8,)), keras.Input((8,))
    far = ops.abs(ops.subtract(shared(a), shared(b)))
    model = keras.Model([a, b], L.Dense(1)(far))
    gated = inserted(model)
    assert len(gates(gated)) == 1
    small = cut(gated)
    # The factors are in the kernel that both calls have.
    assert not any(isinstance(x, L.Rescaling) for x in small.layers)


def test_factors_that_are_not_those_of_all_calls_stay_out_of_the_kernel():
    shared = dense()
    a, b = keras.Input((8,)), keras.Input((8,))
    one = kg.FilterGate(name="one")(shared(a))
    two = kg.FilterGate(name="two")(shared(b))
    far = ops.abs(ops.subtract(one, two))
    model = keras.Model([a, b], L.Dense(1)(far))
    helpers.randomize(model, closed="none")
    for number, name in enumerate(("one", "two")):
        factors = np.linspace(0.6 + number, 1.5, 16) * OPEN
        model.get_layer(name).factor.assign(factors)
    cut(model)


def test_a_gate_behind_two_calls_of_three():
    shared, gate = dense(), kg.FilterGate(name="gate")
    inputs = [keras.Input((8,)) for _ in range(3)]
    a, b, c = map(shared, inputs)
    far = ops.abs(ops.subtract(gate(a), gate(b)))
    y = L.Concatenate()([L.Dense(2)(far), L.Dense(2)(c)])
    model = keras.Model(inputs, L.Dense(1)(y))
    helpers.randomize(model, closed="none")
    gate.factor.assign(np.linspace(0.6, 1.5, 16) * OPEN)
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small)
    assert small.get_layer("shared").units == 16


def test_both_calls_meet_in_one_gate():
    shared = L.Dense(16, name="shared")
    a, b = keras.Input((8,)), keras.Input((8,))
    y = kg.FilterGate(name="gate")(L.Add()([shared(a), shared(b)]))
    model = keras.Model([a, b], L.Dense(2)(ops.tanh(y)))
    helpers.randomize(model, closed="none")
    model.get_layer("gate").factor.assign(np.linspace(0.6, 1.5, 16) * OPEN)
    small = cut(model)
    assert not any(isinstance(x, L.Rescaling) for x in small.layers)


def test_a_layer_that_is_called_on_what_it_returned():
    shared = L.Dense(16, activation="tanh", name="shared")
    x = keras.Input((8,))
    y = L.Dense(16, activation="relu", name="first")(x)
    model = keras.Model(x, L.Dense(2)(shared(shared(y))))
    gated = inserted(model, include=["shared"])
    assert len(gates(gated)) == 1
    small = kg.surgeon.prune(gated, 0.5)
    helpers.assert_same(gated, small)


def test_three_calls_and_a_residual_stream():
    shared = L.Conv2D(16, 3, padding="same", name="shared")
    x = keras.Input(IMAGE)
    y = L.Conv2D(16, 3, padding="same", name="stem")(x)
    for _ in range(3):
        y = L.Add()([y, L.ReLU()(shared(y))])
    model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    gated = inserted(model)
    small = kg.surgeon.prune(gated, 0.5)
    helpers.assert_same(gated, small)
    assert small.get_layer("shared").filters == 8
    assert small.get_layer("stem").filters == 8


def test_a_nested_model_that_is_called_twice():
    i = keras.Input((8,))
    inner = keras.Model(i, L.ReLU()(L.Dense(16, name="shared")(i)))
    a, b = keras.Input((8,)), keras.Input((8,))
    y = L.Concatenate()([inner(a), inner(b)])
    model = keras.Model([a, b], L.Dense(2)(y))
    gated = inserted(model, include=["*shared"])
    assert len(gates(gated)) == 1
    small = kg.surgeon.prune(gated, 0.5)
    helpers.assert_same(gated, small)
    assert small.get_layer(inner.name).get_layer("shared").units == 8


def test_no_gate_where_one_call_can_have_none():
    """A gate of the user's is after one call already."""
    shared = dense()
    a, b = keras.Input((8,)), keras.Input((8,))
    one = kg.FilterGate(name="mine")(shared(a))
    y = L.Concatenate()([L.Dense(4)(one), L.Dense(4)(shared(b))])
    model = keras.Model([a, b], L.Dense(2)(y))
    with pytest.raises(ValueError, match="has a gate already"):
        kg.insert_gates(model, filters=["shared"])


def test_shared_layers_are_tied_to_no_other():
    model = twins(dense(), L.Dense(5), L.Dense(6))
    gated = kg.insert_gates(model, filters=["shared"], tied="skip")
    assert len(gates(gated)) == 1


def test_training_and_saving(tmp_path):
    gated = inserted(twins(dense(), L.Dense(5), L.Dense(6)))
    gated.compile("sgd", "mse")
    x = helpers.inputs_for(gated)
    gated.fit(x, np.zeros((4, 2)), verbose=0)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    for a, b in zip(helpers.run(gated, x), helpers.run(again, x), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(gates(again)) == len(gates(gated))


def test_a_layer_that_returns_its_states_has_its_data_gated():
    inputs = keras.Input((5, 3))
    data, state = L.SimpleRNN(8, return_state=True, name="cells")(inputs)
    parts = [L.Dense(4, activation="relu")(data), L.Dense(8)(state)]
    model = keras.Model(inputs, L.Dense(2)(L.Concatenate()(parts)))
    gated = kg.insert_gates(model, filters=True)
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    [before], [after] = helpers.run(model, x), helpers.run(gated, x)
    np.testing.assert_allclose(after, before, atol=1e-6)
