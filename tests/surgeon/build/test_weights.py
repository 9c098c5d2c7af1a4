"""The arrays of layers at their final size, written out by hand."""

import keras
import numpy as np
import pytest
from keras import layers as L
from numpy.testing import assert_allclose
from numpy.testing import assert_array_equal

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.build import weights as wt
from keras_gates.surgeon.rules.rule import along_role
from keras_gates.surgeon.solving import solve

SHUT_MIDDLE = np.array([False, True, False])


def cut_layers(model, mask=SHUT_MIDDLE):
    """What each layer is created with when the gate "gate" is closed so."""
    solution = solve.solve(gr.read(model), {"gate": mask})
    weights = wt.Weights(solution.decision, solution.folds)
    return {
        step.path: weights.cut_layer(step)
        for step in solution.labelling.steps
        if step.position is None
    }


def set_weights(model, name, *arrays):
    """Set all weights of a layer, in its order."""
    arrays = [np.array(array, "float32") for array in arrays]
    model.get_layer(name).set_weights(arrays)


def chain(*layers, factors=(1.0, 1.0, 1.0), shape=(2,)):
    """x -> hidden (3) -> gate -> the layers."""
    x = keras.Input(shape)
    h = L.Dense(3, name="hidden")(x)
    gate = kg.FilterGate(name="gate")
    h = gate(h)
    gate.factor.assign(factors)
    for layer in layers:
        h = layer(h)
    model = keras.Model(x, h)
    kernel = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    set_weights(model, "hidden", kernel, [7.0, 8.0, 9.0])
    return model


# Arrays alone -----------------------------------------------------------

KERNEL = np.arange(6.0).reshape(3, 2)  # 0 1 | 2 3 | 4 5
UNITS = {"in": np.arange(3), "out": np.arange(2)}


