"""Known results of known values, without a model."""

import keras
import numpy as np
import pytest

from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules import einsum
from keras_gates.surgeon.rules import merge

NAN = np.nan


def stranger(x):
    return x[..., ::-1]


@pytest.mark.parametrize(
    "function, expected",
    [
        (None, [-1.0, NAN, 2.0]),
        (keras.activations.relu, [0.0, NAN, 2.0]),
        # Each value depends on all: none is known.
        (keras.activations.softmax, [NAN, NAN, NAN]),
        (stranger, [NAN, NAN, NAN]),
    ],
)
def test_an_activation_of_known_values(function, expected):
    found = activations.apply(function, np.array([-1.0, NAN, 2.0]))
    np.testing.assert_array_equal(found, expected)


def test_nothing_is_known_of_a_merge_without_a_function():
    known = [np.ones((1, 1)), np.ones((1, 3))]
    found = merge.Merge("merge").function(known)
    np.testing.assert_array_equal(found, [[NAN, NAN, NAN]])


@pytest.mark.parametrize(
    "equation, axis_in, axis_out",
    [
        ("abc,cd->abd", -1, -1),
        ("abc,bd->adc", -2, -2),
        ("ab...,bc->ac...", 1, 1),
        ("...c,cd->...d", -1, -1),
        ("abc, cd -> adb", -1, -2),
    ],
)
def test_an_equation_of_a_dense_layer(equation, axis_in, axis_out):
    found = einsum.read(equation)
    assert (found.axis_in, found.axis_out) == (axis_in, axis_out)


@pytest.mark.parametrize(
    "equation, old, new",
    [
        ("abc,cde->abde", "c", "de"),
        ("abc,cde->adbe", "c", "de"),
        ("abcd,cde->abe", "cd", "e"),
        ("abcd,dec->abe", "cd", "e"),
        ("...cd,cdef->...ef", "cd", "ef"),
    ],
)
def test_an_equation_of_heads(equation, old, new):
    found = einsum.read(equation)
    assert (found.old, found.new, found.shared) == (old, new, "")


@pytest.mark.parametrize(
    "equation, old, new, shared, made",
    [
        ("abc,bcd->abd", "c", "d", "b", "bd"),
        ("abcd,dec->acbe", "d", "e", "c", "ce"),
        ("...bc,bdc->...bd", "c", "d", "b", "bd"),
    ],
)
def test_an_equation_of_experts(equation, old, new, shared, made):
    found = einsum.read(equation)
    assert (found.old, found.new) == (old, new)
    assert (found.shared, found.made) == (shared, made)


@pytest.mark.parametrize(
    "equation",
    [
        "abc,bc->a",  # two letters of the input, none new
        "abc,cb->abc",  # no letter that is summed over
        "abb,bc->acc",  # a letter twice
        "ab,ac->cb",  # the batch axis is read
    ],
)
def test_other_equations_are_refused_with_the_reason(equation):
    with pytest.raises(ValueError, match="the kernel sums over letters of"):
        einsum.read(equation)
