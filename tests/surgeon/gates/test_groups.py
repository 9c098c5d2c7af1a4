"""Channels without gates: coupled, scored, and cut as gates would be."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.request import read
from keras_gates.surgeon.gates import groups
from tests import helpers
from tests.surgeon import random_graphs
from tests.surgeon.gated_copies import gated_model


def scores_of(model, seed=0):
    rng = np.random.default_rng(seed)
    found = groups.find(gr.read(model)).groups
    return {n: rng.uniform(0.1, 1, g.shape) for n, g in found.items()}


def check(model, plan, pruned, x):
    """The pruned model against a copy with real gates, closed at 0."""
    masks = plan.masks()
    gated = gated_model(
        read(model, masks, Options(True, 1, False, groups=None)), masks
    )
    helpers.assert_same(gated, pruned, x, vary=False)
    assert pruned.count_params() == plan.params[1]


def networks():
    zoo, apps = kg.zoo, keras.applications
    small = {"weights": None, "input_shape": (32, 32, 3)}
    return {
        "lenet5": zoo.lenet5,
        "resnet20": lambda: zoo.resnet(20),
        "preact_resnet29": lambda: zoo.preact_resnet(29),
        "densenet22": lambda: zoo.densenet(22, 12),
        "mobilenetv2": lambda: apps.MobileNetV2(**small),
    }


DEEP = ("preact_resnet29", "densenet22", "mobilenetv2")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in DEEP else ())
        for name in networks()
    ],
)
def test_networks(name):
    model = networks()[name]()
    x = helpers.inputs_for(model)
    helpers.randomize(model, x=x)
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores_of(model))
    pruned = plan.apply()
    check(model, plan, pruned, x)
    # Half of the inputs and outputs of each kernel, but for the classes.
    assert plan.params[1] < 0.4 * plan.params[0]
    if name == "mobilenetv2":
        return  # half closed and never trained, its output does not vary
    assert max(kg.surgeon.verify(model, pruned, plan).values()) < 1e-4


@pytest.mark.parametrize(
    "start",
    [
        0,
        pytest.param(10, marks=pytest.mark.slow),
        pytest.param(20, marks=pytest.mark.slow),
    ],
)
def test_random_graphs(start):
    cut = 0
    for seed in range(start, start + 10):
        case = random_graphs.build(seed, gated=False)
        x = helpers.inputs_for(case.model, seed)
        helpers.randomize(case.model, seed, x)
        scores = scores_of(case.model, seed)
        if not scores:
            continue
        before = helpers.fingerprint(case.model)
        plan = kg.surgeon.plan(
            case.model, kg.Quantile(0.5), scores=scores, keep_at_least=1
        )
        pruned = plan.apply()
        check(case.model, plan, pruned, x)
        assert helpers.fingerprint(case.model) == before
        cut += plan.params[1] < plan.params[0]
    assert cut >= 5


def stream():
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(6, 3, padding="same", name="stem")(x)
    z = L.Conv2D(4, 3, padding="same", name="inner")(y)
    z = L.Conv2D(6, 3, padding="same", name="outer")(z)
    y = L.ReLU(name="out")(L.Add()([y, z]))
    y = L.GlobalAveragePooling2D()(y)
    return keras.Model(x, L.Dense(2, name="head")(y))


def test_what_writes_to_one_stream_is_one_group():
    found = groups.find(gr.read(stream()))
    sizes = {name: group.units.size for name, group in found.groups.items()}
    assert sizes == {"stem": 6, "inner": 4}
    assert found.kept == {"head": "it is an output of the model"}


def test_a_score_is_that_of_the_channel_with_its_number():
    model = stream()
    scores = {"inner": np.array([3.0, 1.0, 4.0, 2.0])}
    plan = kg.surgeon.plan(model, 2.5, scores=scores)
    assert plan.closed == {"inner": [1, 3]}
    small = plan.apply()
    expected = helpers.numpy_of(model.get_layer("inner").kernel)
    got = helpers.numpy_of(small.get_layer("inner").kernel)
    np.testing.assert_array_equal(got, expected[..., [0, 2]])
    assert "2 of 4 channels closed" in str(plan)


def test_groups_without_scores_stay_whole():
    model = stream()
    scores = {"stem": scores_of(model)["stem"]}
    small = kg.surgeon.prune(model, kg.Quantile(0.5), scores=scores)
    assert small.get_layer("stem").filters == 3
    assert small.get_layer("outer").filters == 3
    assert small.get_layer("inner").filters == 4


def test_widths_are_rounded_and_plans_stored():
    model = stream()
    plan = kg.surgeon.plan(
        model, kg.Quantile(0.7), scores=scores_of(model), round_to=2
    )
    small = plan.apply()
    assert small.get_layer("stem").filters % 2 == 0
    assert small.get_layer("inner").filters % 2 == 0
    again = kg.surgeon.Plan.from_json(plan.to_json(), model)
    assert again.apply().count_params() == small.count_params()


def test_gates_may_be_closed_beside_groups():
    x = keras.Input((6,))
    y = L.Dense(8, activation="relu", name="first")(x)
    y = kg.FilterGate(name="gate")(y)
    y = L.Dense(8, activation="relu", name="second")(y)
    model = keras.Model(x, L.Dense(2)(y))
    helpers.randomize(model)
    scores = {"second": np.arange(8.0)}
    alone = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    assert list(alone.closed) == ["second"]
    both = {"group": kg.Quantile(0.5), "filter": kg.Quantile(0.25)}
    plan = kg.surgeon.plan(model, both, scores=scores)
    small = plan.apply()
    assert small.get_layer("first").units == 6
    assert small.get_layer("second").units == 4
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5


@pytest.mark.parametrize(
    "scores, error, words",
    [
        ([1.0], TypeError, "must be a dict"),
        ({"nowhere": [1.0]}, ValueError, "'nowhere'.*stem, inner"),
        ({"head": [1.0, 2.0]}, ValueError, "output of the model"),
        ({"inner": [1.0]}, ValueError, "'inner' must be in an array of.*4"),
        ({"inner": [1, 2, 3, np.nan]}, ValueError, "'inner' must be finite"),
    ],
)
def test_bad_scores(scores, error, words):
    with pytest.raises(error, match=words):
        kg.surgeon.plan(stream(), 0.5, scores=scores)
