"""`verify` runs the user's own model; its truths are held against others.

Those others are NumPy, the model with zeros assigned by hand, and pruned
models that were broken on purpose.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.verifying import closed_places
from keras_gates.surgeon.verifying import masked_run
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD


def truths(model, masks, x, **options):
    """The outputs that `verify` compares with, for each of its closings."""
    return [
        masked_run.outputs(model, [x], closing)
        for closing in closed_places.find(model, masks, **options)
    ]


def far(model, pruned, *args, **options):
    return max(kg.surgeon.verify(model, pruned, *args, **options).values())


def told(call):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        call()
    return [str(w.message) for w in found if w.category is UserWarning]


def same(found, expected, rtol=1e-5):
    assert max(helpers.differences(expected, found)) < rtol


# Gates ---------------------------------------------------------------------


@pytest.mark.parametrize("make", sm.MODELS)
def test_the_truth_is_the_model_with_zeros_assigned(make):
    model = make()
    x = helpers.inputs_for(model)
    masks = kg.surgeon.plan(model, T, keep_at_least=1).masks()
    (found,) = truths(model, masks, x)
    gates = {gate.name: gate for gate in helpers.gates_of(model)}
    for path, mask in masks.items():
        factor = gates[path.rpartition("/")[2]].factor
        factor.assign(np.where(mask, 0.0, helpers.numpy_of(factor)))
    same(found, helpers.run(model, x))


def test_a_gate_against_numpy():
    model = sm.chain()
    x = helpers.inputs_for(model)
    mask = np.arange(8) < 3
    (found,) = truths(model, {"gate": mask}, x)
    w, b, factor, v, c = (helpers.numpy_of(w) for w in model.weights)
    hidden = np.maximum(x @ w + b, 0) * np.where(mask, 0, factor)
    same(found, [hidden @ v + c])


def test_gammas_let_beta_through():
    x = keras.Input((5,))
    y = L.BatchNormalization(name="norm")(L.Dense(6)(x))
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    array = helpers.inputs_for(model)
    mask = np.arange(6) < 3
    (found,) = truths(model, {"norm": mask}, array)
    w, b, gamma, beta, v, c, mean, variance = (
        helpers.numpy_of(w)
        for w in [*model.trainable_weights, *model.non_trainable_weights]
    )
    y = (array @ w + b - mean) / np.sqrt(variance + 1e-3)
    y = y * np.where(mask, 0, gamma) + beta
    same(found, [y @ v + c])


@pytest.mark.parametrize("name", ["skeleton", "m"])
def test_factors_inside_a_layer(name):
    x = keras.Input((8, 8, 3))
    layer = {
        "skeleton": lambda: kg.StripConv(4, 3, padding="same", name="one"),
        "m": lambda: kg.ResConv(4, 3, name="one"),
    }[name]()
    y = L.GlobalAveragePooling2D()(layer(L.Conv2D(4, 1)(x)))
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    array = helpers.inputs_for(model)
    variable = getattr(layer, name)
    mask = np.random.default_rng(0).random(tuple(variable.shape)) < 0.7
    before = helpers.fingerprint(model)
    (found,) = truths(model, {"one": np.asarray(mask)}, array)
    assert helpers.fingerprint(model) == before
    variable.assign(np.where(mask, 0.0, helpers.numpy_of(variable)))
    same(found, helpers.run(model, array))


def nested_with_masks():
    """Padding, a mask of its own, and a model in a model."""
    inner = keras.Input((7, 6), name="inner")
    y = kg.FilterGate(name="gate")(L.Dense(6, activation="tanh")(inner))
    encoder = keras.Model(inner, L.GRU(5, return_sequences=True)(y))
    ids = keras.Input((7,), name="ids")
    given = keras.Input((7,), dtype="bool", name="given")
    y = encoder(L.Embedding(20, 6)(ids))
    y = L.LSTM(4)(kg.LayerGate(name="whole")(y), mask=given)
    again = encoder(L.Embedding(20, 6)(ids))
    padded = L.Embedding(20, 6, mask_zero=True)(ids)
    padded = kg.FilterGate(name="padded")(padded)
    parts = [y, L.GlobalMaxPooling1D()(again), L.GRU(3)(padded)]
    y = L.Concatenate()(parts)
    return helpers.randomize(
        keras.Model({"ids": ids, "given": given}, L.Dense(2)(y)),
        x={"ids": np.ones((4, 7)), "given": np.ones((4, 7), bool)},
    )


def test_masks_and_nested_models():
    model = nested_with_masks()
    ids = np.array([[3, 1, 4, 0, 0, 0, 0], [1, 5, 9, 2, 6, 5, 0]])
    given = np.array([[1, 1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]], bool)
    x = {"ids": ids, "given": given}
    mask = np.arange(6) < 3
    (path,) = [n for n in kg.surgeon.plan(model, 0.0).closed if "/" in n]
    (found,) = truths(model, {path: mask, "padded": mask}, x)
    for gate in helpers.gates_of(model):
        if gate.name in ("gate", "padded"):
            gate.factor.assign(np.where(mask, 0, helpers.numpy_of(gate.factor)))
    same(found, helpers.run(model, x))


def test_half_precision_casts_as_ever():
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = sm.convnet()
    finally:
        keras.config.set_dtype_policy(with_policy)
    x = helpers.inputs_for(model)
    plan = kg.surgeon.plan(model, T)
    (found,) = truths(model, plan.masks(), x)
    with helpers.closed_gates(model):
        expected = helpers.run(model, x)
    np.testing.assert_array_equal(found[0].astype("float64"), expected[0])


# Scores --------------------------------------------------------------------


def scored_chain(norm=False):
    x = keras.Input((5,))
    y = L.Dense(6, name="hidden")(x)
    y = L.BatchNormalization()(y) if norm else y
    y = L.Activation("sigmoid")(y)
    return helpers.randomize(keras.Model(x, L.Dense(2)(y)))


def test_scored_channels_are_zero_where_they_are_read():
    model = scored_chain()
    x = helpers.inputs_for(model)
    mask = np.arange(6) < 3
    w, b, v, c = (helpers.numpy_of(w) for w in model.weights)
    # A sigmoid of zero is a half: it is what is read that is closed.
    expected = np.where(mask, 0, 1 / (1 + np.exp(-(x @ w + b)))) @ v + c
    for found in truths(model, {"hidden": mask}, x):
        same(found, [expected])


def test_where_labels_are_wrong_the_second_truth_differs(monkeypatch):
    """What the layer puts out for closed channels must not matter."""
    model = scored_chain(norm=True)
    scores = {"hidden": np.arange(6.0)}
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    assert far(model, small, plan) < 1e-5
    real = groups.masks

    def shifted(graph, closed):
        found = real(graph, closed)
        return {key: np.roll(mask, 1) for key, mask in found.items()}

    monkeypatch.setattr(groups, "masks", shifted)
    wrong = plan.apply()
    assert far(model, wrong, plan) > 1e-3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_rnn(x, h, c, w, u, b):
    return np.tanh(x @ w + h @ u + b), c


def lstm(x, h, c, w, u, b):
    i, f, g, o = np.split(x @ w + h @ u + b, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, h, c, w, u, b):
    xs = np.split(x @ w + b[0], 3, axis=-1)
    hs = np.split(h @ u + b[1], 3, axis=-1)
    z, r = sigmoid(xs[0] + hs[0]), sigmoid(xs[1] + hs[1])
    return z * h + (1 - z) * np.tanh(xs[2] + r * hs[2]), c


CELLS = [(L.SimpleRNN, simple_rnn), (L.LSTM, lstm), (L.GRU, gru)]


def loop(step, x, weights, mask, back=False):
    """The states of all steps, closed units at zero after each of them."""
    units = weights[1].shape[0]
    h = c = np.zeros((len(x), units))
    found = []
    for t in range(x.shape[1])[:: -1 if back else 1]:
        h, c = step(x[:, t], h, c, *weights)
        h = np.where(mask, 0, h)
        found.append(h)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("layer, step", CELLS)
@pytest.mark.parametrize("form", ["end", "sequence", "state", "both ways"])
def test_units_of_recurrent_layers_are_zero_in_the_loop(layer, step, form):
    x = keras.Input((6, 4))
    own = layer(
        5,
        name="rnn",
        return_sequences=form == "sequence",
        return_state=form == "state",
    )
    own = L.Bidirectional(own, name="rnn") if form == "both ways" else own
    y = own(x)
    y = y[1] if form == "state" else y
    model = helpers.randomize(keras.Model(x, L.Dense(2, name="out")(y)))
    array = helpers.inputs_for(model)
    mask = np.arange(5) < 2
    weights = [helpers.numpy_of(w) for w in own.weights]
    ways = [weights[:3], weights[3:]] if form == "both ways" else [weights]
    states = [
        loop(step, array, way, mask, back)
        for way, back in zip(ways, (False, True), strict=False)
    ]
    y = np.concatenate(states, axis=-1)
    y = y if form == "sequence" else y[:, -1]
    v, c = (helpers.numpy_of(w) for w in model.get_layer("out").weights)
    before = helpers.fingerprint(model)
    for found in truths(model, {"rnn": mask}, array):
        same(found, [y @ v + c])
    assert helpers.fingerprint(model) == before


# What is wrong is seen -----------------------------------------------------


def swap_activation(small):
    small.get_layer("hidden").activation = keras.activations.tanh


def wrong_bias(small):
    bias = small.get_layer("hidden").bias
    bias.assign(np.roll(helpers.numpy_of(bias), 1))


def wrong_channel(small):
    kernel = small.get_layer("out").kernel
    kernel.assign(helpers.numpy_of(kernel)[::-1])


def not_folded(small):
    kernel = small.get_layer("out").kernel
    kernel.assign(1.01 * helpers.numpy_of(kernel))


@pytest.mark.parametrize(
    "wreck", [swap_activation, wrong_bias, wrong_channel, not_folded]
)
@pytest.mark.parametrize("closed_by", ["gates", "scores"])
def test_a_wrong_model_is_seen(wreck, closed_by):
    model = sm.set_gates(sm.chain(), gate=sm.half(8))
    options = {}
    threshold = T
    if closed_by == "scores":
        options = {"scores": {"hidden": np.arange(8.0)}}
        threshold = {"group": kg.Quantile(0.5)}
    small = kg.surgeon.prune(model, threshold, **options)
    assert far(model, small, threshold, **options) < 1e-5
    wreck(small)
    assert far(model, small, threshold, **options) > 1e-3


class Times(L.Layer):
    """Its config forgets the argument, so that a copy computes another."""

    def __init__(self, times=1.0, **kwargs):
        super().__init__(**kwargs)
        self.times = times

    def call(self, x):
        return x * self.times


def test_a_copy_by_a_config_that_forgets_is_seen():
    x = keras.Input((8,))
    y = L.Dense(6, activation="relu", name="hidden")(x)
    y = Times(3.0, name="times")(y)
    model = helpers.randomize(keras.Model(x, L.Dense(2)(L.Dense(4)(y))))
    copy = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            {k: v for k, v in layer.get_config().items() if k != "times"}
        ),
    )
    copy.set_weights(model.get_weights())
    name = next(iter(kg.surgeon.score(model, "l2")))
    size = model.get_layer(name).kernel.shape[-1]
    nothing = {"scores": {name: np.ones(size)}}
    assert far(model, copy, 0.5, **nothing) > 0.1


# Nothing of the user's is changed ------------------------------------------


def stateful():
    x = keras.Input(batch_shape=(4, 6, 3))
    y = L.LSTM(5, stateful=True, name="memory")(x)
    y = L.Dropout(0.5, seed=1)(y)
    y = kg.FilterGate(name="gate")(L.Dense(6)(y))
    return helpers.randomize(keras.Model(x, L.Dense(2)(y)))


def test_states_and_seeds_stay_as_they_are():
    model = stateful()
    small = kg.surgeon.prune(model, T)
    before = [
        [helpers.numpy_of(v) for v in each.variables] for each in (model, small)
    ]
    assert far(model, small, T) < 1e-5
    for each, arrays in zip((model, small), before, strict=True):
        for variable, array in zip(each.variables, arrays, strict=True):
            np.testing.assert_array_equal(helpers.numpy_of(variable), array)


STATEFUL = {
    "LSTM": lambda: L.LSTM(5, stateful=True),
    "GRU": lambda: L.GRU(5, stateful=True, return_sequences=True),
    "both ways": lambda: L.Bidirectional(L.LSTM(3, stateful=True)),
    "a cell": lambda: L.RNN(L.SimpleRNNCell(5), stateful=True),
    "cells": lambda: L.RNN([L.GRUCell(4), L.LSTMCell(5)], stateful=True),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_model_in_the_middle_of_a_sequence(name):
    x = keras.Input(batch_shape=(4, 6, 3))
    y = L.Dense(6)(L.Dense(4, name="more")(x))
    y = L.Dense(2)(STATEFUL[name]()(kg.FilterGate(name="gate")(y)))
    model = helpers.randomize(keras.Model(x, y))
    model.get_layer("gate").factor.assign([0, 0, 1, 1, 0, 1])
    data = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype("float32")
    first = helpers.predicted(model, data[0])
    small = kg.surgeon.prune(model, T)
    gated = kg.insert_gates(model, filters=True)
    # All of them go on where the model is.
    expected = helpers.predicted(model, data[1])
    assert np.abs(expected - first).max() > 1e-3
    for other in (small, gated):
        got = helpers.predicted(other, data[1])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    # And where one has seen more than the other, they are compared all the
    # same, from zeros.
    helpers.predicted(model, data[2])
    assert far(model, small, T) < 1e-5


class Breaks(L.Layer):
    """Fails when it is told to."""

    broken = False

    def call(self, x):
        if self.broken:
            raise RuntimeError("broken")
        return x


def test_an_error_leaves_the_model_as_it_was():
    x = keras.Input((5,))
    y = kg.FilterGate(name="gate")(L.Dense(6)(x))
    model = keras.Model(x, L.Dense(2)(Breaks(name="breaks")(y)))
    helpers.randomize(model)
    before, attributes = helpers.fingerprint(model), set(vars(model))
    model.get_layer("breaks").broken = True
    with pytest.raises(RuntimeError, match="broken"):
        truths(model, {"gate": np.arange(6) < 2}, np.ones((2, 5)))
    assert helpers.fingerprint(model) == before
    assert set(vars(model)) == attributes


class Scaled(keras.Model):
    """What its class adds to the graph is computed, too."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs / 255.0, training=training, mask=mask)


