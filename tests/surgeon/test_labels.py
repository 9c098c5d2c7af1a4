"""Units and label arrays, each answer written out."""

import numpy as np
import pytest

from keras_gates.surgeon import labels as lb


def units(*sizes):
    """`Units` with ids for some producers, and these ids."""
    made = lb.Units()
    return made, [made.mint(key, size) for key, size in enumerate(sizes)]


def test_unit_0_is_minted_for_nobody():
    _, (first, second) = units(3, 2)
    assert first.tolist() == [1, 2, 3]
    assert second.tolist() == [4, 5]


def test_a_key_has_the_same_units_each_time():
    made, (first,) = units(3)
    assert made.mint(0, 3).tolist() == first.tolist() == [1, 2, 3]
    assert made.count == 4


def test_without_ties_each_unit_is_a_class():
    made, _ = units(3)
    assert made.classes().tolist() == [0, 1, 2, 3]


def test_a_tie_makes_the_class_of_the_first():
    made, (a, b) = units(3, 3)
    made.tie(a, b[::-1])
    assert made.classes().tolist() == [0, 1, 2, 3, 3, 2, 1]


def test_ties_reach_over_what_lies_between():
    """1-4, 4-5, and 3-5: whichever comes first."""
    made, (a, b) = units(3, 2)
    made.tie(a[2:], b[1:])
    made.tie(b[:1], b[1:])
    made.tie(a[:1], b[:1])
    assert made.classes().tolist() == [0, 1, 2, 1, 1, 1]


def test_a_tie_broadcasts():
    made, (a,) = units(3)
    made.tie(lb.fixed(2), lb.vector(a, 2, 1))
    assert made.classes().tolist() == [0, 0, 0, 0]


def test_a_tie_of_sizes_that_differ_is_refused():
    made, (a, b) = units(3, 2)
    with pytest.raises(ValueError):
        made.tie(a, b)


def test_a_pin_has_each_unit_once_and_the_call_that_asks():
    made, (a,) = units(3)
    made.pin(a[[1, 1, 0]], "so")
    made.call = "a call"
    made.pin(a, "of a rule")
    first, second = made.pinned
    assert first.ids.tolist() == [1, 2] and first[1:] == ("so", None)
    assert second.ids.tolist() == [1, 2, 3]
    assert second[1:] == ("of a rule", "a call")


def test_labels_of_tensors():
    assert lb.fixed(3).tolist() == [[[0]]]
    ids = np.array([4, 5])
    assert lb.vector(ids, 3, -1).tolist() == [[[4, 5]]]
    assert lb.vector(ids, 3, 1).tolist() == [[[4], [5]]]


@pytest.mark.parametrize(
    "array, axis, expected",
    [
        ([[4, 5]], 1, [4, 5]),
        ([[4, 5]], -1, [4, 5]),
        ([[4, 5], [4, 5]], 1, [4, 5]),
        ([[4, 4], [5, 5]], 1, None),
        ([[4, 4], [5, 5]], 0, [4, 5]),
    ],
)
def test_what_is_along_an_axis(array, axis, expected):
    found = lb.along(np.array(array), axis)
    assert (found if found is None else found.tolist()) == expected


def test_labels_spread_to_sizes_that_are_known():
    labels = np.array([[[4, 5]]])
    assert lb.spread(labels, (None, 2, 2)).tolist() == [[[4, 5], [4, 5]]]
    assert lb.spread(labels, (None, None, 2)).shape == (1, 1, 2)
    assert lb.spread(labels, (None, 3, 2), [2]).shape == (1, 1, 2)


def test_axes_that_do_not_vary_collapse():
    assert lb.collapse(np.array([[4, 5], [4, 5]])).tolist() == [[4, 5]]
    assert lb.collapse(np.array([[4, 5], [5, 4]])).tolist() == [[4, 5], [5, 4]]
    assert lb.varying(np.zeros((1, 3, 2))) == [1, 2]


@pytest.mark.parametrize(
    "array, axis, ids",
    [
        ([[4, 5]], 1, [4, 5]),
        ([[4, 5], [4, 5]], 1, [4, 5]),
        ([[4, 4, 4]], 1, [4, 4, 4]),
        ([[4, 5], [6, 7]], None, None),
        ([[4]], None, None),
    ],
)
def test_the_only_axis_that_varies(array, axis, ids):
    found, along = lb.sole_axis(np.array(array))
    assert (found, along if along is None else along.tolist()) == (axis, ids)


def lists(masks):
    return masks if masks is None else [mask.tolist() for mask in masks]


@pytest.mark.parametrize(
    "mask, expected",
    [
        ([[True, False, True]], [[True], [True, False, True]]),
        ([[False, False]], [[False], [False, False]]),
        ([[True, False], [True, False]], [[True, True], [True, False]]),
        ([[True, True], [False, False]], [[True, False], [True, True]]),
        ([[True, False], [False, True]], None),
    ],
)
def test_a_mask_as_one_for_each_axis(mask, expected):
    assert lists(lb.axis_masks(np.array(mask))) == expected


def test_a_cut_shape():
    masks = [np.array([True]), np.array([True]), np.array([True, False, True])]
    assert lb.cut_shape((None, 7, 3), masks) == (None, 7, 2)


def test_what_has_the_shape_is_not_stretched():
    array = np.array([[1, 2]])
    assert lb.stretched(array, (1, 2)) is array
    assert lb.stretched(array, (2, 2)).tolist() == [[1, 2], [1, 2]]
    assert lb.stretched(np.True_, (1, 2)).tolist() == [[True, True]]
