"""Scores by weights, of kernels that are written out."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.scores import weights

# Two inputs, three hidden units, two outputs. By the columns of the first and
# the rows of the second: sums of sizes 7, 2, 14 and 1, 14, 2; norms 5, 2, 10
# and 1, 10, 2.
FIRST = [[3, 0, -6], [4, -2, 8]]
SECOND = [[0, -1], [6, 8], [0, 2]]


def scores(criterion, model, name="hidden"):
    found = groups.find(expand.read(model))
    return criterion(found)[found.groups[name].units]


def two_layers(first=FIRST, second=SECOND):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            L.Dense(3, use_bias=False, name="hidden"),
            L.ReLU(),
            L.Dense(2, use_bias=False, name="logits"),
        ]
    )
    model.set_weights([np.array(first), np.array(second)])
    return model


@pytest.mark.parametrize(
    "criterion, expected",
    [
        (weights.l1, [(7 + 1) / 2, (2 + 14) / 2, (14 + 2) / 2]),
        (weights.l2, [(5 + 1) / 2, (2 + 10) / 2, (10 + 2) / 2]),
    ],
)
def test_norms_are_means_over_what_makes_a_unit_and_what_reads_it(
    criterion, expected
):
    assert scores(criterion, two_layers()).tolist() == expected


def test_the_geometric_median_is_of_what_makes_a_unit_alone():
    """The filters (0, 0), (3, 4), (6, 8) lie on a line, 5 apart."""
    model = two_layers(first=[[0, 3, 6], [0, 4, 8]])
    expected = [5 + 10, 5 + 5, 10 + 5]
    assert scores(weights.geometric_median, model).tolist() == expected


def test_a_filter_is_all_that_it_reads_at_all_positions():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            L.Conv2D(2, (1, 2), use_bias=False, name="hidden"),
            L.GlobalAveragePooling2D(),
            L.Dense(1, use_bias=False),
        ]
    )
    # The first filter is (3, 4), the second (0, 1).
    kernel = np.array([[3, 0], [4, -1]]).reshape(1, 2, 1, 2)
    model.set_weights([kernel, np.array([[1], [-7]])])
    assert scores(weights.l1, model).tolist() == [(7 + 1) / 2, (1 + 7) / 2]
    assert scores(weights.l2, model).tolist() == [(5 + 1) / 2, (1 + 7) / 2]


def test_channels_that_meet_are_scored_together():
    x = keras.Input((1,))
    left = L.Dense(2, use_bias=False, name="hidden")
    right = L.Dense(2, use_bias=False)
    reader = L.Dense(1, use_bias=False)
    model = keras.Model(x, reader(L.Add()([left(x), right(x)])))
    left.set_weights([np.array([[1, 2]])])
    right.set_weights([np.array([[-4, 6]])])
    reader.set_weights([np.array([[1], [-1]])])
    expected = [(1 + 4 + 1) / 3, (2 + 6 + 1) / 3]
    assert scores(weights.l1, model).tolist() == expected


def test_a_layer_that_is_called_twice_counts_once():
    x, y = keras.Input((2,)), keras.Input((2,))
    hidden = L.Dense(2, use_bias=False, name="hidden")
    reader = L.Dense(1, use_bias=False)
    both = L.Add()([hidden(x), hidden(y)])
    model = keras.Model([x, y], reader(both))
    hidden.set_weights([np.array([[1, 2], [0, 5]])])
    reader.set_weights([np.array([[10], [0]])])
    expected = [(1 + 10) / 2, (7 + 0) / 2]
    assert scores(weights.l1, model).tolist() == expected


def normalized():
    layers = [
        L.Dense(3, name="hidden"),
        L.BatchNormalization(),
        L.Dense(2, name="other"),
        L.Dense(1),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    layers[1].gamma.assign([-2.0, 0.5, 0.0])
    return model


def test_a_batch_normalization_scores_by_the_size_of_its_gammas():
    assert scores(weights.batch_norm, normalized()).tolist() == [2.0, 0.5, 0.0]


def test_what_has_no_gamma_has_no_score():
    assert np.isnan(scores(weights.batch_norm, normalized(), "other")).all()
