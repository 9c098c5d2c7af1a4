"""What layers hold, and how they are built and called."""

import contextlib
import inspect
import sys

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.graphs import private
from tests import helpers


def built(layer=None):
    layer = layer or L.Dense(2)
    layer(keras.Input((3,)))
    return layer


class Holder(keras.Model):
    def __init__(self):
        super().__init__()
        inner = keras.Sequential([keras.Input((3,)), L.Dense(2, name="deep")])
        self.parts = [inner]
        self.last = L.ReLU(name="last")


def test_attributes_of():
    holder = Holder()
    found = private.attributes_of(holder)
    assert found["last"] is holder.last and found["parts"] == holder.parts
    assert private.attributes_of(L.Dense(7))["units"] == 7


def test_sublayers():
    holder = Holder()
    names = {layer.name for layer in private.sublayers(holder)}
    assert {"deep", "last"} <= names and holder.name not in names
    assert private.sublayers(holder, own=True)[0] is holder
    assert private.sublayers(keras.ops.relu) == []


def test_has_sublayers():
    assert private.has_sublayers(L.LSTM(2))
    assert private.has_sublayers(L.Dense(2, activation=L.ReLU()))
    assert not private.has_sublayers(built())


def test_rename():
    class Named(L.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)

    for layer in (L.Dense(2, name="a"), Named(3, name="a"), Named(3)):
        private.rename(layer, "b")
        assert layer.name == layer.get_config()["name"] == "b"
        assert type(layer).from_config(layer.get_config()).name == "b"


def test_copy_trainable():
    holder, frozen = Holder(), Holder()
    frozen.trainable = False
    private.copy_trainable(frozen, holder)
    assert not holder.trainable and holder.last.trainable


def test_recorded_config():
    class Forgetful(L.Layer):
        def __init__(self, size):
            super().__init__()

        def get_config(self):
            return {}

    assert private.recorded_config(Forgetful(3))["size"] == 3
    assert private.AUTO_CONFIG in vars(Forgetful(3))


def test_AUTO_CONFIG():
    for layer in (L.Dense(1), L.Layer(), L.ReLU()):
        assert private.AUTO_CONFIG in vars(layer)


def test_lambda_shape_of():
    layer = L.Lambda(abs, (3,), arguments={"a": 1})
    assert private.lambda_shape_of(layer) == (3,)
    assert layer.arguments == {"a": 1} and layer.mask is None
    assert layer.function is abs


@pytest.mark.parametrize("name", ["query", "key", "value", "output"])
def test_attention_projection(name):
    layer = L.MultiHeadAttention(2, 3)
    layer(keras.Input((4, 5)), keras.Input((4, 5)))
    assert private.attention_projection(layer, name).kernel.shape
    assert private.attention_projection(layer, "nothing") is None


def test_overheard():
    layer, heard = built(), []
    x = np.ones((2, 3), "float32")
    with private.overheard(layer, lambda *pair: heard.append(pair)):
        y = layer(x)
    layer(x)
    ((inputs, outputs),) = heard
    np.testing.assert_array_equal(helpers.numpy_of(inputs), x)
    assert outputs is y


def test_rebuild_at_init():
    """What its constructor builds, a layer whose state is reset can build."""
    layer = L.ReLU()
    if not hasattr(layer, "_build_at_init"):
        # Keras 3.9 lacks it: such layers are made from their configs there.
        with pytest.raises(AttributeError):
            private.rebuild_at_init(layer)
        return
    assert layer.built
    layer.built = False
    private.rebuild_at_init(layer)
    assert layer.built


def test_set_on():
    dense = L.Dense(2)
    inner = L.Dense(3)
    with private.set_on(dense, "call", lambda x: x + 1):
        assert dense.call(1) == 2
        with private.set_on(dense, "call", inner):
            assert dense.call is inner
        assert dense.call(1) == 2
    assert "call" not in vars(dense)
    assert private.sublayers(dense) == []


def test_known_output():
    output = keras.KerasTensor((None, 5))
    dense = L.Dense(2)
    with private.known_output(dense, output):
        assert dense(keras.Input((3,))) is output
    assert dense.kernel.shape == (3, 2)
    assert tuple(dense(keras.Input((3,))).shape) == (None, 2)


def test_added_by():
    dense, names = L.Dense(2), []

    def add(**arguments):
        names.append(arguments["name"])
        arguments["initializer"] = "ones"
        return L.Dense.add_weight(dense, **arguments)

    with private.added_by(dense, add):
        dense.build((None, 3))
    assert names == ["kernel", "bias"]
    assert (keras.ops.convert_to_numpy(dense.bias) == 1.0).all()