class Another(keras.Model):
    """Its graph plays no part."""

    def call(self, inputs, training=None, mask=None):
        return self.get_layer("out")(self.get_layer("hidden")(inputs))


def of_class(cls):
    x = keras.Input((5,))
    y = L.Dense(6, activation="tanh", name="hidden")(x)
    y = kg.FilterGate(name="gate")(y)
    model = cls(x, L.Dense(2, name="out")(y))
    helpers.randomize(model)
    return sm.set_gates(model, gate=sm.half(6))


def test_a_call_of_the_users_own_is_part_of_the_truth():
    model = of_class(Scaled)
    mask = np.arange(6) < 3
    x = 100 * helpers.inputs_for(model)
    (found,) = truths(model, {"gate": mask}, x)
    model.get_layer("gate").factor.assign(np.where(mask, 0.0, 1.0))
    same(found, helpers.run(model, x))


def test_a_class_without_its_graph_is_refused():
    model = of_class(Another)
    other = keras.Model(model.inputs, model.outputs)
    small = kg.surgeon.prune(other, T)
    with pytest.raises(ValueError, match="'another'.*recorded graph"):
        far(model, small, T)


# Where it can't tell -------------------------------------------------------


def constant_head(activation=None, kernel=1e-9):
    x = keras.Input((8,))
    y = kg.FilterGate(name="gate")(L.Dense(8)(x))
    head = L.Dense(
        2,
        activation=activation,
        kernel_initializer=keras.initializers.Constant(kernel),
        bias_initializer="ones",
        name="flat",
    )
    moving = L.Dense(3, name="moving")(x)
    model = keras.Model(x, [moving, head(y)])
    return sm.set_gates(model, gate=sm.half(8))


