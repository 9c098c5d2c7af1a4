"""A rule as users write one: from the page of the docs, by public names."""

import dataclasses
import pathlib
import re
import runpy

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon import rules
from tests import helpers

PACKAGE = "keras_gates.tests.outside_rule"
PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs/extending.md"


@keras.saving.register_keras_serializable(PACKAGE)
class Fourier(L.Layer):
    """`[x @ mix, relu(x @ mix)]`: reads channels, makes each of them twice."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], self.width), name="mix")

    def call(self, x):
        y = ops.matmul(x, self.mix)
        return ops.concatenate([y, ops.relu(y)], -1)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@dataclasses.dataclass(frozen=True)
class FourierRule(rules.Rule):
    """Constants other than zero have no bias to go into: they merge."""

    kind: str = "fourier"

    def flow(self, call, inputs, units):
        shape = call.inputs[0].shape
        ids = rules.one_axis(inputs[0], len(shape) - 1, shape)
        if ids is None:
            return rules.barrier(call, inputs, units, "it reads the last axis")
        made = units.mint(call.op, call.op.width)
        both = np.concatenate([made, made])
        labels = rules.vector(both, len(shape), -1)
        roles = {"in": ids, "out": made}
        return rules.Flow([labels], [[None]], roles, mixes=True)

    def reading(self, call):
        return rules.ZERO

    def merges(self, call):
        return True

    def value(self, call, flow, values):
        x = values[0].plain()
        if (x != 0).any():
            return [None]
        return [rules.known(np.zeros(flow.labels[0].shape))]


rules.register(
    Fourier,
    FourierRule(
        axes={"mix": ("in", "out")},
        config={"width": "out"},
        costs={"mix": "out"},
        scales={"in": {"mix": "in"}},
    ),
)


def model_of(shape, constant, twice):
    """Dense, gate, (a shift,) Fourier, gate on all channels, Dense."""
    x = keras.Input(shape)
    y = L.Dense(8, name="first")(x)
    y = kg.FilterGate(name="before")(y)
    if constant:
        y = ops.add(y, np.linspace(0.1, 0.8, 8).astype("float32"))
    mixer = Fourier(5, name="mixer")
    y = mixer(y)
    y = kg.FilterGate(name="after")(y)
    if twice:
        y = mixer(L.Dense(8, name="second")(y))
    return helpers.randomize(keras.Model(x, L.Dense(3)(y)))


@pytest.mark.parametrize("shape", [(4,), (7, 4), (3, 5, 4)])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_a_mixing_rule_by_public_names(shape, constant, twice):
    model = model_of(shape, constant, twice)
    model.get_layer("before").factor.assign([0.0] * 3 + [1.5] * 5)
    model.get_layer("after").factor.assign([0, 1, 0.5, 0, 1, 0, 1, 0.5, 1, 1])
    plan = kg.surgeon.plan(model, 0.05)
    small = plan.apply()
    helpers.assert_same(model, small)
    # float32 rounding over a few operations.
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    mixer = small.get_layer("mixer")
    # A channel goes where both of its copies are closed: the first one only.
    # Read once more, all are there.
    assert mixer.width == (5 if twice else 4)
    # Three zeros go; three constants leave one for all. Of a second call all
    # inputs vary.
    left = 8 if twice else 6 if constant else 5
    assert small.get_layer("first").units == left
    assert tuple(mixer.mix.shape) == (left, mixer.width)


def test_its_cost_is_counted():
    model = model_of((7, 4), False, False)
    (row,) = (
        r for r in kg.surgeon.plan(model, 0.05).rows if r.layer == "mixer"
    )
    assert row.macs[0] == 7 * 8 * 5


@pytest.mark.once
def test_the_page_runs(tmp_path):
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.M
    )
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    left = runpy.run_path(str(script))
    helpers.assert_same(left["model"], left["small"])


def test_the_page_needs_exported_names_only():
    asked = set(re.findall(r"\brules\.([A-Za-z_]\w*)", PAGE.read_text("utf-8")))
    asked -= {"md"}  # a link
    assert {"Rule", "Flow", "one_axis", "BIAS"} <= asked <= set(rules.__all__)


def test_all_that_is_exported_is_there():
    assert len(rules.__all__) == len(set(rules.__all__))
    assert not [name for name in rules.__all__ if not hasattr(rules, name)]


def test_words_may_be_strings():
    assert rules.Elementwise(passes="zero").passes == rules.PRESERVES_ZERO
    assert rules.BIAS == "bias" and rules.Scaling("linear") is rules.LINEAR
    assert rules.VALUES > rules.CHOICE > rules.NOTHING == 0


def test_what_rules_say_does_not_change_afterwards():
    flow = rules.Flow([rules.fixed(2)], [[None]])
    with pytest.raises(dataclasses.FrozenInstanceError):
        flow.mixes = True
    with pytest.raises(dataclasses.FrozenInstanceError):
        rules.Known(np.zeros(3)).border = True
