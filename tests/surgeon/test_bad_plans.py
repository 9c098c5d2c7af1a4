"""Plans, rules and checks that are refused, with nothing changed."""

import json

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import Plan
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import register
from keras_gates.surgeon import verify
from keras_gates.surgeon.rules.elementwise import Elementwise
from tests import helpers
from tests.surgeon import small_models as sm
from tests.surgeon.refusals import compiled
from tests.surgeon.refusals import refuse
from tests.surgeon.refusals import state

T = helpers.THRESHOLD
NAN = float("nan")

# Plans -------------------------------------------------------------------


def edited(**changes):
    """The JSON of a plan for `chain`; None takes a field out."""
    data = json.loads(plan(sm.chain(), T).to_json())
    data.update(changes)
    data = {name: x for name, x in data.items() if x is not None}
    return json.dumps(data)


NO_PLAN = "is not the JSON of a keras_gates plan"
# A text, or what is other in the JSON of a plan.
TEXTS = [
    ("", NO_PLAN),
    ("{", NO_PLAN),
    ("[1]", NO_PLAN),
    ("3", NO_PLAN),
    ("{}", f"{NO_PLAN}.*format"),
    (None, NO_PLAN),
    ('{"format": 1, "model": "cha', NO_PLAN),
    *[
        ({name: None}, f"{NO_PLAN}.*{name}")
        for name in ("model", "fingerprint", "closed", "options", "rows")
    ],
    ({"closed": [1]}, NO_PLAN),
    ({"closed": {"gate": [8]}}, f"{NO_PLAN}.*'gate' has 8 factors"),
    ({"closed": {"gate": [-1]}}, f"{NO_PLAN}.*'gate'"),
    ({"closed": {"gate": ["a"]}}, f"{NO_PLAN}.*'gate'"),
    ({"closed": {"other": [0]}}, f"{NO_PLAN}.*'other' is not a gate"),
    ({"rows": [{"layer": "x"}]}, NO_PLAN),
    ({"options": {}}, NO_PLAN),
    ({"format": 99}, "format 99.*reads format 1 and 2"),
    ('{"format": 99}', "format 99.*reads format 1 and 2"),
    ({"fingerprint": "0" * 64}, "made for a model 'chain'"),
]


@pytest.mark.parametrize("text, match", TEXTS)
def test_texts_that_are_no_plan(text, match):
    model = sm.chain()
    text = edited(**text) if isinstance(text, dict) else text
    refuse(model, lambda: Plan.from_json(text, model), ValueError, match)


@pytest.mark.parametrize("other", [sm.convnet, sm.sequential, sm.rescaled])
def test_a_plan_for_another_model(other):
    text, model = edited(), other()
    match = f"made for a model 'chain'.*'{model.name}'"
    refuse(model, lambda: Plan.from_json(text, model), ValueError, match)


def test_weights_that_changed_under_a_plan():
    """What is known to be constant depends on weights, too."""
    model = sm.constants()
    found = plan(model, T)
    norm = model.get_layer("norm")
    # Now the closed channels are zero after the ReLU.
    norm.beta.assign([-9.0] * 4 + [0.5] * 4)
    refuse(model, found.apply, ValueError, "'convnet' have changed since")
    helpers.assert_same(model, plan(model, T).apply())


# Rules -------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ((L.Dense, Elementwise()), ValueError, "Dense already has a rule"),
        (
            (kg.FilterGate, Elementwise()),
            ValueError,
            "FilterGate already has a rule",
        ),
        ((L.Dense(3), Elementwise()), TypeError, "must be a class.*Dense"),
        (("Dense", Elementwise()), TypeError, "must be a class.*str"),
        ((sm.Unknown, Elementwise), TypeError, "rule of Unknown.*instance"),
        ((sm.Unknown, None), TypeError, "rule of Unknown.*None"),
    ],
)
def test_rules(arguments, error, match):
    with pytest.raises(error, match=match):
        register(*arguments)


# verify ------------------------------------------------------------------

EMPTY = np.zeros((0, 5), "float32")
VERIFY = [
    ({"x": EMPTY}, ValueError, "at least one sample"),
    ({"samples": 0}, ValueError, "at least one sample"),
    ({"pruned": sm.sequence}, ValueError, "'sequence'|incompatible"),
    ({"pruned": sm.gated_output}, ValueError, r"\(8, 4\).*\(8, 3\)"),
    ({"thresholds": NAN}, ValueError, "`thresholds`"),
    ({"round_to": 0}, ValueError, "`round_to`"),
]


@pytest.mark.parametrize("arguments, error, match", VERIFY)
def test_verify(arguments, error, match):
    model = sm.chain()
    arguments = {"thresholds": T, **arguments}
    pruned = arguments.pop("pruned", None)
    pruned = prune(model, T) if pruned is None else pruned()
    before = state(model)
    with pytest.raises(error, match=match):
        verify(model, pruned, **arguments)
    assert state(model) == before


def test_verify_needs_the_plan_of_its_model():
    model, other = sm.chain(), sm.rescaled()
    small, found = prune(model, T), plan(other, T)
    with pytest.raises(ValueError, match="another model than 'chain'"):
        verify(model, small, found)
    with pytest.raises(TypeError, match="already has its options.*round_to"):
        verify(model, small, plan(model, T), round_to=2)


def test_verify_needs_inputs_where_a_size_is_unknown():
    inputs = keras.Input((None, 4), name="steps")
    x = kg.FilterGate()(L.Dense(6)(inputs))
    model = helpers.randomize(
        keras.Model(inputs, L.GlobalAveragePooling1D()(x)),
        x=np.ones((2, 5, 4), "float32"),
    )
    small = prune(model, T)
    with pytest.raises(ValueError, match="'steps'.*pass `x`"):
        verify(model, small, T)
    x = np.random.default_rng(0).normal(size=(3, 7, 4)).astype("float32")
    assert max(verify(model, small, T, x).values()) < helpers.RTOL


def test_verify_calls_a_nan_no_agreement():
    model = sm.chain()
    small = prune(model, T)
    small.get_layer("out").bias.assign([NAN, 0.0, 0.0])
    assert verify(model, small, T) == {"out": float("inf")}


def test_verify_leaves_both_models_as_they_were():
    model = compiled(sm.convnet())
    small = prune(model, T)
    before = state(model), state(small)
    verify(model, small, T)
    assert (state(model), state(small)) == before
