"""Rules from scratch, written by what the docstrings of `Rule` say."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon import rules
from keras_gates.surgeon.rules import Rule
from keras_gates.surgeon.rules import rule
from tests import helpers

PACKAGE = "keras_gates.tests.own_rules"


@keras.saving.register_keras_serializable(PACKAGE)
class Mixer(L.Layer):
    """`x @ mix`: reads channels, and makes others."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], self.units), name="mix")

    def call(self, x):
        return ops.matmul(x, self.mix)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@dataclasses.dataclass(frozen=True)
class MixerRule(Rule):
    """What a user writes; all else is left to the defaults."""

    kind: str = "mixer"

    def flow(self, call, inputs, units):
        made = units.mint(id(call.op), call.op.units)
        roles = {"in": inputs[0].reshape(-1), "out": made}
        labels = made.reshape((1,) * (len(call.outputs[0].shape) - 1) + (-1,))
        return rule.Flow([labels], [[None]], roles, mixes=True)


kg.surgeon.register(
    Mixer, MixerRule(axes={"mix": ("in", "out")}, config={"units": "out"})
)


def mixed(constant):
    i = keras.Input((4,))
    x = L.Dense(8, name="a")(i)
    x = kg.FilterGate(name="g")(x)
    if constant:
        x = ops.add(x, np.linspace(0.1, 0.8, 8).astype("float32"))
    x = Mixer(6, name="mixer")(x)
    x = kg.FilterGate(name="h")(x)
    model = keras.Model(i, L.Dense(2, name="o")(x))
    return helpers.randomize(model)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_a_mixing_rule_from_scratch(constant, scored):
    model = mixed(constant)
    model.get_layer("g").factor.assign([0.0] * 4 + [1.0] * 4)
    model.get_layer("h").factor.assign([0.0] * 3 + [1.5] * 3)
    before = helpers.fingerprint(model)
    scores = kg.surgeon.score(model, "random") if scored else None
    if scored:
        assert {"mixer"} <= set(scores)
    threshold = kg.Quantile(0.5, scope="gate") if scored else 0.05
    plan = kg.surgeon.plan(model, threshold, scores=scores)
    small = plan.apply()
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    if not scored:
        helpers.assert_same(model, small)
    assert small.get_layer("mixer").units == 3
    # Constants that are not zero can't go: its rule does not say how. What
    # scores close is zero where the mixer reads it.
    left = small.get_layer("a").units
    assert left == (8 if constant and not scored else 4)
    assert helpers.fingerprint(model) == before


def test_what_a_rule_must_define_is_said_with_its_name():
    @dataclasses.dataclass(frozen=True)
    class Greedy(MixerRule):
        kind: str = "greedy"

        def reading(self, call):
            return rule.BIAS

    @keras.saving.register_keras_serializable(PACKAGE)
    class GreedyMixer(Mixer):
        pass

    kg.surgeon.register(
        GreedyMixer,
        Greedy(axes={"mix": ("in", "out")}, config={"units": "out"}),
    )
    i = keras.Input((4,))
    x = kg.FilterGate(name="g")(L.Dense(8)(i))
    x = ops.add(x, np.full(8, 0.5, "float32"))
    model = keras.Model(i, L.Dense(2)(GreedyMixer(6, name="mixer")(x)))
    model.get_layer("g").factor.assign([0.0] * 4 + [1.0] * 4)
    with pytest.raises(ValueError, match="'mixer'.*Greedy.*`contribution`"):
        kg.surgeon.prune(model, 0.05)


def test_a_rule_without_a_flow_is_told_so():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Empty(L.Layer):
        def call(self, x):
            return x

    kg.surgeon.register(Empty, Rule("empty"))
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(8), Empty(name="e"), L.Dense(2)]
    )
    with pytest.raises(ValueError, match="'e'.*`flow`"):
        kg.surgeon.score(model)


def test_every_method_of_rule_says_what_it_is_for():
    for name, method in vars(Rule).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert method.__doc__, name


def test_rules_are_exported():
    assert rules.Rule is Rule
