"""Small models as users write them; the truth is the model itself."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gates as kg
from keras_gates import surgeon
from keras_gates.graphs.twins import Twins
from tests.helpers import RTOL
from tests.helpers import numpy_of
from tests.helpers import told


class Callable:
    """An activation that is an object."""

    def __call__(self, x):
        return x * ops.sigmoid(2.0 * x)

    def method(self, x):
        return ops.tanh(1.7 * x)


class ShiftedReLU(layers.ReLU):
    """An activation that is a user's layer."""

    def call(self, x):
        return super().call(x) + 0.1


class NoConfigL1(keras.regularizers.Regularizer):
    def __init__(self, strength):
        self.strength = strength

    def __call__(self, x):
        return self.strength * ops.sum(ops.abs(x))


class NoConfigClip(keras.constraints.Constraint):
    def __init__(self, most):
        self.most = most

    def __call__(self, x):
        return ops.clip(x, -self.most, self.most)


ODD_FUNCTIONS = {
    "partial of an operation": functools.partial(
        ops.leaky_relu, negative_slope=0.4
    ),
    "partial of an activation": functools.partial(
        keras.activations.gelu, approximate=True
    ),
    "callable object": Callable(),
    "bound method": Callable().method,
    "layer": ShiftedReLU(),
}


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _off(expected, got):
    return np.abs(expected - got).max() / np.abs(expected).max()


def _half_closed(model):
    """The model with gates, half of the factors of each at 0."""
    gated = kg.insert_gates(model, filters=True)
    for layer in gated.layers:
        if isinstance(layer, kg.FilterGate):
            closed = np.arange(layer.factor.shape[0]) % 2
            layer.factor.assign(1.0 - closed)
    return gated


# A kind of layer for each; what is carried does not depend on it.
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *zip(
            ODD_FUNCTIONS,
            ("dense", "conv", "time", "conv", "dense"),
            strict=True,
        )
    ],
)
def test_functions_without_a_config_are_carried(name, kind):
    function, x = ODD_FUNCTIONS[name], keras.Input((6, 6, 3))
    h = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    if kind == "conv":
        h = layers.Conv2D(6, 3, activation=function, name="odd")(h)
    elif kind == "time":
        odd = layers.Conv1D(6, 3, activation=function)
        h = layers.TimeDistributed(odd, name="odd")(h)
    else:
        h = layers.Dense(6, activation=function, name="odd")(h)
    h = layers.Dense(5, activation="relu")(layers.Flatten()(h))
    model, x = keras.Model(x, layers.Dense(2)(h)), _noise(8, 6, 6, 3)
    expected = numpy_of(model(x, training=False))
    with told():  # of a lambda or a class that Keras can't save
        gated = _half_closed(model)
        small = surgeon.prune(gated, 0.5)
        scores = surgeon.score(model, "l2")
        same = surgeon.prune(model, kg.Quantile(0.0), scores=scores)
    assert small.get_layer("first").filters == 4
    assert _off(expected, numpy_of(same(x, training=False))) < RTOL
    truth = numpy_of(gated(x, training=False))
    assert _off(truth, numpy_of(small(x, training=False))) < RTOL


def test_penalties_without_a_config_are_carried():
    x = keras.Input((8,))
    first = layers.Dense(
        16,
        kernel_regularizer=NoConfigL1(0.5),
        kernel_constraint=NoConfigClip(0.3),
        name="first",
    )
    model = keras.Model(x, layers.Dense(2)(first(x)))
    scores = surgeon.score(model, "l2")
    small = surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    new = small.get_layer("first")
    assert new.units == 8
    assert new.kernel_constraint.most == 0.3
    assert new.kernel_constraint is not first.kernel_constraint
    penalty = 0.5 * np.abs(numpy_of(new.kernel)).sum()
    lost = float(numpy_of(sum(small.losses)))
    assert lost == pytest.approx(penalty, rel=1e-5)


