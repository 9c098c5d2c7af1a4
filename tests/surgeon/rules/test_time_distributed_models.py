"""Models inside TimeDistributed, cut like models that are nested."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon.examples import behind
from tests.surgeon.examples import front
from tests.surgeon.rules.test_rules import draw

STEPS, IMAGE = 3, (6, 6, 2)


def sequential(channels=2, gates=True):
    gate = [kg.FilterGate(name="inside")] if gates else []
    return keras.Sequential(
        [
            keras.Input((*IMAGE[:2], channels)),
            L.Conv2D(8, 3, padding="same", name="conv"),
            *gate,
            L.BatchNormalization(),
            L.ReLU(),
            L.Conv2D(6, 3, name="second"),
            L.Flatten(),
            L.Dense(8, name="dense"),
        ],
        name="inner",
    )


def branched(channels=2):
    inputs = keras.Input((*IMAGE[:2], channels))
    x = L.Conv2D(8, 3, padding="same", name="conv")(inputs)
    x = kg.FilterGate(name="inside")(x)
    y = kg.BranchGate(name="branch")(L.Conv2D(8, 1, name="second")(x))
    x = kg.FilterGate(name="joined")(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(8, name="dense")(x), name="inner")


INNER = {"sequential": sequential, "branched": branched}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("around", [False, True])
def test_a_model_in_time_distributed_is_cut(name, around, tmp_path):
    inputs = keras.Input((STEPS, *IMAGE))
    x = front(inputs) if around else inputs
    inner = INNER[name](x.shape[-1])
    y = L.TimeDistributed(inner, name="steps")(x)
    y = behind(y) if around else L.Dense(3)(y)
    model = draw(keras.Model(inputs, y))
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    small = plan.apply()
    helpers.assert_same(model, small)
    assert plan.params == (model.count_params(), small.count_params())
    assert kg.stats.count(small).macs == plan.macs[1]
    steps = small.get_layer("steps")
    assert type(steps) is L.TimeDistributed
    assert type(steps.layer) is type(inner)
    assert steps.layer.get_layer("conv").filters < 8
    if around:
        assert steps.layer.get_layer("conv").kernel.shape[-2] < 8
        assert steps.layer.get_layer("dense").units < 8
    assert not helpers.gates_of(small)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = helpers.inputs_for(model)
    for a, b in zip(helpers.run(small, x), helpers.run(loaded, x), strict=True):
        np.testing.assert_array_equal(a, b)


def shared_wrapper(x):
    wrapper = L.TimeDistributed(sequential(8))
    return [wrapper(front(x)), wrapper(front(x, "front_b"))]


def shared_model(x):
    inner = sequential(8)
    one = L.TimeDistributed(inner)(front(x))
    other = L.TimeDistributed(inner)(front(x, "front_b"))
    return [one, other]


def called_directly_too(x):
    inner = sequential(8)
    x = front(x)
    return [L.TimeDistributed(inner)(x), inner(x[:, 0])]


def in_a_nested_model(x):
    x = front(x)
    nested = keras.Input(x.shape[1:])
    inner = keras.Model(nested, L.TimeDistributed(sequential(8))(nested))
    return [inner(x)]


def twice_distributed(x):
    x = front(x)
    every = keras.Input(x.shape[2:])
    row = keras.Sequential(
        [keras.Input((6, 8)), L.Dense(6), kg.FilterGate(name="row")]
    )
    inner = keras.Model(every, L.Flatten()(L.TimeDistributed(row)(every)))
    return [L.TimeDistributed(inner)(x)]


@pytest.mark.parametrize(
    "make",
    [
        shared_wrapper,
        shared_model,
        called_directly_too,
        in_a_nested_model,
        twice_distributed,
    ],
)
def test_models_that_are_shared_or_nested(make):
    inputs = keras.Input((STEPS, *IMAGE))
    outputs = [L.Dense(3)(y) for y in make(inputs)]
    model = draw(keras.Model(inputs, outputs))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.count_params() < 0.8 * model.count_params()


def test_an_unknown_number_of_steps():
    inputs = keras.Input((None, *IMAGE))
    y = L.TimeDistributed(branched())(inputs)
    model = keras.Model(inputs, L.Dense(2)(y))
    x = np.random.default_rng(0).normal(size=(4, 5, *IMAGE)).astype("float32")
    helpers.randomize(model, x=x)
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small, x)
    count = kg.stats.count(small, (5, *IMAGE)).macs
    assert count == 5 * kg.stats.count(small, (1, *IMAGE)).macs


def test_scores_and_gates_reach_inside():
    inputs = keras.Input((STEPS, *IMAGE))
    y = L.Dense(4, name="before")(inputs)
    inner = sequential(4, gates=False)
    y = L.TimeDistributed(inner, name="steps")(y)
    model = keras.Model(inputs, L.Dense(2, name="after")(y))
    helpers.randomize(model)
    scores = kg.surgeon.score(model, "l2")
    names = {"before", "steps/conv", "steps/second", "steps/dense"}
    assert set(scores) == names
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores=scores)
    small = plan.apply()
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    assert small.get_layer("before").units == 2
    assert small.get_layer("steps").layer.get_layer("dense").units == 4
    gated = kg.insert_gates(model, filters=True)
    x = helpers.inputs_for(model)
    np.testing.assert_allclose(
        helpers.run(gated, x)[0], helpers.run(model, x)[0], rtol=1e-5, atol=1e-6
    )
    assert len(helpers.gates_of(gated)) == 4


def along_time(x):
    x = L.Permute((4, 2, 3, 1))(front(x))
    inner = keras.Sequential([keras.Input((6, 6, STEPS)), L.Flatten()])
    return L.TimeDistributed(inner, name="steps")(x)


@pytest.mark.parametrize("make, why", [(along_time, "the axis of time")])
def test_what_is_kept_whole_says_why(make, why):
    inputs = keras.Input((STEPS, *IMAGE))
    y = make(inputs)
    model = draw(keras.Model(inputs, behind(L.Dense(6)(ops.copy(y)))))
    plan = kg.surgeon.plan(model, helpers.THRESHOLD)
    helpers.assert_same(model, plan.apply())
    rows = [row for row in plan.rows if row.layer == "steps"]
    assert why in " ".join(w for row in rows for w in row.why)
