"""Masks of time steps go where they went before the cut, and nowhere else.

Keras hands a mask on with the tensor while a model runs. Where an operand
that had none goes, the others would bring theirs.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import surgeon
from tests import helpers

TOKENS = np.array([[3, 1, 4, 0, 0, 0], [1, 5, 2, 6, 5, 0], [3, 5, 8, 2, 0, 0]])


def plus(x, y):
    return x + y


JOINS = {
    "Add": lambda x, y: L.Add()([x, y]),
    "Add, the other way round": lambda x, y: L.Add()([y, x]),
    "Average": lambda x, y: L.Average()([x, y]),
    "three": lambda x, y: L.Add()([x, y, x]),
    "operation": plus,
    "Concatenate": lambda x, y: L.Concatenate()([x, y]),
    "concatenate": lambda x, y: ops.concatenate([y, x], axis=-1),
    "Maximum": lambda x, y: L.Maximum()([x, y]),
}
# Whether they pass on the mask of what they are called on.
BRANCHES = {
    "mask kept": lambda x: L.Dense(4)(x),
    "mask lost": lambda x: ops.tanh(L.Dense(4)(x)),
    "mask lost before": lambda x: L.Dense(4)(ops.tanh(x)),
}
READERS = {
    "GRU": lambda x: L.GRU(3)(x),
    "LSTM in two": lambda x: L.LSTM(3)(L.LSTM(3, return_sequences=True)(x)),
    "pooling": lambda x: L.GlobalAveragePooling1D()(x),
    "attention": lambda x: L.Flatten()(L.MultiHeadAttention(2, 2)(x, x)),
    "norm, then GRU": lambda x: L.GRU(3)(L.BatchNormalization()(x)),
    "bidirectional": lambda x: L.Bidirectional(L.GRU(3))(x),
}
CASES = [(join, branch, "GRU") for join in JOINS for branch in BRANCHES]
CASES += [("Add", "mask lost", reader) for reader in READERS]


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.parametrize("join, branch, reader", CASES)
def test_a_closed_branch_leaves_the_mask_as_it_was(join, branch, reader):
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 4, mask_zero=True)(tokens)
    y = kg.LayerGate(name="gate")(BRANCHES[branch](x))
    y = READERS[reader](JOINS[join](x, y))
    model = helpers.randomize(keras.Model(tokens, L.Dense(2)(y)), x=TOKENS)
    model.get_layer("gate").factor.assign(0.0)
    expected = helpers.run(model, TOKENS)
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    far = helpers.differences(expected, helpers.run(pruned, TOKENS))
    assert max(far) < helpers.RTOL
    assert pruned.count_params() < model.count_params()


def test_where_no_mask_comes_in_nothing_is_copied():
    x = keras.Input((6, 4))
    y = kg.LayerGate(name="gate")(L.Dense(4)(x))
    model = keras.Model(x, L.Dense(2)(L.GRU(3)(L.Add()([x, y]))))
    model.get_layer("gate").factor.assign(0.0)
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    assert [type(layer).__name__ for layer in pruned.operations] == [
        "InputLayer",
        "GRU",
        "Dense",
    ]


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_the_copy_is_saved_and_loaded(tmp_path):
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 4, mask_zero=True)(tokens)
    y = x + kg.LayerGate(name="gate")(L.Dense(4)(x))
    model = keras.Model(tokens, L.GRU(3)(y))
    model.get_layer("gate").factor.assign(0.0)
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    expected = helpers.run(model, TOKENS)
    far = helpers.differences(expected, helpers.run(loaded, TOKENS))
    assert max(far) < helpers.RTOL
