"""Scores close channels under norms and softmax, where `exact=False` says so.

The truth is what is promised: the norm over the channels that are left.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH = 12
CLOSED = [0, 3, 4, 10]
OPEN = [i for i in range(WIDTH) if i not in CLOSED]

NORMS = {
    "LayerNormalization": lambda **k: L.LayerNormalization(**k),
    "no shift": lambda **k: L.LayerNormalization(center=False, **k),
    "no scale": lambda **k: L.LayerNormalization(scale=False, **k),
    "axes": lambda **k: L.LayerNormalization(axis=[-1], **k),
    "Softmax": lambda **k: L.Softmax(**k),
    "Activation": lambda **k: L.Activation("softmax", **k),
    "log_softmax": lambda **k: L.Activation("log_softmax", **k),
}

NORMALIZING = (L.LayerNormalization,)


def half(*names):
    scores = np.ones(WIDTH)
    scores[CLOSED] = 0.1
    return dict.fromkeys(names, scores)


def cut(model, *names, x=None):
    """The plan of an approximate cut, and the model; nothing for nothing."""
    helpers.randomize(model, x=x)
    offered = kg.surgeon.score(model, "l2", exact=False)
    assert set(names) <= set(offered)
    before = helpers.fingerprint(model)
    plan = kg.surgeon.plan(model, 0.5, scores=half(*names), exact=False)
    assert not plan.exact
    assert "not exact: " in str(plan)
    assert "of them stay" not in str(plan)
    small = plan.apply()
    assert helpers.fingerprint(model) == before
    for name in names:
        assert small.get_layer(name).weights[-1].shape[-1] == len(OPEN)
    return plan, small


def parts(layer, x):
    return helpers.numpy_of(layer(x, training=False))


def sliced(norm):
    """The same norm with the weights of the channels that are left."""
    config = norm.get_config()
    new = type(norm).from_config(config)
    new(np.ones((2, len(OPEN)), "float32"))
    for a, b in zip(new.weights, norm.weights, strict=True):
        a.assign(helpers.numpy_of(b)[OPEN])
    return new


@pytest.mark.parametrize("name", NORMS)
def test_alone(name):
    inputs = keras.Input((6,))
    made = L.Dense(WIDTH, name="made")
    norm = NORMS[name](name="norm")
    head = L.Dense(3)
    model = keras.Model(inputs, head(norm(made(inputs))))
    _, small = cut(model, "made")
    x = helpers.inputs_for(model)
    y = parts(sliced(norm), parts(made, x)[:, OPEN])
    expected = y @ helpers.numpy_of(head.kernel)[OPEN]
    expected += helpers.numpy_of(head.bias)
    np.testing.assert_allclose(
        helpers.run(small, x)[0], expected, rtol=1e-4, atol=1e-5
    )
    # Under a softmax, exact removals there are none.
    assert ("made" in exact_groups(model)) == (type(norm) in NORMALIZING)


def exact_groups(model):
    try:
        return kg.surgeon.score(model, "l2")
    except ValueError:
        return {}


@pytest.mark.parametrize("name", ["LayerNormalization", "no shift"])
@pytest.mark.parametrize("pre", [True, False])
def test_in_a_residual_stream(name, pre):
    inputs = keras.Input((5, 6))
    norms = [NORMS[name](name=f"norm_{i}") for i in range(3)]
    x = L.Dense(WIDTH, name="made")(inputs)
    for i in range(2):
        y = norms[i](x) if pre else x
        y = L.Dense(9, activation="relu", name=f"up_{i}")(y)
        y = L.Dense(WIDTH, name=f"down_{i}")(y)
        x = L.Add()([x, y])
        x = x if pre else norms[i](x)
    model = keras.Model(inputs, L.Dense(3)(norms[2](x)))
    _, small = cut(model, "made")
    for i in range(2):
        assert small.get_layer(f"down_{i}").units == len(OPEN)
        assert small.get_layer(f"up_{i}").kernel.shape[0] == len(OPEN)
    y = helpers.run(small, helpers.inputs_for(model))[0]
    assert np.isfinite(y).all()


def test_behind_an_embedding():
    inputs = keras.Input((7,), dtype="int32")
    table = L.Embedding(20, WIDTH, name="made")
    norm, head = L.LayerNormalization(name="norm"), L.Dense(3)
    model = keras.Model(inputs, head(norm(table(inputs))))
    x = np.random.default_rng(0).integers(0, 20, (4, 7))
    _, small = cut(model, "made", x=x)
    y = parts(sliced(norm), parts(table, x)[..., OPEN])
    expected = y @ helpers.numpy_of(head.kernel)[OPEN]
    expected += helpers.numpy_of(head.bias)
    np.testing.assert_allclose(
        helpers.run(small, x)[0], expected, rtol=1e-4, atol=1e-5
    )


def test_between_convolutions_and_in_time_distributed():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(WIDTH, 3, name="made")(inputs)
    x = L.LayerNormalization()(x)
    x = L.DepthwiseConv2D(3, padding="same")(x)
    x = L.Activation("gelu")(x)
    model = keras.Model(inputs, L.Conv2D(3, 3, padding="same")(x))
    cut(model, "made")

    inputs = keras.Input((4, 6))
    x = L.TimeDistributed(L.Dense(WIDTH), name="made")(inputs)
    x = L.TimeDistributed(L.LayerNormalization())(x)
    model = keras.Model(inputs, L.Dense(3)(x))
    cut(model, "made")


def test_a_softmax_as_the_weights_of_a_mean():
    inputs = keras.Input((6,))
    x = L.Dense(WIDTH, name="made")(inputs)
    y = L.Dense(WIDTH, name="weighed")(inputs)
    y = L.Multiply()([ops.softmax(x), y])
    model = keras.Model(inputs, L.Dense(3)(y))
    _, small = cut(model, "made")
    assert small.get_layer("weighed").units == len(OPEN)


def test_under_a_recurrent_layer_and_its_norm():
    inputs = keras.Input((5, 6))
    x = L.LSTM(WIDTH, return_sequences=True, name="cells")(inputs)
    x = L.LayerNormalization(name="norm")(x)
    x = L.GRU(WIDTH, name="again")(x)
    model = keras.Model(inputs, L.Dense(3)(x))
    helpers.randomize(model)
    scores = half("cells", "again")
    plan = kg.surgeon.plan(model, 0.5, scores=scores, exact=False)
    small = plan.apply()
    assert small.get_layer("cells").units == len(OPEN)
    assert small.get_layer("again").units == len(OPEN)
    rows = {row.layer: row for row in plan.rows}
    assert rows["cells"].exact
    assert not rows["norm"].exact


def test_a_budget_and_rounding_under_norms():
    inputs = keras.Input((16,))
    x = L.Dense(64, name="made")(inputs)
    x = L.LayerNormalization()(x)
    x = L.Dense(64, activation="relu", name="next")(x)
    model = keras.Model(inputs, L.Dense(4)(x))
    scores = kg.surgeon.score(model, "l1", exact=False)
    options = {"scores": scores, "exact": False}
    before, after = kg.surgeon.plan(
        model, kg.Budget(params=0.5), **options
    ).params
    assert 0.4 < after / before <= 0.5
    small = kg.surgeon.prune(model, kg.Quantile(0.4), round_to=8, **options)
    assert small.get_layer("made").units % 8 == 0
    assert small.get_layer("made").units < 64


def test_step_by_step():
    inputs = keras.Input((16,))
    x = L.LayerNormalization()(L.Dense(40, name="made")(inputs))
    model = keras.Model(inputs, L.Dense(4)(x))
    small = kg.surgeon.prune_iteratively(
        model,
        kg.Quantile(0.5),
        criterion=functools.partial(kg.surgeon.score, exact=False),
        steps=2,
        exact=False,
    )
    assert small.get_layer("made").units == 20