def test_added_by_names_the_first_arguments():
    got = {}
    layer = L.Layer()
    with private.added_by(layer, lambda **arguments: got.update(arguments)):
        layer.add_weight((2,), "ones", "float16", name="w")
    assert got.pop("name") == "w"
    assert got == {"shape": (2,), "initializer": "ones", "dtype": "float16"}
    weight = layer.add_weight((2,), "ones", "float16")
    assert (weight.dtype, tuple(weight.shape)) == ("float16", (2,))


def test_added_by_leaves_what_has_no_names_to_keras():
    layer = L.Layer()
    with private.added_by(layer, lambda **arguments: pytest.fail()):
        # A fourth has no place since Keras 3.13 or so.
        with contextlib.suppress(TypeError):
            layer.add_weight((2,), "ones", "float32", True)
        with pytest.raises((TypeError, ValueError)):
            layer.add_weight((2,), shape=(2,))


def test_KEPT_AS():
    layer = built()
    for name in layer.get_config():
        if name not in ("build_config", "lora_rank", "quantization_config"):
            assert private.KEPT_AS.get(name, name) in vars(layer), name


def test_OF_CALLS():
    """Of the models that it is in, a layer holds nothing elsewhere."""
    before = built(L.Dense(2, activity_regularizer="l2"))
    counts = {k: len(vars(before).get(k) or ()) for k in private.OF_CALLS}
    before(keras.Input((3,)))
    before(np.ones((1, 3)))
    grown = {
        name
        for name, value in vars(before).items()
        if isinstance(value, (list, set, dict))
        and len(value) > counts.get(name, len(value))
    }
    assert "_inbound_nodes" in grown <= private.OF_CALLS
    assert {"_inbound_nodes", "_outbound_nodes"} <= vars(before).keys()


def test_INNER_LAYERS():
    wrapper, inner = L.TimeDistributed(L.Dense(1)), set()
    for layer in (wrapper, L.RNN(L.LSTMCell(1)), L.Bidirectional(L.LSTM(1))):
        held = private.attributes_of(layer)
        inner |= {n for n in private.INNER_LAYERS if n in held}
    assert inner == set(private.INNER_LAYERS)


def test_OF_GRAPHS():
    x = keras.Input((3,))
    model = keras.Model(x, L.ReLU()(x))
    assert vars(model).keys() >= private.OF_GRAPHS


def test_OF_FUNCTION():
    """Most are there in all versions; what is there is common to all."""
    common = private.common_names()
    assert {"_dtype_policy", "autocast", "_supports_masking"} <= common
    assert {"supports_jit", "_convert_input_args"} <= common
    assert private.OF_FUNCTION & vars(built()).keys() <= common


