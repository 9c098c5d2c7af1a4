"""Classes that Keras does not export."""

import keras
import pytest
from keras import layers as L
from keras import ops

from keras_gates.graphs import private

OPERATIONS = {
    "numpy.Add": ops.add,
    "nn.Relu": ops.relu,
    "core.Cast": ops.cast,
    "image.Resize": ops.image.resize,
    "linalg.Norm": ops.norm,
    "math.Logsumexp": ops.logsumexp,
}


def test_SAVEABLE():
    for value in (L.Dense(1), keras.metrics.Mean(), keras.optimizers.SGD()):
        assert isinstance(value, private.SAVEABLE)
    assert not isinstance(L.Dense(1).kernel_initializer, private.SAVEABLE)


def test_TRACKER():
    assert isinstance(private.tracker_of(L.Dense(1)), private.TRACKER)


def test_layer_class():
    found = private.layer_class("layers.core.dense.Dense")
    assert found is L.Dense
    assert private.layer_class("layers.core.dense.Dens") is None
    assert private.layer_class("layers.core.dens.Dense") is None


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    assert issubclass(private.operation(name), keras.Operation)
    assert private.operation("numpy.NoSuchThing") is None


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_of(name):
    found = private.operation_of(OPERATIONS[name])
    assert found is private.operation(name)
    assert private.operation_of(len) is None


# Each is the identity on some tensor.
IDENTITIES = {
    "cast": lambda x: ops.cast(x, "float32"),
    "reshape": lambda x: ops.reshape(x, (2, 3)),
    "broadcast_to": lambda x: ops.broadcast_to(x, (2, 3)),
    "stop_gradient": ops.stop_gradient,
    "squeeze": ops.squeeze,
    "real": ops.real,
    "conj": ops.conj,
    "array": ops.array,
    "abs": ops.abs,
    "relu": ops.relu,
    "nan_to_num": ops.nan_to_num,
    "expand_dims": lambda x: ops.expand_dims(x, 0),
    "copy": ops.copy,
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_returns_its_input(name):
    x = ops.ones((2, 3))
    op, *_ = private.origin_of(IDENTITIES[name](keras.KerasTensor((2, 3))))
    if IDENTITIES[name](x) is x:
        assert private.returns_its_input(op)
    assert not private.returns_its_input(L.Dense(1))


def test_names_in_methods():
    found = private.names_in_methods(keras.Layer)
    assert {"_tracker", "_losses", "_build_shapes_dict"} <= found
    assert all(name.startswith("_") for name in found)
