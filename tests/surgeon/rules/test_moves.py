"""Moves and rewrites of single calls, with the answers written out.

A move gets the numbers of coordinates; a rewrite gets a call of which some
units are left. Units are numbered from 1, and 2 and 5 of six go.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import graph
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import index
from keras_gates.surgeon.rules import moves
from keras_gates.surgeon.rules import rule

KEPT = [1, 3, 4, 6]
SIX = np.array([[1, 2, 3, 4, 5, 6]])


class Kept:
    """The view of a call whose input `(None, 6)` has the units of SIX."""

    inputs = [SIX]

    def masks(self, labels):
        return [np.ones(1, bool), np.isin(labels[0], KEPT)]

    def shape(self, tensor, labels):
        return lb.cut_shape(tensor.shape, self.masks(labels))


def call_of(function, shape=(6,)):
    """The call of one operation on an input of a shape."""
    x = keras.Input(shape)
    return graph.read(keras.Model(x, function(x))).calls[-1]


def to(*shape):
    return lambda x: ops.reshape(x, shape)


@pytest.mark.parametrize(
    "function, shape, numbers, expected",
    [
        # All sizes are known: the numbers take the new shape.
        (L.Reshape((2, 2)), (4,), [[0, 1, 2, 3]], [[[0, 1], [2, 3]]]),
        (L.Reshape((4,)), (2, 2), [[[0, 1], [2, 3]]], [[0, 1, 2, 3]]),
        # Positions join the batch; the channels are the block at the end.
        (to(-1, 3), (None, 3), [[[0, 1, 2]]], [[0, 1, 2]]),
        (to(-1, 2, 2), (None, 4), [[[0, 1, 2, 3]]], [[[0, 1], [2, 3]]]),
        # Nothing varies.
        (to(-1, 6), (None, 3), [[[7]]], [[7]]),
    ],
)
def test_reshape_moves_numbers(function, shape, numbers, expected):
    moved = moves.reshape(call_of(function, shape), [np.array(numbers)])
    assert moved.tolist() == expected


def test_reshape_refuses_to_cut_a_block_of_channels():
    call = call_of(to(-1, 3), (None, 6))
    with pytest.raises(ValueError, match="channels are mixed"):
        moves.reshape(call, [np.arange(6).reshape(1, 1, 6)])


@pytest.mark.parametrize(
    "key, expected",
    [
        (slice(2, 5), slice(1, 3)),
        (slice(None), slice(0, 4)),
        (slice(-2, None), slice(3, 4)),
        (3, 2),
        (-1, 3),
    ],
)
def test_a_slice_in_terms_of_what_is_left(key, expected):
    call = call_of(lambda x: x[:, key])
    config, args, kwargs = moves.sliced(call, None, Kept())
    assert args[1] == (slice(None), expected)
    assert args[0] is call.inputs[0]
    assert (config, kwargs) == ({}, {})


def test_a_slice_with_a_step_becomes_a_list():
    call = call_of(lambda x: x[:, ::2])
    # 1, 3 and 5 are picked; 1 and 3 are left, as the first two of four.
    _, args, _ = moves.sliced(call, None, Kept())
    assert args[1] == [0, 1]
    taking = moves.as_take(call, None, Kept())
    assert type(taking).__name__ == "Take"
    assert taking.axis == 1


def test_indices_are_renumbered_and_those_of_removed_units_go():
    call = call_of(lambda x: ops.take(x, [5, 1, 0, 4], axis=1))
    _, args, _ = moves.taken(call, None, Kept())
    assert args[1] == [3, 0]


def test_a_split_ends_where_what_is_left_of_its_parts_does():
    call = call_of(lambda x: ops.split(x, 3, axis=1))
    labels = [SIX[:, :2], SIX[:, 2:4], SIX[:, 4:]]
    config, _, _ = moves.splits(call, rule.Flow(labels, [[None]] * 3), Kept())
    assert config == {"indices_or_sections": [1, 3]}


def test_a_move_has_to_be_given():
    with pytest.raises(TypeError, match="move"):
        index.Index("moves nothing")
