"""A rule for a layer of your own, and what happens without one."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.rules import Elementwise
from keras_gates.surgeon.rules import Linear
from keras_gates.surgeon.rules import PerChannel
from keras_gates.surgeon.rules import registered
from tests import helpers

PACKAGE = "keras_gates.tests"


@keras.saving.register_keras_serializable(PACKAGE)
class Shift(L.Layer):
    """Adds a vector."""

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def call(self, x):
        return x + self.shift


@keras.saving.register_keras_serializable(PACKAGE)
class Project(L.Layer):
    """A dense layer without a bias, with names of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        size = (shape[-1], self.width)
        self.matrix = self.add_weight(shape=size, name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable(PACKAGE)
class Swish(L.Layer):
    """An activation without weights."""

    def call(self, x):
        return x * ops.sigmoid(1.7 * x)


@keras.saving.register_keras_serializable(PACKAGE)
class Whitener(helpers.Opaque):
    """Mixes its channels; nobody registers it."""

    def build(self, shape):
        size = (shape[-1], shape[-1])
        self.mixture = self.add_weight(shape=size, name="mixture")

    def function(self, x):
        return ops.matmul(x, self.mixture)


@keras.saving.register_keras_serializable(PACKAGE)
class LoudDense(L.Dense):
    """A subclass may mean anything by its weights."""

    def call(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return ops.flip(super().call(x), -1)


class Unregistered(L.Layer):
    """For the errors."""


# What a user writes, once, next to the layers.
kg.surgeon.register(Shift, PerChannel("shift", axes={"shift": ("channel",)}))
kg.surgeon.register(
    Project,
    Linear(
        "projection",
        axes={"matrix": ("in", "out")},
        config={"width": "out"},
        scales={"in": {"matrix": "in"}, "out": {"matrix": "out"}},
        kernel="matrix",
        width="width",
    ),
)
kg.surgeon.register(Swish, Elementwise(passes="zero"))


def model_of(*layers):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, name="first"),
            kg.FilterGate(),
            *layers,
            L.Dense(3, name="last"),
        ]
    )
    return helpers.randomize(model)


def test_a_vector_of_weights_is_cut():
    model = model_of(Shift(name="subject"))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    left = small.get_layer("first").units
    assert left < 8
    assert small.get_layer("subject").shift.shape == (left,)


def test_a_kernel_is_cut_on_both_sides():
    model = model_of(Project(6, name="subject"), kg.FilterGate())
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    subject = small.get_layer("subject")
    assert subject.width < 6
    assert subject.matrix.shape == (
        small.get_layer("first").units,
        subject.width,
    )


def test_an_activation_carries_constants_on():
    model = model_of(Swish(), L.BatchNormalization(), Swish())
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.get_layer("first").units < 8


@pytest.mark.parametrize("make", [Whitener, lambda **k: LoudDense(4, **k)])
def test_a_layer_without_a_rule_is_kept_and_the_plan_says_so(make):
    model = model_of(make(name="subject"), L.Dense(6), kg.FilterGate())
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.get_layer("first").units == 8
    assert small.layers[-2].units < 6
    subject = model.get_layer("subject")
    row = next(
        row
        for row in kg.surgeon.plan(model, helpers.THRESHOLD).rows
        if row.layer == "subject"
    )
    why = " ".join(row.why)
    assert f"no rule for {type(subject).__name__}" in why
    assert "register" in why


def test_a_subclass_has_no_rule_of_its_parent():
    assert L.Dense in registered()
    assert LoudDense not in registered()


def test_registering_twice_is_refused():
    with pytest.raises(ValueError, match="Dense already has a rule.*subclass"):
        kg.surgeon.register(L.Dense, Elementwise())


@pytest.mark.parametrize("wrong", [Unregistered(), "Dense", None])
def test_only_classes_have_rules(wrong):
    with pytest.raises(TypeError, match="must be a class. Received"):
        kg.surgeon.register(wrong, Elementwise())


@pytest.mark.parametrize("wrong", [Elementwise, "elementwise", None, {}])
def test_only_rules_are_registered(wrong):
    with pytest.raises(TypeError, match="must be an instance of.*Rule"):
        kg.surgeon.register(Unregistered, wrong)
    assert Unregistered not in registered()


def test_weights_that_a_rule_does_not_name_are_refused():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Forgotten(Shift):
        pass

    kg.surgeon.register(Forgotten, PerChannel("forgotten"))
    model = model_of(Forgotten(name="subject"))
    with pytest.raises(ValueError, match="'subject'.*does not know: .*shift"):
        kg.surgeon.prune(model, helpers.THRESHOLD)


def test_config_keys_that_a_rule_does_not_name_are_refused():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Stubborn(Project):
        pass

    rule = Linear(
        "stubborn",
        axes={"matrix": ("in", "out")},
        kernel="matrix",
        width="width",
    )
    kg.surgeon.register(Stubborn, rule)
    model = model_of(Stubborn(6, name="subject"), kg.FilterGate())
    with pytest.raises(ValueError, match="'matrix' of layer 'subject'"):
        kg.surgeon.prune(model, helpers.THRESHOLD)


def test_without_a_bias_one_constant_input_stays_for_all():
    model = model_of(Shift(), Project(6, name="subject"))
    gate = helpers.gates_of(model)[0]
    gate.factor.assign(np.where(np.arange(8) < 5, 0.0, 1.0))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert small.get_layer("subject").matrix.shape == (4, 6)
