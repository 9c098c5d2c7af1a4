"""TimeDistributed passes on all questions to a rule, except for a list."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph
from keras_gates.surgeon.rules import time_distributed as td
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from tests import helpers

FIELDS = {field.name for field in dataclasses.fields(Rule)}


def forgotten():
    """What `Rule` declares, and TimeDistributed neither has nor passes on."""
    has = {*td.OWN, *vars(td.TimeDistributed), *FIELDS}
    return [name for name in td.hooks() if name not in has]


def test_no_hook_is_forgotten():
    assert "scaling" in td.hooks()
    assert not forgotten()


def test_a_new_hook_would_be_found(monkeypatch):
    def new_hook(self, call):
        """What a pass asks from now on."""

    monkeypatch.setattr(Rule, "new_hook", new_hook, raising=False)
    assert forgotten() == ["new_hook"]


def test_a_new_hook_is_handed_on(monkeypatch):
    def new_hook(self, call):
        return call.op.name

    monkeypatch.setattr(Rule, "new_hook", new_hook, raising=False)
    rule, call = dense_at_each_step()
    assert td.delegated()["new_hook"](rule, call) == "inside"


def test_a_hook_with_an_argument_of_unknown_kind_is_refused(monkeypatch):
    monkeypatch.setattr(Rule, "odd", lambda self, mood: mood, raising=False)
    with pytest.raises(TypeError, match=r"\['mood'\]"):
        td.delegated()


def test_what_is_its_own_is_declared_by_rule():
    assert td.OWN.keys() <= td.hooks().keys()


def dense_at_each_step():
    """The rule and the call of a Dense layer at each of 5 steps."""
    x = keras.Input((5, 3))
    y = L.TimeDistributed(L.Dense(4, name="inside"), name="outside")(x)
    (call,) = graph.read(keras.Model(x, y)).calls
    return kg.surgeon.rules.rule_of(call), call


# What stands for the arguments of a hook, by their names. The arrays have
# the axis of time, which what the rule inside gets must not have.
ARGUMENTS = {
    "flow": Flow([np.zeros((1, 1, 4), int)], [[None]], {"out": np.arange(4)}),
    "demanded": [np.ones((1, 1, 4), bool)],
    "role": "in",
    "side": "out",
    "index": 0,
    "values": np.zeros(3),
    "part": None,
    "closed": None,
    "kept": {},
    "constants": {},
    "count": 2,
}


@pytest.mark.parametrize(
    "name",
    [n for n, hook in td.delegated().items() if inspect.isfunction(hook)],
)
def test_the_rule_inside_is_asked_for_one_step(name):
    rule, call = dense_at_each_step()
    asked = {}

    @dataclasses.dataclass(frozen=True)
    class Probe(Rule):
        """Notes what it is asked, and gives an answer of its own."""

    names = list(inspect.signature(td.hooks()[name]).parameters)

    def answer(*args):
        asked.update(zip(names, args, strict=True))
        return "the answer"

    setattr(Probe, name, answer)
    rule = dataclasses.replace(rule, inner=Probe())
    given = {"call": call, "op": call.op, **ARGUMENTS}
    got = getattr(rule, name)(*(given[n] for n in names[1:]))
    assert got == "the answer"
    if "call" in asked:
        assert asked["call"].op.name == "inside"
        assert asked["call"].inputs[0].shape == (None, 3)
    if "op" in asked:
        assert asked["op"].name == "inside"
    if "flow" in asked:
        assert asked["flow"].labels[0].shape == (1, 4)
    if "demanded" in asked:
        assert asked["demanded"][0].shape == (1, 4)


def test_attributes_are_those_of_the_rule_inside():
    rule, _ = dense_at_each_step()
    assert rule.kind == "time distributed dense"
    assert rule.linear and not rule.merging and not rule.feeds_back
    assert (
        rule.axes
        == rule.inner.axes
        == {
            "kernel": ("in", "out"),
            "bias": ("out",),
        }
    )


def sequence(wrap, layer):
    """Two dense layers, and between them a gate and a layer, at each step."""
    x = keras.Input((6, 3))
    y = kg.FilterGate(name="gate")(L.Dense(8, name="first")(x))
    y = L.Dense(2, name="last")(wrap(layer)(y))
    model = helpers.randomize(keras.Model(x, y))
    model.get_layer("gate").factor.assign([0.0] * 3 + [1.0] * 5)
    return model


@pytest.mark.parametrize("wrap", [lambda layer: layer, L.TimeDistributed])
def test_a_guess_is_made_inside_as_well(wrap):
    model = sequence(wrap, L.LayerNormalization())
    small = kg.surgeon.prune(model, 0.05, exact=False)
    assert small.get_layer("first").units == 5
    assert kg.surgeon.prune(model, 0.05).get_layer("first").units == 8


@pytest.mark.parametrize(
    "layer",
    [
        L.Dense(4, activation="relu", name="inside"),
        L.BatchNormalization(),
        L.PReLU(),
        L.Rescaling(2.0, 0.5),
        L.Softmax(),
        L.Reshape((2, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_pruned_as_the_layer_inside_would_be(layer):
    x = keras.Input((6, 3))
    y = kg.FilterGate(name="gate")(L.Dense(8, name="first")(x))
    y = L.Flatten()(L.TimeDistributed(layer)(y))
    model = helpers.randomize(keras.Model(x, L.Dense(2)(y)))
    model.get_layer("gate").factor.assign([0.0] * 3 + [1.5] * 5)
    small = kg.surgeon.prune(model, 0.05)
    helpers.assert_same(model, small)
