"""The inputs that `verify` draws, and those that it takes."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.verifying import sample_inputs
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD


def drawn(model, samples=200, seed=0):
    (batch,) = sample_inputs.batches(model, None, samples, seed)
    return keras.tree.flatten(batch)


def of(function, shape=(5,), dtype="int32"):
    x = keras.Input(shape, dtype=dtype)
    return keras.Model(x, function(x))


def embed(x):
    return L.Embedding(30, 4)(x)


def sliced(x):
    return L.Concatenate(1)([embed(x[:, :2]), L.Embedding(9, 4)(x[:, 2:])])


def cast(x):
    return embed(ops.cast(x, "int32"))


def reshaped(x):
    return embed(L.Reshape((5, 1))(x))


def wrapped(x):
    return L.TimeDistributed(L.Embedding(30, 4))(L.Reshape((5, 1))(x))


def nested(x):
    inner = keras.Input(x.shape[1:], dtype=x.dtype)
    return keras.Model(inner, embed(inner))(x)


def one_hot(x):
    return ops.one_hot(x, 30)


def encoded(x):
    return L.CategoryEncoding(30, output_mode="multi_hot")(x)


def taken(x):
    return ops.take(np.ones((30, 4), "float32"), x, axis=0)


class Tokens(L.Layer):
    """Looks up tokens and places."""

    def __init__(self):
        super().__init__()
        self.token, self.place = L.Embedding(30, 4), L.Embedding(40, 4)

    def call(self, x):
        return self.token(x) + self.place(ops.arange(5))


TABLES = [
    (embed, 30),
    (sliced, 9),
    (cast, 30),
    (reshaped, 30),
    (wrapped, 30),
    (nested, 30),
    (one_hot, 30),
    (encoded, 30),
    (taken, 30),
    (lambda x: Tokens()(x), 30),
]


@pytest.mark.parametrize("function, size", TABLES)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_numbers_that_index_a_table(function, size, dtype):
    if dtype == "float32" and function in (one_hot, taken):
        pytest.skip("takes no floats")
    model = of(function, dtype=dtype)
    (x,) = drawn(model)
    assert x.dtype == dtype
    assert set(np.unique(x)) == set(range(size))
    model(x[:3])


@pytest.mark.parametrize(
    "dtype, low, high", [("int32", 0, 1), ("uint8", 0, 255), ("int64", 0, 1)]
)
def test_other_whole_numbers(dtype, low, high):
    model = of(lambda x: L.Dense(2)(L.Rescaling(0.1)(x)), dtype=dtype)
    (x,) = drawn(model)
    assert (x.min(), x.max(), x.dtype) == (low, high, dtype)


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_a_mask_never_hides_everything(dtype):
    a = keras.Input((6, 3), name="a")
    m = keras.Input((6,), dtype=dtype, name="m")
    y = L.LSTM(4)(a, mask=ops.cast(m, "bool"))
    model = keras.Model([a, m], L.Dense(2)(y))
    _, mask = drawn(model)
    assert mask.any(axis=1).all() and not mask.all()
    gated = kg.FilterGate(name="g")(L.Dense(8)(y))
    model = helpers.randomize(
        keras.Model([a, m], L.Dense(2)(gated)),
        x=[np.ones((4, 6, 3)), np.ones((4, 6), dtype)],
    )
    small = kg.surgeon.prune(model, T)
    assert max(kg.surgeon.verify(model, small, T).values()) < 1e-5


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="strings need TensorFlow"
)
def test_words():
    layer = L.StringLookup(vocabulary=["cat", "dog"])
    model = of(lambda x: embed(layer(x)), dtype="string")
    (x,) = drawn(model)
    assert set(x.ravel()) == {"cat", "dog"}


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a lookup in TensorFlow"
)
def test_numbers_of_a_vocabulary():
    layer = L.IntegerLookup(vocabulary=[7, 12, 40])
    (x,) = drawn(of(lambda x: embed(layer(x)), dtype="int64"))
    assert set(x.ravel()) == {7, 12, 40} and x.dtype == "int64"


def test_strings_without_a_vocabulary_are_asked_for():
    kt = keras.KerasTensor((None, 3), dtype="string", name="words")
    with pytest.raises(ValueError, match="'words'.*pass `x`"):
        sample_inputs._drawn(kt, 2, None, np.random.default_rng(0))


def test_a_fixed_batch_is_filled_more_than_once():
    x = keras.Input(batch_shape=(2, 5))
    y = kg.FilterGate(name="gate")(L.Dense(8)(x))
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    found = sample_inputs.batches(model, None, 7, 0)
    assert [batch.shape for batch in found] == [(2, 5)] * 4
    small = kg.surgeon.prune(model, T)
    assert max(kg.surgeon.verify(model, small, T).values()) < 1e-5


# What is given -------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return self.arrays[index]


X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
Y = np.zeros((12, 3))
PARTS = [(X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: X,
        lambda: [X],
        lambda: {"features": X},
        lambda: (x for x in X.reshape(3, 4, 5)),
        lambda: iter(PARTS),
        lambda: (({"features": x}, y) for x, y in PARTS),
        lambda: ((x, y, np.ones(4)) for x, y in PARTS),
        lambda: Batches(PARTS),
    ],
)
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_what_predict_takes(make):
    model = sm.chain()
    small = kg.surgeon.prune(model, T)
    found = kg.surgeon.verify(model, small, T, x=make())
    assert found["out"] < 1e-5
    small.get_layer("out").bias.assign([9.0, 9.0, 9.0])
    assert kg.surgeon.verify(model, small, T, x=make())["out"] > 0.1


def test_of_a_dataset_it_takes_what_it_needs():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield X[:3]

    model = sm.chain()
    small = kg.surgeon.prune(model, T)
    kg.surgeon.verify(model, small, T, x=endless(), samples=8)
    assert len(taken) == 3


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a tf.data.Dataset"
)
def test_a_tensorflow_dataset():
    import tensorflow as tf

    model = sm.chain()
    small = kg.surgeon.prune(model, T)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert kg.surgeon.verify(model, small, T, x=data)["out"] < 1e-5


@pytest.mark.parametrize(
    "x, error, match",
    [
        (iter([]), ValueError, "at least one sample"),
        ([X[:0]], ValueError, "at least one sample"),
        (3, TypeError, "`x` must be.*int"),
    ],
)
def test_bad_data(x, error, match):
    model = sm.chain()
    small = kg.surgeon.prune(model, T)
    with pytest.raises(error, match=match):
        kg.surgeon.verify(model, small, T, x=x)
