"""A plan keeps the configs that it has found, and no layers."""

import gc

import keras
import numpy as np
import pytest

import keras_gates as kg
from keras_gates.graphs import trace
from keras_gates.surgeon.build.config_search import ConfigSearch
from keras_gates.surgeon.build.kept_class import KeptClasses
from keras_gates.surgeon.gates import see_through
from tests.surgeon.build import kept_layers as kl
from tests.surgeon.build import test_left_alone as la
from tests.surgeon.build.test_kept_class import model_of
from tests.surgeon.build.test_kept_class import plan_of

pytestmark = pytest.mark.filterwarnings("ignore:`build:UserWarning")
# Float32, relative to the scale of the outputs.
CLOSE = 1e-5


@pytest.fixture
def counted(monkeypatch):
    """How often configs are searched for, and what is found is checked."""
    counts = {"searches": 0, "checks": 0}

    def count(cls, name, what):
        method = getattr(cls, name)

        def counting(*args, **kwargs):
            counts[what] += 1
            return method(*args, **kwargs)

        monkeypatch.setattr(cls, name, counting)

    count(ConfigSearch, "edits", "searches")
    count(KeptClasses, "check", "checks")
    return counts


def hidden_model():
    return model_of(kl.Hidden(8, name="one"), kl.Hidden(8, name="two"))


def verified(plan, small):
    return max(plan.verify(small).values())


def test_alike_layers_are_searched_once_and_apply_searches_no_more(counted):
    plan = plan_of(hidden_model())
    assert counted == {"searches": 1, "checks": 2}
    small = plan.apply()
    assert counted == {"searches": 1, "checks": 2}
    for name in ("one", "two"):
        layer = small.get_layer(name)
        assert type(layer) is kl.Hidden
        assert layer.hidden == 4
    assert verified(plan, small) < CLOSE


def test_layers_inside_layers_are_remembered_by_their_places(counted):
    outer = kl.Outer(8, name="outer")
    plan = plan_of(model_of(outer, kl.Linear(5, name="last")))
    before = dict(counted)
    small = plan.apply()
    assert counted == before
    assert verified(plan, small) < CLOSE


def test_other_weights_are_searched_for_again(counted):
    model = hidden_model()
    plan = plan_of(model)
    head = model.get_layer("head")
    head.kernel.assign(2 * np.array(keras.ops.convert_to_numpy(head.kernel)))
    small = plan.apply()
    assert counted == {"searches": 2, "checks": 4}
    assert verified(plan, small) < CLOSE


@pytest.mark.parametrize("changed", ["rate", "note"])
def test_other_settings_are_searched_for_again(counted, changed):
    """Those in the config, and those beside it."""
    model = hidden_model()
    plan = plan_of(model)
    setattr(model.get_layer("two"), changed, 0.25)
    plan.apply()
    assert counted["searches"] > 1


def test_a_plan_from_a_file_searches(counted):
    model = hidden_model()
    plan = plan_of(model)
    read = kg.surgeon.Plan.from_json(plan.to_json(), model)
    small = read.apply()
    assert counted == {"searches": 2, "checks": 4}
    assert verified(read, small) < CLOSE


def layers_alive():
    """By their types: a lazy object may warn when it is asked for its class."""
    gc.collect()
    return [x for x in gc.get_objects() if issubclass(type(x), keras.Layer)]


def test_a_plan_holds_no_layers_but_the_models():
    model = model_of(kl.Outer(8, name="outer"), kl.Hidden(8))
    before = [*map(id, layers_alive())]
    plan = plan_of(model)
    assert [x for x in layers_alive() if id(x) not in before] == []
    assert plan.rows


def test_tries_of_one_plan_trace_a_layer_once(monkeypatch):
    """One without each kind of group: what layers are made of is the same."""
    model = la.network(1)
    scores = la.inside(kg.surgeon.score(model, "l2"))
    traced = []

    def counting(node, *args, **kwargs):
        traced.append(node.operation.name)
        return trace.trace(node, *args, **kwargs)

    monkeypatch.setattr(see_through, "trace", counting)
    plan = kg.surgeon.plan(model, la.HALF, scores=scores, written_out=False)
    assert any("stay: without them" in note for note in plan.notes)
    assert traced.count("block_0") == 1
