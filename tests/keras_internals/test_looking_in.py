"""What seeing through a layer relies on: scopes, contexts, records."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import private


class Scaled(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")
        self.count = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="count"
        )

    def call(self, x):
        return x * self.scale


def scaled(**options):
    layer = Scaled(name="scaled", **options)
    layer(keras.Input((3,)))
    return layer


def test_Watch():
    dense = L.Dense(2)
    dense.build((None, 3))
    before = keras.ops.convert_to_numpy(dense.kernel)
    with private.watching() as seen:
        assert isinstance(seen, private.Watch)
        ops.sum(dense.kernel.value)
        dense.bias.assign(ops.ones((2,)))
        dense(keras.Input((3,)))  # opens a scope of its own
    assert seen.read == [dense.kernel] and seen.updated == [dense.bias]
    assert np.array_equal(ops.convert_to_numpy(dense.kernel), before)
    assert not ops.convert_to_numpy(dense.bias).any()


READS = {
    "as an array": lambda v: np.array(ops.convert_to_numpy(v)),
    "in an operation": lambda v: ops.transpose(v),
    "by an operator": lambda v: v * 2,
    "by an index": lambda v: v[0],
}


@pytest.mark.parametrize("how", READS)
def test_watching(how):
    dense = L.Dense(2)
    dense.build((None, 3))
    with private.watching() as seen:
        READS[how](dense.kernel)
    assert dense.kernel in seen.read


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("float32", "float32"),
        ("mixed_float16", "float16"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_read_dtype(policy, expected):
    layer = scaled(dtype=policy)
    assert private.read_dtype(layer, layer.scale) == expected
    assert private.read_dtype(layer, layer.count) == "int32"
    with private.computing(layer):
        assert layer.scale.dtype == expected
        assert layer.count.dtype == "int32"


def test_read_dtype_of_what_is_not_cast():
    layer = scaled(dtype="mixed_float16", autocast=False)
    assert private.read_dtype(layer, layer.scale) == "float32"


def test_computing():
    layer = scaled(dtype="mixed_bfloat16")
    found = []
    layer.call = lambda x: found.append(layer.scale.dtype) or x
    layer(np.ones((1, 3), "float32"))
    with private.computing(layer):
        found.append(layer.scale.dtype)
    assert found == ["bfloat16", "bfloat16"]


def test_input_conversion():
    layer = scaled(dtype="mixed_float16")
    convert = private.input_conversion(layer)
    x = keras.KerasTensor((None, 3), "float32")
    mask = keras.KerasTensor((None,), "bool")
    private.set_mask(x, mask)
    assert convert(x).dtype == "float16"
    assert private.mask_of(convert(x)) is mask
    assert convert(keras.KerasTensor((3,), "int32")).dtype == "int32"
    assert convert("text") == "text"


def test_takes_training():
    assert private.takes_training(L.Dropout(0.5))
    assert private.takes_training(L.LSTM(2))
    assert not private.takes_training(L.ReLU())


def test_told():
    class Outer(L.Layer):
        def __init__(self):
            super().__init__()
            self.drop = L.Dropout(0.5)

        def call(self, x):
            return self.drop(x)

    outer = Outer()
    for training in (True, False):
        with private.told(training):
            outer.call(keras.Input((3,)))
        node = private.calls_of(outer.drop)[-1]
        assert node.arguments.kwargs["training"] is training
    with private.told(None):
        outer.call(keras.Input((3,)))
    node = private.calls_of(outer.drop)[-1]
    assert not node.arguments.kwargs.get("training")
    ones = np.ones((1, 90), "float32")
    assert (ops.convert_to_numpy(outer(ones)) == 1).all()


def test_told_is_overruled_by_what_is_passed():
    norm, x = L.BatchNormalization(), keras.Input((3,))
    with private.told(True):
        norm(x, training=False)
    assert private.calls_of(norm)[-1].arguments.kwargs["training"] is False


def test_default_of_training():
    class Trains(L.Layer):
        def call(self, x, training=True):
            return x

    assert private.default_of_training(Trains()) is True
    assert private.default_of_training(L.ReLU()) is None
    assert not private.default_of_training(L.Dropout(0.5))


def test_operation_names():
    op, *_ = private.origin_of(ops.sum(keras.Input((3,)), axis=1))
    more = vars(op).keys() - private.operation_names()
    assert more == {"axis", "keepdims"}


def test_attributes_set():
    layer = scaled()
    stand_in = keras.KerasTensor((3,))
    before = vars(layer)["scale"]
    tracked = list(layer.weights)
    with private.attributes_set(layer, {"scale": stand_in, "other": 1}):
        assert layer.scale is stand_in and layer.other == 1
        assert layer.weights == tracked
    assert vars(layer)["scale"] is before and not hasattr(layer, "other")


def chain():
    """`tanh(x) -> add to itself's double -> relu`, with each tensor."""
    x = keras.Input((3,))
    a = ops.tanh(x)
    b = a + a * 2
    return x, a, b, ops.relu(b)


def test_recorded_before():
    x, a, b, y = chain()
    kinds = [
        type(n.operation).__name__ for n in private.recorded_before([y], [x])
    ]
    assert kinds == ["Tanh", "Multiply", "Add", "Relu"]
    kinds = [
        type(n.operation).__name__ for n in private.recorded_before([y], [b])
    ]
    assert kinds == ["Relu"]
    assert private.recorded_before([x], []) == []


def test_made_of():
    x, a, b, y = chain()
    assert private.made_of(y) == [b]
    assert private.made_of(b)[0] is a
    assert private.made_of(x) == private.made_of(keras.KerasTensor((3,))) == []


def test_readers_of():
    x, a, b, y = chain()
    found = private.readers_of([y])
    assert found[id(y)] == [None]
    assert len(found[id(a)]) == 2 and len(found[id(x)]) == 1
    square = ops.multiply(x, x)
    assert len(private.readers_of([square])[id(x)]) == 2


def fitted():
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(1)

        def call(self, x):
            return self.dense(x)

    version = tuple(map(int, keras.__version__.split(".")[:2]))
    if keras.backend.backend() == "jax" and version < (3, 11):
        pytest.skip("old Keras can't train on JAX of today")
    model, x = Small(), np.ones((4, 3), "float32")
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, x[:, :1], verbose=0)
    model.evaluate(x, x[:, :1], verbose=0)
    model.predict(x, verbose=0)
    return model


def test_OF_FIT():
    held = vars(fitted()).keys()
    told = held - vars(keras.Model()).keys() - {"dense"}
    told = {n for n in told if not private.is_of_tensorflow(n)}
    assert told <= private.OF_FIT
    assert "optimizer" in private.OF_FIT <= private.OF_TRAINING


def test_uncompiled():
    found, model = private.uncompiled(), fitted()
    assert found["compiled"] is False and found["_compile_loss"] is None
    assert "_trainable" not in found
    vars(model).update(found)
    assert not model.compiled and model.train_function is None
    # The rest is of the class, and of layers.
    model.compile("adam", "mse")
    assert model.compiled


def test_books_without():
    model = fitted()
    books = {
        k: v for k, v in vars(model).items() if private.is_of_tensorflow(k)
    }
    names = {"predict_function", "train_function", "test_function"}
    for value in books.values():
        kept = private.books_without(value, names)
        if isinstance(kept, dict):
            assert not names & kept.keys()
        if isinstance(kept, list):
            assert not names & {getattr(x, "name", None) for x in kept}
    assert private.books_without(3, names) == 3


def test_symbolic_call_set():
    cls = type(private.origin_of(ops.relu(keras.KerasTensor((2, 3))))[0])
    asked = []
    before = cls.symbolic_call

    def noted(op, *args, **kwargs):
        asked.append(op)
        return before(op, *args, **kwargs)

    with private.symbolic_call_set(cls, noted):
        ops.relu(keras.KerasTensor((2, 3)))
    assert [type(op) for op in asked] == [cls]
    assert cls.symbolic_call is before


@pytest.mark.parametrize("name", ["relu", "mish", "hard_silu", "sparsemax"])
def test_any_activation_recorded(name):
    function = getattr(keras.activations, name)
    x = np.array([[-2.0, -0.5, 0.5, 4.0]], "float32")
    kt = keras.KerasTensor((None, 4))
    with private.any_activation_recorded():
        y = function(kt)
    op, *_ = private.origin_of(y)
    expected = function(ops.convert_to_tensor(x))
    np.testing.assert_allclose(
        ops.convert_to_numpy(op(ops.convert_to_tensor(x))),
        ops.convert_to_numpy(expected),
        rtol=1e-6,
    )