@pytest.mark.parametrize(
    "kept, expected",
    [
        ({"in": [0, 2]}, [[0, 1], [4, 5]]),
        ({"out": [1]}, [[1], [3], [5]]),
        ({"in": [0, 2], "out": [1]}, [[1], [5]]),
        ({}, [[0, 1], [2, 3], [4, 5]]),
        # All of them, by number: nothing to take out.
        ({"in": [0, 1, 2], "out": [0, 1]}, [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_a_kernel_is_cut_by_its_roles(kept, expected):
    index = {role: np.array(positions) for role, positions in kept.items()}
    got = wt.cut(KERNEL, ("in", "out"), index, UNITS)
    assert_array_equal(got, expected)
    assert not np.shares_memory(got, KERNEL)


def test_roles_are_those_of_the_last_axes():
    kernel = np.arange(12.0).reshape(2, 3, 2)  # (width, in, out)
    got = wt.cut(kernel, ("in", "out"), {"in": np.array([1])}, UNITS)
    assert_array_equal(got, [[[2, 3]], [[8, 9]]])


def test_an_axis_without_a_role_is_kept():
    kernel = np.arange(6.0).reshape(3, 2)
    got = wt.cut(kernel, ("in", None), {"in": np.array([2])}, UNITS)
    assert_array_equal(got, [[4, 5]])


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
def test_a_large_kernel_is_cut_some_rows_at_a_time(monkeypatch, at_once):
    monkeypatch.setattr(wt, "_AT_ONCE", at_once)
    kernel = np.arange(24.0).reshape(2, 4, 3)
    index = {"in": np.array([0, 2, 3]), "out": np.array([0, 2])}
    units = {"in": np.arange(4), "out": np.arange(3)}
    got = wt.cut(kernel, ("in", "out"), index, units)
    first = [[0, 2], [6, 8], [9, 11]]
    second = [[12, 14], [18, 20], [21, 23]]
    assert_array_equal(got, [first, second])


def test_a_vector_along_the_axis_of_its_role():
    vector = np.array([1.0, 2.0])
    got = along_role(vector, "in", ("in", "out"), 3)
    assert_array_equal(got, [[[1.0], [2.0]]])


# Layers of a model ------------------------------------------------------


def test_dense_layers_lose_the_closed_channel():
    model = chain(L.Dense(2, name="head"))
    kernel = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    set_weights(model, "head", kernel, [0.5, 0.6])
    found = cut_layers(model)
    hidden, head = found["hidden"].arrays, found["head"].arrays
    assert_array_equal(hidden["kernel"], [[1, 3], [4, 6]])
    assert_array_equal(hidden["bias"], [7, 9])
    assert_array_equal(head["kernel"], [[1, 2], [5, 6]])
    # 0 of the closed channel adds nothing.
    assert_allclose(head["bias"], [0.5, 0.6], rtol=1e-7)
    assert not found["head"].config


def test_the_factors_of_open_channels_go_into_the_layer_before():
    model = chain(L.Dense(2, name="head"), factors=(2.0, 1.0, -1.0))
    hidden = cut_layers(model)["hidden"].arrays
    assert_array_equal(hidden["kernel"], [[2, -3], [8, -6]])
    assert_array_equal(hidden["bias"], [14, -9])


def test_a_constant_is_added_to_the_next_bias():
    """The sigmoid makes 0.5 of the 0, times the row of the channel."""
    model = chain(L.Activation("sigmoid"), L.Dense(2, name="head"))
    kernel = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    set_weights(model, "head", kernel, [10.0, 20.0])
    head = cut_layers(model)["head"].arrays
    assert_array_equal(head["kernel"], [[1, 2], [5, 6]])
    assert_allclose(head["bias"], [11.5, 22.0], rtol=1e-7)


def test_a_layer_without_a_bias_gets_one():
    model = chain(
        L.Activation("sigmoid"), L.Dense(2, use_bias=False, name="head")
    )
    kernel = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    set_weights(model, "head", kernel)
    arrays, config = cut_layers(model)["head"]
    assert_allclose(arrays["bias"], [1.5, 2.0], rtol=1e-7)
    assert config == {"use_bias": True}


def test_the_constant_goes_into_the_mean_of_a_normalization():
    """Of a layer without a bias, since the normalization has one."""
    model = chain(
        L.Activation("sigmoid"),
        L.Dense(2, use_bias=False, name="head"),
        L.BatchNormalization(name="norm"),
    )
    kernel = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    set_weights(model, "head", kernel)
    mean = [100.0, 200.0]
    norm = [[1.0, 1.0], [0.0, 0.0], mean, [1.0, 1.0]]
    set_weights(model, "norm", *norm)
    found = cut_layers(model)
    assert found["head"].arrays.keys() == {"kernel"}
    assert not found["head"].config
    arrays = found["norm"].arrays
    assert_allclose(arrays["moving_mean"], [98.5, 198.0], rtol=1e-7)


def test_a_batch_normalization_is_cut_along_its_channels():
    model = chain(L.BatchNormalization(name="norm"), L.Dense(1, name="head"))
    gamma, beta = [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]
    mean, variance = [4.0, 0.0, 6.0], [7.0, 8.0, 9.0]
    set_weights(model, "norm", gamma, beta, mean, variance)
    norm = cut_layers(model)["norm"].arrays
    assert_array_equal(norm["gamma"], [1, 3])
    assert_array_equal(norm["beta"], [0, 0])
    assert_array_equal(norm["moving_mean"], [4, 6])
    assert_array_equal(norm["moving_variance"], [7, 9])


def test_constants_at_a_zero_border_merge_into_one_that_stays():
    """Two of 0.5 each: the one that stays has the sum of their slices."""
    model = chain(
        L.Activation("sigmoid"),
        L.Conv1D(1, 3, padding="same", use_bias=False, name="conv"),
        shape=(5, 2),
    )
    # (width, in, out)
    kernel = np.arange(9.0).reshape(3, 3, 1)  # 0 1 2 | 3 4 5 | 6 7 8
    set_weights(model, "conv", kernel)
    found = cut_layers(model, np.array([False, True, True]))
    expected = [[[0], [1 + 2]], [[3], [4 + 5]], [[6], [7 + 8]]]
    assert_allclose(found["conv"].arrays["kernel"], expected, rtol=1e-6)
    assert found["conv"].arrays.keys() == {"kernel"}


def test_the_weights_that_a_layer_is_made_with_are_its_own():
    """JAX and torch hand out arrays that share memory with the model."""
    model = chain(L.Dense(2, name="head"))
    before = [np.array(w) for w in model.get_layer("head").get_weights()]
    for array in cut_layers(model)["head"].arrays.values():
        array += 1.0
    after = model.get_layer("head").get_weights()
    for old, new in zip(before, after, strict=True):
        assert_array_equal(old, new)
