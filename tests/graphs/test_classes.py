"""A model of a custom class keeps its class and attributes."""

import contextlib
import re
import warnings

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import surgeon
from tests import helpers


class Counting(keras.Model):
    """Counts what it trains on, and adds to its loss."""

    def __init__(self, inputs, outputs, weight=1.0, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.weight = weight
        self.steps = []

    def compute_loss(self, *args, **kwargs):
        self.steps.append(1)
        return self.weight * super().compute_loss(*args, **kwargs)


class Chain(keras.Sequential):
    """A Sequential that adds nothing but a method."""

    def answer(self):
        return 42


class OfWidth(keras.Model):
    """Builds its own graph, so that no new model can be of its class."""

    def __init__(self, width):
        x = keras.Input((8,))
        super().__init__(x, body(x, width))

    def answer(self):
        return 42


class Doubling(OfWidth):
    def call(self, x, training=None, mask=None):
        return 2.0 * super().call(x)


def body(x, width=16):
    h = L.Dense(width, "relu", name="hidden")(x)
    return L.Dense(2, name="out")(kg.FilterGate(name="gate")(h))


def counting():
    x = keras.Input((8,))
    model = Counting(x, body(x), weight=3.0, name="counting")
    model.hidden = model.get_layer("hidden")
    model.pair = (model.get_layer("out"), "text")
    model.kernels = {"hidden": model.hidden.kernel}
    model.table = np.arange(3)
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((4, 8)), np.ones((4, 2)))
    return model


