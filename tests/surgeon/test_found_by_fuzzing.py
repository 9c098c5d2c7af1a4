"""Kinds of wrong models that random graphs found, written out by hand.

The truth is the user's own model with its closed gates at exactly 0.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import surgeon
from tests import helpers
from tests.surgeon import walker
from tests.surgeon import wide_judge
from tests.surgeon.scores import test_recurrent_scores as scored


def strange(x):
    """No factor passes it, and no rule knows it."""
    return 0.3 * ops.square(x) - 0.1 * x


def filled(model, seed=0):
    """Random weights; a third of each gate's factors are exactly 0."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        # Variances are positive.
        positive = "variance" in weight.name
        low = 0.5 if positive else -1.0
        weight.assign(rng.uniform(low, 1.5, weight.shape))
    for layer in model.layers:
        if isinstance(layer, kg.FilterGate):
            factors = rng.uniform(0.3, 2.0, layer.factor.shape)
            factors[::3] = 0.0
            layer.factor.assign(factors)
    return model


def assert_same(model, x):
    """The pruned model computes what the user's own does."""
    before = ops.convert_to_numpy(model(x))
    after = ops.convert_to_numpy(surgeon.prune(model, 0.01)(x))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)


# Factors that differ in space ------------------------------------------------

ALONG_SPACE = {
    "mean pooling": L.GlobalAveragePooling1D,
    "max pooling": L.GlobalMaxPooling1D,
    "local pooling": lambda: L.AveragePooling1D(2),
    "upsampling": lambda: L.UpSampling1D(2),
    "padding": lambda: L.ZeroPadding1D(1),
    "cropping": lambda: L.Cropping1D(1),
    "mean": lambda: lambda x: ops.mean(x, axis=1),
    "mean kept": lambda: lambda x: ops.mean(x, axis=1, keepdims=True),
    "sum": lambda: lambda x: ops.sum(x, axis=1),
    "cumulative sum": lambda: lambda x: ops.cumsum(x, axis=1),
    "sort": lambda: lambda x: ops.sort(x, axis=1),
    "roll": lambda: lambda x: ops.roll(x, 1, axis=1),
    "slice": lambda: lambda x: x[:, 1],
    "flip": lambda: lambda x: ops.flip(x, axis=1),
    "depthwise": lambda: L.DepthwiseConv1D(2, use_bias=False),
    "convolution in groups": lambda: L.Conv1D(2, 2, groups=2, use_bias=False),
    "convolution": lambda: L.Conv1D(3, 2),
    "slopes": lambda: L.PReLU(shared_axes=[1]),
    "excitation": lambda: lambda x: x * ops.mean(x, axis=1, keepdims=True),
}


def ended(x, y):
    y = L.Flatten()(y) if len(y.shape) > 2 else y
    return filled(keras.Model(x, L.Dense(3)(y)))


@pytest.mark.parametrize("name", ALONG_SPACE)
def test_factors_that_become_positions_are_not_folded_as_one(name):
    x = keras.Input((5,))
    y = kg.FilterGate()(L.Dense(8, activation=strange)(x))
    y = ALONG_SPACE[name]()(L.Reshape((4, 2))(y))
    data = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    assert_same(ended(x, y), data)


@pytest.mark.parametrize("name", ALONG_SPACE)
def test_factors_behind_space_go_to_all_its_positions(name):
    x = keras.Input((5,))
    y = ALONG_SPACE[name]()(L.Reshape((4, 2))(L.Dense(8)(x)))
    y = L.Activation(strange)(kg.FilterGate()(y))
    data = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    assert_same(ended(x, y), data)


# Layers that join by their masks ----------------------------