def test_outputs_that_hardly_vary_are_named():
    model = constant_head()
    small = kg.surgeon.prune(model, T)
    (message,) = told(lambda: kg.surgeon.verify(model, small, T))
    assert "'flat'" in message and "'moving'" not in message
    assert "x=..." in message


def test_a_saturated_softmax_is_named():
    model = constant_head("softmax")
    bias = model.get_layer("flat").bias
    bias.assign([60.0, -60.0])
    small = kg.surgeon.prune(model, T)
    (message,) = told(lambda: kg.surgeon.verify(model, small, T))
    assert "'flat'" in message


def test_outputs_that_differ_are_proof_enough():
    model = constant_head()
    small = kg.surgeon.prune(model, T)
    small.get_layer("flat").bias.assign([1.0, 2.0])
    assert not told(lambda: kg.surgeon.verify(model, small, T))


def test_one_sample_does_not_tell():
    model = sm.chain()
    small = kg.surgeon.prune(model, T)
    one = np.ones((1, 5), "float32")
    for options in ({"samples": 1}, {"x": one}):
        (message,) = told(
            lambda options=options: kg.surgeon.verify(
                model, small, T, **options
            )
        )
        assert "one sample" in message
    assert not told(lambda: kg.surgeon.verify(model, small, T))


def test_approximations_are_compared_with_zeros():
    model = sm.set_gates(sm.normalized(), gate=sm.half(8))
    small = kg.surgeon.prune(model, T, exact=False)
    assert far(model, small, T, exact=False) > 1e-3
