"""Functions and layers as activations, known by what they are."""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.rules import Elementwise
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from tests import helpers

NAMES = (
    "relu relu6 leaky_relu elu selu celu gelu silu swish hard_silu sigmoid "
    "hard_sigmoid softplus softsign tanh exp square abs negative log_sigmoid"
).split()
PARTIALS = {
    "relu at most 6": functools.partial(keras.activations.relu, max_value=6),
    "relu leaking": functools.partial(
        keras.activations.relu, negative_slope=0.1
    ),
    "relu from 1": functools.partial(
        keras.activations.relu, threshold=1.0, negative_slope=0.5
    ),
    "exact gelu": functools.partial(ops.gelu, approximate=False),
    "rough gelu": functools.partial(keras.activations.gelu, approximate=True),
    "threshold": functools.partial(
        keras.activations.threshold, threshold=-1.0, default_value=2.0
    ),
}
FUNCTIONS = {
    **{f"ops.{name}": getattr(ops, name) for name in NAMES},
    **PARTIALS,
    "ReLU": L.ReLU(),
    "ReLU at most 1": L.ReLU(max_value=1.0),
    "ReLU from 1": L.ReLU(threshold=1.0),
    "LeakyReLU": L.LeakyReLU(),
    "ELU": L.ELU(),
    "Activation": L.Activation("gelu"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_factor_passes_as_the_row_says(name):
    function = FUNCTIONS[name]
    row = activations.known_activation(function)
    assert row is not None and not row.mixes
    x = np.linspace(-4, 4, 65, dtype="float32")

    def value(x):
        return helpers.numpy_of(function(ops.convert_to_tensor(x)))

    order = np.random.default_rng(0).permutation(x.size)
    np.testing.assert_allclose(value(x)[order], value(x[order]), rtol=1e-6)
    np.testing.assert_allclose(
        activations.apply(function, x), value(x), rtol=1e-5, atol=1e-6
    )
    factors = {
        LINEAR: (-2.0, 0.0, 0.5, 3.0),
        POSITIVE: (0.0, 0.5, 3.0),
        PRESERVES_ZERO: (0.0, 1.0),
        None: (1.0,),
    }[row.passes]
    for factor in factors:
        x32 = x * np.float32(factor)
        np.testing.assert_allclose(
            value(x32), factor * value(x), rtol=1e-4, atol=1e-5
        )


def relu(x):
    """Not the one of Keras, in spite of its name."""
    return x - ops.mean(x, -1, keepdims=True)


STRANGERS = {
    "same name": relu,
    "lambda": lambda x: ops.relu(ops.flip(x, -1)),
    "bound data": functools.partial(ops.maximum, 0.5),
    "an array": functools.partial(
        ops.leaky_relu, negative_slope=np.arange(8.0, dtype="float32")
    ),
}


def gate_of_its_own(x):
    return x * ops.sigmoid(1.7 * x)


OF_PARTS = {
    "a lambda": lambda x: ops.relu(x),
    "itself": lambda x: x,
    "several": gate_of_its_own,
    "not zero at zero": lambda x: ops.exp(x) - 0.5,
    "a branch": lambda x: ops.where(x > 0, x, 0.1 * x),
}


@pytest.mark.parametrize("name", OF_PARTS)
def test_what_is_made_of_known_operations_is_known(name):
    function = OF_PARTS[name]
    row = activations.known_activation(function)
    zero = function(ops.convert_to_tensor([0.0]))
    expected = None if helpers.numpy_of(zero).any() else PRESERVES_ZERO
    assert not row.mixes and row.passes == expected


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_kept_whole_and_the_plan_says_what_to_do(name):
    inputs = keras.Input((4,))
    layer = L.Dense(8, name="hidden")
    layer.activation = STRANGERS[name]
    reason = activations.why_not(layer.activation)
    assert "surgeon.register(function" in reason
    y = L.Dense(2)(layer(inputs))
    with pytest.raises(ValueError, match="No channel"):
        kg.surgeon.score(keras.Model(inputs, y), "l2")


@pytest.mark.parametrize(
    "function", [ops.softmax, ops.log_softmax, L.Softmax()]
)
def test_what_mixes_channels_is_known_to(function):
    assert activations.known_activation(function).mixes


BARRED = {
    "Dense": lambda: L.Dense(8, activation=L.PReLU(shared_axes=[1])),
    "GRU": lambda: L.GRU(8, activation=L.PReLU()),
}


@pytest.mark.parametrize("name", BARRED)
def test_an_activation_with_weights_bars_its_layer(name):
    inputs = keras.Input((5, 4))
    x = kg.FilterGate(name="gate")(L.Dense(8)(inputs))
    model = keras.Model(inputs, L.Dense(2)(BARRED[name]()(x)))
    helpers.run(model, helpers.inputs_for(model))  # which builds PReLU
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    assert "has weights of its own" in str(plan)


def twice(x):
    """Treats each number alone, which a reshape does not show."""
    return ops.reshape(2 * ops.tanh(x), (-1, *x.shape[1:]))


def test_a_function_can_be_registered():
    inputs = keras.Input((4,))
    x = L.Dense(8, activation=twice, name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(ValueError, match="twice is not from"):
        kg.surgeon.score(model, "l2")
    kg.surgeon.register(twice, Elementwise(passes=PRESERVES_ZERO))
    assert set(kg.surgeon.score(model, "l2")) == {"hidden"}
    with pytest.raises(ValueError, match="twice already has a rule"):
        kg.surgeon.register(twice, Elementwise())
    with pytest.raises(TypeError, match="only be registered as"):
        kg.surgeon.register(relu, kg.surgeon.rules.PerChannel())


class Waves(L.Layer):
    """A layer of a user, as an activation."""

    def __init__(self, length=1.0, **kwargs):
        super().__init__(**kwargs)
        self.length = length

    def call(self, x):
        return ops.sin(x * self.length)

    def get_config(self):
        return {**super().get_config(), "length": self.length}


def hidden_with(activation):
    inputs = keras.Input((4,))
    x = L.Dense(8, activation=activation, name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(3)(kg.FilterGate()(x)))
    return helpers.randomize(model)


def check_cut(model):
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.get_layer("hidden").units < 8


@pytest.mark.parametrize(
    "name",
    [
        *("ops.relu", "ops.tanh", "ops.silu"),
        # Keras 3.9 can't make a layer from the config of one with these.
        *("ReLU", "ReLU from 1", "LeakyReLU", "ELU", "Activation"),
    ],
)
def test_what_has_such_an_activation_is_cut(name):
    check_cut(hidden_with(FUNCTIONS[name]))


def test_a_layer_as_an_activation_can_be_registered():
    model = hidden_with(Waves(3.0))
    with pytest.raises(ValueError, match=r"register\(Waves, "):
        kg.surgeon.score(model, "l2")
    kg.surgeon.register(Waves, Elementwise(passes=PRESERVES_ZERO))
    check_cut(model)