def test_recurrent_layers_and_attention_with_functions_without_a_config():
    x = keras.Input((5, 6))
    act = functools.partial(keras.activations.elu, alpha=0.5)
    h = layers.Dense(8, activation="relu", name="first")(x)
    h = layers.GRU(6, activation=act, return_sequences=True)(h)
    penalized = layers.MultiHeadAttention(
        2, 3, kernel_regularizer=NoConfigL1(0.1)
    )
    h = layers.Flatten()(penalized(h, h))
    model, x = keras.Model(x, layers.Dense(2)(h)), _noise(8, 5, 6)
    scores = {"first": np.arange(1.0, 9.0)}
    small = surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    assert small.get_layer("first").units == 4
    plan = surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    assert max(surgeon.verify(model, small, plan, x).values()) < RTOL


def test_built_layers_are_copied_as_objects_on_each_backend():
    """Those of TensorFlow hold references to their variables."""

    class Bare(layers.Layer):
        def __init__(self, width, function):
            super().__init__()
            self.parts = keras.Sequential(
                [layers.Dense(width, activation=function), layers.Dense(width)]
            )
            self.options = {"scale": [2.0]}

        def call(self, x):
            return self.options["scale"][0] * self.parts(x) + x

    x = keras.Input((6,))
    bare = Bare(6, Callable().method)
    hidden = layers.Dense(6, activation="relu", name="a")(x)
    hidden = layers.Dense(6)(hidden)
    model, x = keras.Model(x, layers.Dense(2)(bare(hidden))), _noise(8, 6)
    for layer in (model.get_layer("a"), layers.BatchNormalization()):
        if not layer.built:
            layer.build((None, 3))
        twin = Twins(None).twin(layer)
        for old, new in zip(layer.weights, twin.weights, strict=True):
            assert old is not new
            assert np.array_equal(numpy_of(old), numpy_of(new))
    expected = numpy_of(model(x, training=False))
    plan = surgeon.plan(
        model, kg.Quantile(0.5), scores={"a": np.arange(1.0, 7.0)}
    )
    small = plan.apply()
    assert small.get_layer("a").units == 3
    assert max(surgeon.verify(model, small, plan, x).values()) < RTOL
    assert np.array_equal(expected, numpy_of(model(x, training=False)))
    small.compile("sgd", "mse")
    small.fit(x, _noise(8, 2), verbose=0)
    assert np.array_equal(expected, numpy_of(model(x, training=False)))


def test_a_gate_stands_before_a_unit_normalization():
    """Behind it, closing removes nothing; before it, its zeros go."""
    x = keras.Input((8,))
    h = layers.Dense(16, activation="relu", name="a")(x)
    h = layers.UnitNormalization()(h)
    model, x = keras.Model(x, layers.Dense(2)(h)), _noise(8, 8)
    gated = _half_closed(model)
    small = surgeon.prune(gated, 0.5)
    assert small.get_layer("a").units == 8
    truth = numpy_of(gated(x, training=False))
    assert _off(truth, numpy_of(small(x, training=False))) < RTOL


def test_insert_gates_names_the_activation_that_bars():
    def gelu(x):
        return x * ops.sigmoid(1.7 * ops.flip(x, -1))

    x = keras.Input((8,))
    h = layers.Activation(gelu, name="act")(layers.Dense(16)(x))
    model = keras.Model(x, layers.Dense(2)(h))
    with pytest.raises(ValueError, match=r"'act' \(Activation\).*gelu"):
        kg.insert_gates(model, filters=True)


LOSSES = {
    "a typo": ({"loss": "msee"}, "'msee' is not a loss"),
    "an output of another name": (
        {"loss": {"one": "mse", "too": "mse"}},
        "'too' is not the name",
    ),
    "an output without a loss": (
        {"loss": {"one": "mse"}},
        "Nothing is given for 'two'",
    ),
    "weights of another name": (
        {"loss": ["mse", "mse"], "loss_weights": {"too": 1.0}},
        "'too' is not the name",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_messages_name_what_is_wrong_with_a_loss(name):
    options, words = LOSSES[name]
    x = keras.Input((4,))
    h = layers.Dense(8, activation="relu")(x)
    heads = [layers.Dense(2, name=name)(h) for name in ("one", "two")]
    model = keras.Model(x, heads)
    data = _noise(8, 4), [_noise(8, 2), _noise(8, 2)]
    with pytest.raises(ValueError, match=words):
        surgeon.score(model, "taylor", data, **options)
