"""How Keras passes on masks of time steps."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.graphs import private


def masked():
    """A symbolic tensor with a mask."""
    x = keras.Input((4,), dtype="int32")
    return L.Embedding(5, 3, mask_zero=True)(x)


def test_mask_of():
    x = masked()
    assert tuple(private.mask_of(x).shape) == (None, 4)
    assert private.mask_of(keras.Input((3,))) is None
    eager = L.Embedding(5, 3, mask_zero=True)(np.array([[0, 1]]))
    assert keras.ops.convert_to_numpy(private.mask_of(eager)).tolist() == [
        [False, True]
    ]


def test_set_mask():
    """A layer finds what was set."""
    x = keras.ops.ones((1, 2, 3))
    private.set_mask(x, keras.ops.convert_to_tensor([[True, False]]))
    lstm = L.SimpleRNN(2, return_sequences=True)
    y = keras.ops.convert_to_numpy(lstm(x))
    assert (y[:, 0] == y[:, 1]).all()


@pytest.mark.parametrize(
    "layer, expected",
    [
        (L.Dense(1), True),
        (L.ReLU(), True),
        (L.Masking(), False),
        (L.Concatenate(), False),
        (L.Add(), False),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_hands_mask_on(layer, expected):
    assert private.hands_mask_on(layer) is expected


@pytest.mark.parametrize("name", "Add Subtract Multiply Average Dot".split())
def test_merges_masks(name):
    layer = getattr(L, name)(**({"axes": 1} if name == "Dot" else {}))
    assert private.merges_masks(layer) is (name != "Dot")
    assert not private.merges_masks(L.Concatenate())


def test_mask_arguments():
    """The names are those that Keras fills."""
    assert private.mask_arguments(["inputs"]) == ["mask"]
    assert private.mask_arguments(["a", "b"]) == ["a_mask", "b_mask"]
    got = {}

    class One(L.Layer):
        supports_masking = True

        def call(self, inputs, mask=None):
            got["mask"] = mask
            return inputs

    class Two(L.Layer):
        supports_masking = True

        def call(self, a, b, a_mask=None, b_mask=None):
            got.update(a_mask=a_mask, b_mask=b_mask)
            return a

    x = masked()
    One()(x)
    Two()(x, keras.Input((4, 3)))
    assert got["mask"].shape[1] == got["a_mask"].shape[1] == 4
    assert got["b_mask"] is None