TOKENS = np.array([[1, 2, 0, 0, 0, 0], [3, 1, 2, 4, 0, 0], [1, 1, 1, 1, 1, 1]])
OTHERS = np.array([[1, 2, 3, 0, 0, 0], [3, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
JOINS = ["Multiply", "Maximum", "Minimum", "Add", "Average", "Subtract"]


def embedded(tokens):
    return L.Embedding(5, 4, mask_zero=True)(tokens)


def gated(x, activation):
    return kg.FilterGate()(L.Dense(6, activation=activation)(x))


def same_mask(first):
    e = embedded(first)
    return [], gated(e, "tanh"), gated(e, "sigmoid")


def one_mask(first):
    other = keras.Input((6, 4))
    return [other], gated(embedded(first), "tanh"), gated(other, "sigmoid")


def two_masks(first):
    other = keras.Input((6,), dtype="int32")
    parts = embedded(first), embedded(other)
    return [other], gated(parts[0], "tanh"), gated(parts[1], "sigmoid")


def mask_from_within(first):
    """A nested model whose output has a mask that no record has."""
    start = keras.Input((6,), dtype="int32")
    inner = keras.Model(start, embedded(start))
    other = keras.Input((6,), dtype="int32")
    return (
        [other],
        gated(embedded(first), "tanh"),
        gated(inner(other), "sigmoid"),
    )


def constant(first):
    e = embedded(first)
    shut = kg.FilterGate(name="shut")(e)
    return [], gated(e, "tanh"), L.Dense(6, activation="sigmoid")(shut)


OPERANDS = [same_mask, one_mask, two_masks, mask_from_within, constant]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("operands", OPERANDS)
@pytest.mark.parametrize("join", JOINS)
def test_joins_by_masks(join, operands, swapped):
    first = keras.Input((6,), dtype="int32")
    more, one, other = operands(first)
    pair = [other, one] if swapped else [one, other]
    y = getattr(L, join)()(pair)
    inputs = [first, *more] if more else first
    # An operation, for a layer would warn of the mask that it loses.
    model = filled(keras.Model(inputs, L.Dense(3)(ops.reshape(y, (-1, 36)))))
    if operands is constant:
        model.get_layer("shut").factor.assign(np.zeros(4))
    data = [TOKENS]
    if more and len(more[0].shape) == 3:
        rng = np.random.default_rng(2)
        data.append(rng.normal(size=(3, 6, 4)).astype("float32"))
    elif more:
        data.append(OTHERS)
    assert_same(model, data if more else TOKENS)


# Tensors that Keras takes for sparse ----------------------------


@pytest.mark.filterwarnings("ignore:All 'apoz'")
@pytest.mark.parametrize("criterion", ["mean", "apoz"])
def test_channels_behind_a_scalar_are_scored_by_data(criterion):
    x = keras.Input((6,))
    y = 0.5 * L.Dense(5, activation="relu")(2.0 * L.Dense(4)(x))
    model = filled(keras.Model(x, L.Dense(3)(y)))
    data = np.random.default_rng(3).normal(size=(8, 6)).astype("float32")
    scores = surgeon.score(model, criterion, data)
    pruned = surgeon.prune(model, kg.Quantile(0.4), scores=scores)
    assert pruned.count_params() < model.count_params()


# Recurrent units that scores close, under masks ----------------------------

# Samples that are masked at first, in between, at the end, and throughout.
THERE = np.array([[0, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]])


def with_start(make, **config):
    """A masked layer, and the states from elsewhere that it begins with."""
    x, mask = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    context = keras.Input((4,))
    start = L.Dense(8, activation="sigmoid", name="start")
    layer = make(
        8, return_sequences=True, return_state=True, name="cells", **config
    )
    count = 2 if make is L.LSTM else 1
    y, *states = layer(
        x, mask=mask, initial_state=[start(context) for _ in range(count)]
    )
    outputs = [L.Dense(2)(ops.reshape(y, (-1, 48)))]
    outputs += [L.Dense(2)(s) for s in states]
    heads = [o._keras_history.operation for o in outputs]
    return keras.Model([x, mask, context], outputs), start, layer, heads


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("make", [L.SimpleRNN, L.GRU, L.LSTM])
def test_a_closed_unit_is_zero_at_masked_steps_and_in_its_first_state(
    make, zero
):
    """The truth is NumPy's: the unit and its states are zero throughout."""
    model, start, layer, heads = with_start(make, zero_output_for_mask=zero)
    filled(model)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 6, 3)).astype("float32")
    context = rng.normal(size=(3, 4)).astype("float32")
    data = [x, THERE.astype(bool), context]
    plan, small = scored.prune(model, "start")
    cut = small.get_layer("cells").units, small.get_layer("start").units
    assert cut == (4, 4)

    def truth(open_units):
        weights = [helpers.numpy_of(w) for w in start.weights]
        first = 1 / (1 + np.exp(-context @ weights[0] - weights[1]))
        recurrence = scored.Recurrence(layer, open_units)
        states = [first] * (2 if make is L.LSTM else 1)
        y, states = recurrence(x, THERE.astype(bool), states)
        for z, head in zip([y.reshape(3, 48), *states], heads, strict=True):
            kernel, bias = map(helpers.numpy_of, head.weights)
            yield z @ kernel + bias

    for one, units in ((model, range(8)), (small, scored.OPEN)):
        pairs = zip(helpers.run(one, data), truth(units), strict=True)
        for got, expected in pairs:
            scored.close_to(got, expected)
    assert max(surgeon.verify(model, small, plan, data).values()) < 1e-5


def test_a_masked_layer_and_one_behind_it():
    """Each reads what the other closes, and the mask goes through both."""
    tokens = keras.Input((6,), dtype="int32")
    table = L.Embedding(5, 3, mask_zero=True)
    first = L.SimpleRNN(8, return_sequences=True, name="first")
    second = L.SimpleRNN(8, name="second")
    head = L.Dense(2)
    model = keras.Model(tokens, head(second(first(table(tokens)))))
    filled(model)
    plan, small = scored.prune(model, "first", "second")
    data = np.concatenate([TOKENS, np.zeros((1, 6)), TOKENS[:1, ::-1]])
    y = helpers.numpy_of(table.embeddings)[data.astype(int)]
    for layer in (first, second):
        y, _ = scored.Recurrence(layer, scored.OPEN)(y, data != 0)
    kernel, bias = map(helpers.numpy_of, head.weights)
    scored.close_to(helpers.run(small, data)[0], y[:, -1] @ kernel + bias)
    assert max(surgeon.verify(model, small, plan, data).values()) < 1e-5


# Models at each step of a masked sequence ----------------------------


def step_by_step(masked, nested):
    """A model in TimeDistributed whose mask an attention finds after it."""
    x, mask = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    one = keras.Input((8,))
    inner = keras.Sequential([one, L.Dense(7, activation="relu"), L.Dense(8)])
    y = L.LSTM(8, return_sequences=True, name="cells")(x, mask=mask)
    each = L.TimeDistributed(inner)
    if nested:
        z = keras.Input((6, 8))
        each = keras.Model(z, each(z))
    y = each(y, mask=mask) if masked else each(y)
    y = L.MultiHeadAttention(2, 3)(y, y)
    return keras.Model([x, mask], L.Dense(2)(L.GlobalMaxPooling1D()(y)))


@pytest.mark.filterwarnings("ignore:Layer '.*does not support masking")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_walker_is_the_model_at_each_step(masked, nested):
    """The judge's truth and the model see the same masks."""
    model = filled(step_by_step(masked, nested))
    rng = np.random.default_rng(5)
    data = [rng.normal(size=(3, 6, 3)).astype("float32"), THERE.astype(bool)]
    expected = helpers.run(model, data)
    got = [helpers.numpy_of(walker.run(model, data))]
    assert max(helpers.differences(expected, got)) < helpers.RTOL
    scores = surgeon.score(model, "l2")
    plan = surgeon.plan(model, kg.Quantile(0.4), scores=scores)
    small = plan.apply()
    assert small.count_params() < model.count_params()
    truth = wide_judge.Truth(model, data, plan, scores).at(data)
    far = helpers.differences(truth, helpers.run(small, data))
    assert max(far) < helpers.RTOL
    assert max(surgeon.verify(model, small, plan, data).values()) < 1e-5


def test_a_mask_made_of_channels_ties_none_that_it_masks():
    """Channels that are closed after a mask do not close what made it."""
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(5, 4)(tokens)
    there = ops.any(x > 0.9, axis=-1)
    y = L.Dense(8, name="cells")(x)
    head = L.Dense(2)
    y = head(L.GlobalAveragePooling1D()(y, mask=there))
    model = filled(keras.Model(tokens, y))
    plan, small = scored.prune(model, "cells")
    assert small.get_layer("cells").units == len(scored.OPEN)
    scored.check(model, small, TOKENS, head.kernel)
    assert max(surgeon.verify(model, small, plan, TOKENS).values()) < 1e-5
    scores = scored.scores_of("cells")
    truth = wide_judge.Truth(model, TOKENS, plan, scores).at(TOKENS)
    far = helpers.differences(truth, helpers.run(small, TOKENS))
    assert max(far) < helpers.RTOL
