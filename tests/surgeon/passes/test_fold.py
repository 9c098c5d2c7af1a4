"""Which weights take the factors of a gate, on a few nodes."""

import dataclasses

import keras
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.passes.fold import fold
from tests.surgeon.passes.hand_made import chain
from tests.surgeon.passes.hand_made import decided
from tests.surgeon.passes.hand_made import step_of
from tests.surgeon.passes.hand_made import two_readers

MIXED = [2.0, 0.5, -1.0]
POSITIVE = [2.0, 0.5, 1.0]


def folded(model, factors, **masks):
    """`({(layer, weight): [(role, factors)]}, {gate: factors that stay})`."""
    model.get_layer("gate").factor.assign(factors)
    decision = decided(model, **masks)
    folds = fold(decision)
    taken = {
        (layer.name, weight): [(role, v.tolist()) for role, v in factors]
        for layer, by_weight in folds.by_weight.items()
        for weight, factors in by_weight.items()
    }
    stay = {key.site.name: v.tolist() for key, v in folds.scales.items()}
    return taken, stay


def test_a_linear_layer_before_the_gate_takes_its_factors():
    assert folded(chain(), MIXED) == (
        {
            ("hidden", "kernel"): [("out", MIXED)],
            ("hidden", "bias"): [("out", MIXED)],
        },
        {},
    )


def test_a_layer_without_a_bias_has_none_to_scale():
    x = keras.Input((4,))
    h = L.Dense(3, use_bias=False, name="hidden")(x)
    h = kg.FilterGate(name="gate")(h)
    taken, _ = folded(keras.Model(x, L.Dense(2)(h)), MIXED)
    assert taken == {("hidden", "kernel"): [("out", MIXED)]}


def test_a_relu_passes_positive_factors_alone():
    taken, _ = folded(chain(activation="relu"), POSITIVE)
    assert taken["hidden", "kernel"] == [("out", POSITIVE)]
    taken, stay = folded(chain(activation="relu"), MIXED)
    assert taken == {("head", "kernel"): [("in", MIXED)]}
    assert stay == {}


def test_factors_pass_what_is_between():
    between = L.LeakyReLU(name="leaky"), L.Dropout(0.5, name="dropout")
    taken, _ = folded(chain(*between, activation="sigmoid"), POSITIVE)
    assert taken == {("head", "kernel"): [("in", POSITIVE)]}


def test_all_that_reads_a_gate_takes_its_factors():
    taken, stay = folded(two_readers(), MIXED)
    assert taken == {
        ("first", "kernel"): [("in", MIXED)],
        ("second", "kernel"): [("in", MIXED)],
    }
    assert stay == {}


def test_where_nothing_can_take_them_factors_stay():
    model = chain(activation="softmax", head=0)
    assert folded(model, MIXED) == ({}, {"gate": [MIXED]})


def test_all_readers_or_none():
    """A sigmoid scales no other way than its input, so nothing is taken."""
    x = keras.Input((4,))
    h = L.Dense(3, activation="relu", name="hidden")(x)
    h = kg.FilterGate(name="gate")(h)
    ends = [L.Dense(2, name="head")(h), L.Activation("sigmoid")(h)]
    taken, stay = folded(keras.Model(x, ends), MIXED)
    assert (taken, stay) == ({}, {"gate": [MIXED]})


def test_factors_of_1_need_no_place():
    assert folded(chain(activation="softmax"), [1.0, 1.0, 1.0]) == ({}, {})


def test_the_factor_of_a_channel_that_went_is_1():
    taken, _ = folded(chain(), MIXED, gate=[False, True, False])
    assert taken["hidden", "kernel"] == [("out", [2.0, 1.0, -1.0])]


def test_the_factor_of_a_closed_channel_that_stays_is_0():
    taken, _ = folded(chain(head=0), MIXED, gate=[False, True, False])
    assert taken["hidden", "kernel"] == [("out", [2.0, 0.0, -1.0])]


def test_a_layer_with_other_calls_takes_no_factors():
    """Its other call would be scaled as well, so those after the gate do."""
    x = keras.Input((4,))
    shared = L.Dense(3, name="hidden")
    h = kg.FilterGate(name="gate")(shared(x))
    ends = [L.Dense(2, name="head")(h), L.Dense(2, name="other")(shared(x))]
    taken, _ = folded(keras.Model(x, ends), MIXED)
    assert taken == {("head", "kernel"): [("in", MIXED)]}


def test_a_gate_after_each_call_of_a_layer_goes_into_it():
    x = keras.Input((4,))
    shared, gate = L.Dense(3, name="hidden"), kg.FilterGate(name="gate")
    ends = [L.Dense(2)(gate(shared(x))), L.Dense(2)(gate(shared(x)))]
    taken, _ = folded(keras.Model(x, ends), MIXED)
    assert taken == {
        ("hidden", "kernel"): [("out", MIXED)],
        ("hidden", "bias"): [("out", MIXED)],
    }


def test_two_gates_in_a_row_are_multiplied_one_after_the_other():
    second = kg.FilterGate(name="second")
    model = chain(second)
    second.factor.assign([3.0, 3.0, 3.0])
    taken, _ = folded(model, MIXED)
    each = [("out", MIXED), ("out", [3.0, 3.0, 3.0])]
    assert taken["hidden", "kernel"] == each


def test_a_closed_gamma_that_stays_is_0():
    """Its normalization stays; the gate's own weights are all gone."""
    x = keras.Input((4,))
    h = L.Dense(3, name="hidden")(x)
    h = L.BatchNormalization(name="norm")(h)
    decision = decided(keras.Model(x, h), norm=[False, True, False])
    norm = step_of(decision.labelling, "norm").call.op
    ((role, factors),) = fold(decision).factors_of(norm, "gamma")
    assert (role, factors.tolist()) == ("channel", [1.0, 0.0, 1.0])
    assert fold(decision).factors_of(norm, "beta") == ()


def test_folds_do_not_change():
    folds = fold(decided(chain()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        folds.scales = {}