def test_OF_TRAINING():
    x = keras.Input((3,))
    model = keras.Model(x, L.Dense(1)(x))
    before = {*vars(model)} | private.names_in_methods(keras.Model)
    for cls in type(model).__mro__:
        before |= private.names_in_methods(cls)
    model.compile("sgd", "mse")
    helpers.fit(model, np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    left = {n for n in vars(model).keys() - before if n[:6] != "_self_"}
    assert left <= private.OF_TRAINING and "optimizer" in left


def test_OF_VARIABLES():
    kernel = built(L.Dense(2, kernel_regularizer="l2")).kernel
    assert set(private.OF_VARIABLES) <= vars(kernel).keys()


def test_OF_TORCH():
    torch = keras.backend.backend() == "torch"
    assert ("_modules" in vars(built())) is torch
    assert not torch or "_torch_params" in vars(built())["_modules"]
    assert {"_modules", "_torch_params"} == private.OF_TORCH


def test_common_names():
    common = private.common_names()
    assert private.AUTO_CONFIG in common and "built" in common
    assert {n for n in common if n not in vars(L.Dense(2))} == set()
    assert "units" not in common


def test_is_of_tensorflow():
    assert private.is_of_tensorflow("_self_setattr_tracking")
    assert not private.is_of_tensorflow("_tracker")
    if keras.backend.backend() == "tensorflow":
        tf = keras.src.backend.tensorflow.core.tf
        names = vars(tf.Module()).keys() | vars(built()).keys()
        assert any(private.is_of_tensorflow(name) for name in names)


def test_unwrapped():
    """TensorFlow's proxies are told from what they hold."""
    plain = (1, 2)
    assert private.unwrapped(plain) is plain
    layer = L.Layer()
    layer.settings = {"a": [1]}
    layer.sizes = ((1, 2), 3)
    assert type(private.unwrapped(layer.sizes)) is tuple
    assert issubclass(type(private.unwrapped(layer.settings)), dict)


def test_state_of():
    state, parts = private.state_of(built()), vars(built()).get("_modules", {})
    assert state.keys() == vars(built()).keys()
    assert "_torch_params" not in state.get("_modules", {})
    assert ("_torch_params" in parts) is (keras.backend.backend() == "torch")


def test_find_parameters():
    """A layer without its torch parameters finds them."""
    layer = built()
    if keras.backend.backend() == "torch":
        del vars(layer)["_modules"]["_torch_params"]
        private.find_parameters(built(), layer)
        assert len(vars(layer)["_modules"]["_torch_params"]) == 2
    else:
        before = vars(layer).keys()
        private.find_parameters(built(), layer)
        assert vars(layer).keys() == before


def test_rewrapped():
    """The `build` of a layer, for another: it is built, and the old is not."""
    old, new = L.Dense(2), L.Dense(5)
    wrapped = [n for n, f in vars(old).items() if hasattr(f, "__wrapped__")]
    assert "build" in wrapped
    for name in wrapped:
        assert inspect.isfunction(private.rewrapped(vars(old)[name], old, new))
    private.rewrapped(vars(old)["build"], old, new)((None, 3))
    assert new.built and not old.built
    assert tuple(new.kernel.shape) == (3, 5)


def test_Unwrapped():
    """A closure that holds something else is refused."""
    other = object()
    layer = L.Dense(2)
    with pytest.raises(private.Unwrapped):
        private.rewrapped(lambda: other, layer, L.Dense(2))


class Pair(L.Layer):
    def call(self, x):
        return 2 * x, None


class Cached(L.Dense):
    def call(self, x, cache=None):
        return super().call(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.units))


def test_any_key_recorded():
    x, before = keras.Input((5, 3)), keras.KerasTensor.__getitem__
    with private.any_key_recorded():
        y = x[None]
        assert tuple(y.shape) == (1, None, 5, 3)
        assert tuple(x[:2].shape)[1:] == (5, 3)
        assert tuple(x[...].shape) == tuple(x.shape)
    assert keras.KerasTensor.__getitem__ is before
    array = np.ones((2, 5, 3))
    assert keras.Model(x, y).predict(array, verbose=0).shape == (1, 2, 5, 3)


def test_RECORDS_ANY_CALL():
    module = keras.Layer.__call__.__module__
    assert hasattr(sys.modules[module], "Node") == private.RECORDS_ANY_CALL


@pytest.mark.skipif(
    not private.RECORDS_ANY_CALL, reason="this Keras records calls elsewhere"
)
def test_any_call_recorded():
    x = keras.Input((3,))
    pair, cached = Pair(), Cached(2)
    cached.build((None, 3))
    before = L.Layer.symbolic_call
    with pytest.raises((AttributeError, ValueError), match="None"):
        pair(x)
    with pytest.raises(TypeError, match="cache"):
        cached(x, cache=None)
    with private.any_call_recorded() as refused:
        (y, none), z = pair(x), cached(x, cache=None)
    assert none is None and tuple(y.shape) == (None, 3)
    assert tuple(z.shape) == (None, 2)
    assert all(x in refused for x in (pair, cached))
    (node,) = [n for n in private.calls_of(pair) if n.outputs[0] is y]
    assert len(node.outputs) == 1
    assert L.Layer.symbolic_call is before
    with pytest.raises((AttributeError, ValueError), match="None"):
        pair(x)


def test_attributes_kept():
    layer = L.Dense(2)
    with private.attributes_kept(layer):
        layer.units, layer.note = 3, [1, 2]
    assert layer.units == 2 and not hasattr(layer, "note")


def test_cause_of():
    class NoText(Exception):
        def __init__(self, value):
            super().__init__(f"it holds {tuple(value.shape)}")

    class Odd(L.Layer):
        def call(self, x):
            raise NoText(x)

    class Outer(L.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Odd()

        def call(self, x):
            return self.inner(x)

    for layer in (Odd(), Outer()):
        with pytest.raises(AttributeError) as caught:
            layer(np.zeros((2, 3), "float32"))
        assert str(private.cause_of(caught.value)) == "it holds (2, 3)"
    error = ValueError("as it is")
    assert private.cause_of(error) is error