@contextlib.contextmanager
def told():
    """The user warnings within; Keras has others of its own."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield found


HALF = kg.Quantile(0.5)
TRANSFORMS = {
    "prune": lambda m: surgeon.prune(m, HALF),
    "prune, with its optimizer": lambda m: surgeon.prune(
        m, HALF, keep_optimizer=True
    ),
    "delete_channels": lambda m: surgeon.delete_channels(m, "hidden", [3]),
    "insert_gates": lambda m: kg.insert_gates(
        surgeon.prune(m, 0.0), filters=True
    ),
    "binarize": lambda m: kg.binarize(m, HALF),
    "fuse": kg.fuse,
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_class_and_what_is_on_the_model_stay(name):
    model = counting()
    held = sorted(vars(model))
    new = TRANSFORMS[name](model)
    assert type(new) is Counting
    assert new.weight == 3.0 and new.pair[1] == "text"
    assert new.hidden is new.get_layer("hidden") is not model.hidden
    assert new.pair[0] is new.get_layer("out")
    assert new.kernels["hidden"] is new.hidden.kernel
    assert new.table is not model.table
    assert new.steps == model.steps and new.steps is not model.steps
    if not new.compiled:
        new.compile("sgd", "mse")
    new.train_on_batch(np.ones((4, 8)), np.ones((4, 2)))
    assert len(new.steps) > len(model.steps)
    assert sorted(vars(model)) == held


def test_a_chain_stays_of_its_class():
    model = Chain([keras.Input((8,)), L.Dense(16), kg.FilterGate(), L.Dense(2)])
    for new in (surgeon.prune(model, HALF), kg.binarize(model, HALF)):
        assert type(new) is Chain and new.answer() == 42


def test_a_nested_model_stays_of_its_class():
    x, y = keras.Input((8,)), keras.Input((8,))
    inner = Counting(x, body(x), weight=2.0)
    model = keras.Model(y, L.Dense(3)(inner(y)))
    new = surgeon.prune(model, HALF)
    found = next(x for x in new.layers if isinstance(x, keras.Model))
    assert type(found) is Counting and found.weight == 2.0


def test_a_warning_names_what_is_lost_with_the_class():
    model = OfWidth(16)
    with told() as found:
        small = surgeon.prune(model, HALF)
    assert re.search("OfWidth.*constructor.*`answer`", str(found[0].message))
    assert small.count_params() < model.count_params()


def test_a_warning_names_what_speaks_of_layers_that_went():
    model = counting()
    model.gates = [model.get_layer("gate")]
    with told() as found:
        small = surgeon.prune(model, HALF)
    (one,) = found
    assert "`gates` ('gate' is not in the new model)" in str(one.message)
    assert not hasattr(small, "gates")
    with told() as found:
        binary = kg.binarize(model, HALF)
    assert not found
    assert binary.gates[0] is binary.get_layer("gate")


PARTS = {
    "alone": lambda part: part,
    "in a list": lambda part: [part],
    "in a dict": lambda part: {"features": part},
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("how", PARTS)
def test_a_model_of_a_part_is_not_carried_at_its_old_size(name, how):
    """As encoders that a model is built on; a copy would hold its weights."""
    model = counting()
    hidden = model.get_layer("hidden")
    expected = TRANSFORMS[name](model)
    model.part = PARTS[how](keras.Model(model.inputs, hidden.output, name="p"))
    size = model.count_params()
    with told() as found:
        new = TRANSFORMS[name](model)
    assert "`part` (model 'p' is a part of" in str(found[-1].message)
    assert not hasattr(new, "part")
    assert new.count_params() == expected.count_params()
    assert model.count_params() == size


def test_a_call_of_its_own_is_not_lost_in_silence():
    with pytest.raises(ValueError, match="`call` of its class Doubling"):
        surgeon.prune(Doubling(16), HALF)


def test_a_nested_model_with_a_call_of_its_own_is_kept_whole():
    y = keras.Input((8,))

    class Tripling(keras.Model):
        def call(self, x, training=None, mask=None):
            return 3.0 * super().call(x)

    x = keras.Input((4,))
    inner = Tripling(x, L.Dense(4, "tanh")(x), name="inner")
    h = kg.FilterGate()(L.Dense(6)(inner(L.Dense(4)(y))))
    model = keras.Model(y, L.Dense(2)(h))
    model.layers[-2].factor.assign([0.0] * 3 + [1.0] * 3)
    small = surgeon.prune(model, 0.5)
    x = np.random.default_rng(0).normal(size=(8, 8))
    got, truth = (
        keras.ops.convert_to_numpy(m(x, training=False)) for m in (small, model)
    )
    # A handful of float32 operations in another order.
    np.testing.assert_allclose(got, truth, rtol=1e-5, atol=1e-6)


# Rules and classes ----------------------------------------------------------


def gated(gate):
    x = keras.Input((8,))
    model = keras.Model(x, L.Dense(2)(gate(L.Dense(8)(x))))
    gate.factor.assign([0.0] * 4 + [1.0] * 4)
    return model


class Named(kg.FilterGate):
    """A gate with no more than a name, and a method."""

    def open(self):
        return int((keras.ops.convert_to_numpy(self.factor) > 0).sum())


class Squared(kg.FilterGate):
    def call(self, inputs):
        return super().call(super().call(inputs))


class OfOtherShape(kg.FilterGate):
    def _broadcastable(self, factor, input_shape):
        return 2.0 * super()._broadcastable(factor, input_shape)


def test_a_subclass_of_a_gate_is_a_gate():
    model = gated(Named(name="mine"))
    assert surgeon.prune(model, 0.5).layers[1].units == 4


@pytest.mark.parametrize("cls", [Squared, OfOtherShape])
def test_a_subclass_that_computes_something_else_is_named(cls):
    with pytest.raises(
        ValueError, match=f"'mine' .of type {cls.__name__}.*reg"
    ):
        surgeon.prune(gated(cls(name="mine")), 0.5)


class OwnLambda(L.Lambda):
    pass


@pytest.mark.parametrize("cls", [L.Lambda, OwnLambda, L.Layer, keras.Model])
def test_a_class_of_many_functions_has_no_rule(cls):
    with pytest.raises(ValueError, match=f"{cls.__name__}.*keras.ops.*class"):
        surgeon.register(cls, surgeon.rules.Elementwise(kind="any"))


def test_a_lambda_in_the_way_says_what_to_do():
    x = keras.Input((8,))
    h = kg.FilterGate(name="gate")(L.Dense(8)(x))
    h = L.Lambda(helpers.noisy, lambda s: s)(h)
    model = keras.Model(x, L.Dense(2)(h))
    rows = surgeon.plan(model, 0.5).rows
    assert any("keras.ops" in why for row in rows for why in row.why)
