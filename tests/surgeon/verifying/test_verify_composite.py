"""Composite layers: closed by what their factors are, never by raw weights."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon.rules import Composite
from keras_gates.surgeon.verify import closed_gates
from keras_gates.surgeon.verifying import closed_places
from keras_gates.surgeon.verifying import masked_run
from tests import helpers

T = 0.05


def hard(phi):
    """The hard concrete gate of Louizos et al.: zero at -9, a half at 0."""
    return ops.clip(ops.sigmoid(phi) * 1.2 - 0.1, 0, 1)


class Concrete(L.Layer):
    """Multiplies by factors that are a function of its weight."""

    def build(self, shape):
        self.phi = self.add_weight(
            shape=(shape[-1],), initializer="ones", name="phi"
        )

    def call(self, x):
        return x * hard(self.phi)


class Inside(Concrete):
    """With something after the gate; the value at zero is known."""

    def call(self, x):
        return ops.tanh(super().call(x))


class InsideUnsaid(Inside):
    """The same; the value at zero is not known."""


class Plain(Inside):
    """Something after the gate, whose factors are the weight itself."""

    def call(self, x):
        return ops.tanh(x * self.phi)


class Scalar(L.Layer):
    """One factor for the whole tensor."""

    def build(self, shape):
        self.phi = self.add_weight(shape=(), initializer="ones", name="phi")

    def call(self, x):
        return x * hard(self.phi)


def gate_of(layer, x, factor):
    make = kg.FilterGate if len(layer.phi.shape) else kg.BranchGate
    gate = make(name=layer.name)
    y = gate(x)
    gate.factor.assign(factor)
    return y


def behind(layer, x):
    return gate_of(layer, x, hard(layer.phi))


def inside(layer, x):
    return L.Activation("tanh", name=f"{layer.name}_t")(behind(layer, x))


def plain(layer, x):
    y = gate_of(layer, x, layer.phi)
    return L.Activation("tanh", name=f"{layer.name}_t")(y)


def phi(layer):
    return "filter", layer.phi


def phi_and_value(layer):
    return "filter", layer.phi, -9.0


kg.surgeon.register(Concrete, Composite(expand=behind, gate=phi))
kg.surgeon.register(Inside, Composite(expand=inside, gate=phi_and_value))
kg.surgeon.register(InsideUnsaid, Composite(expand=inside, gate=phi))
kg.surgeon.register(Plain, Composite(expand=plain, gate=phi))
kg.surgeon.register(
    Scalar,
    Composite(expand=behind, gate=lambda layer: ("branch", layer.phi, -9.0)),
)


def chain(make, sequential=False):
    """A layer between two others; half of its factors are far from zero."""
    layers = [
        keras.Input((8,)),
        L.Dense(8, name="first"),
        make(name="c"),
        L.Dense(2, name="out"),
    ]
    if sequential:
        model = keras.Sequential(layers)
    else:
        x = y = layers[0]
        for layer in layers[1:]:
            y = layer(y)
        y = L.Add()([y, L.Dense(2)(x)])
        model = keras.Model(x, y)
    helpers.randomize(model)
    layer = model.get_layer("c")
    half = np.where(np.arange(8) < 4, -1.9, 1.0)
    layer.phi.assign(half if len(layer.phi.shape) else -1.9)
    return model


def far(model, pruned, *args, **options):
    return max(kg.surgeon.verify(model, pruned, *args, **options).values())


def set_closed(layer, value, mask):
    """Close factors of a layer of the model itself, by hand."""
    layer.phi.assign(np.where(mask, value, helpers.numpy_of(layer.phi)))


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("make", [Concrete, Inside])
def test_factors_are_closed_and_not_the_weight(make, sequential):
    model = chain(make, sequential)
    # At -1.9 the factor is 0.056: open for T, and closed for 0.1.
    assert kg.surgeon.plan(model, T).closed == {"c": []}
    plan = kg.surgeon.plan(model, 0.1)
    assert plan.closed == {"c": [0, 1, 2, 3]}
    small = plan.apply()
    before = helpers.fingerprint(model)
    assert far(model, small, plan) < 1e-5
    assert helpers.fingerprint(model) == before
    x = helpers.inputs_for(model)
    set_closed(model.get_layer("c"), -9.0, np.arange(8) < 4)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    first = small.get_layer("first")
    first.bias.assign(helpers.numpy_of(first.bias) + 0.1)
    assert far(model, small, plan) > 1e-3


def test_a_scalar_gate():
    model = chain(Scalar)
    plan = kg.surgeon.plan(model, 0.1)
    assert plan.closed == {"c": [0]}
    small = plan.apply()
    assert far(model, small, plan) < 1e-5
    set_closed(model.get_layer("c"), -9.0, True)
    x = helpers.inputs_for(model)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_weight_itself():
    model = chain(Plain)
    model.get_layer("c").phi.assign([0.01] * 4 + [1.0] * 4)
    small = kg.surgeon.prune(model, T)
    assert far(model, small, T) < 1e-5


def test_what_nothing_says_is_asked_for():
    model = chain(InsideUnsaid)
    small = kg.surgeon.prune(model, 0.1)
    with pytest.raises(ValueError, match="'c' .of type InsideUnsaid.*value"):
        far(model, small, 0.1)
    # Where nothing of it is closed, nothing need be said.
    assert far(model, kg.surgeon.prune(model, T), T) < 1e-5


# In place, for `find_thresholds` -------------------------------------------


def test_in_place_they_are_closed_by_their_value():
    model = chain(Inside)
    masks = kg.surgeon.plan(model, 0.1).masks()
    x = helpers.inputs_for(model)
    (closing,) = closed_places.find(model, masks)
    before = helpers.numpy_of(model.get_layer("c").phi)
    with closed_gates(model, masks):
        np.testing.assert_allclose(
            helpers.run(model, x)[0],
            masked_run.outputs(model, [x], closing)[0],
            rtol=1e-5,
            atol=1e-6,
        )
    after = helpers.numpy_of(model.get_layer("c").phi)
    np.testing.assert_array_equal(before, after)


def test_a_search_speaks_of_factors():
    model = chain(Inside)
    seen = []

    def evaluate(model):
        values = helpers.numpy_of(hard(model.get_layer("c").phi))
        seen.append(int((values == 0).sum()))
        return 1.0 if seen[-1] <= 4 else 0.0

    found = kg.find_thresholds(model, evaluate, max_drop=0.1, keep_essential=0)
    assert found.thresholds["filter"] > 0.05
    assert max(seen) == 8 and 4 in seen
    with pytest.raises(ValueError, match="'c'.*value"):
        kg.find_thresholds(chain(Concrete), evaluate)


# What is inside of a layer -------------------------------------------------


class Two(L.Layer):
    """Two layers with a normalization, and channels between them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up = L.Dense(6, name=f"{self.name}_up")
        self.norm = L.BatchNormalization(name=f"{self.name}_norm")
        self.down = L.Dense(4, name=f"{self.name}_down")
        self.parts = (self.up, self.norm, self.down)

    def build(self, shape):
        for part in self.parts:
            part.build(shape)
            shape = part.compute_output_shape(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class WrongTwo(Two):
    """One whose `expand` forgets a part."""


def copies(layer, x, count=3):
    for part in layer.parts[:count]:
        new = type(part).from_config(part.get_config())
        x = new(x)
        new.set_weights(part.get_weights())
    return x


def without_norm(layer, x):
    for part in (layer.up, layer.down):
        new = type(part).from_config(part.get_config())
        x = new(x)
        new.set_weights(part.get_weights())
    return x


kg.surgeon.register(Two, Composite(expand=copies))
kg.surgeon.register(WrongTwo, Composite(expand=without_norm))


def two(make=Two, twice=False):
    x = keras.Input((5,))
    y = make(name="two")(x)
    y = make(name="again")(y) if twice else y
    model = keras.Model(x, L.Dense(2)(L.Dense(4)(y)))
    return helpers.randomize(model)


@pytest.mark.parametrize("twice", [False, True])
def test_scores_inside_of_a_layer(twice):
    model = two(twice=twice)
    scores = {"two_up": np.arange(6.0)}
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    assert small.get_layer("two_up").units == 3
    before = helpers.fingerprint(model)
    assert far(model, small, plan) < 1e-5
    assert helpers.fingerprint(model) == before
    x = helpers.inputs_for(model)
    # What is closed is what `down` reads.
    layer = model.get_layer("two")
    kernel = helpers.numpy_of(layer.down.kernel)
    layer.down.kernel.assign(np.where(np.arange(6)[:, None] < 3, 0, kernel))
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_gammas_inside_of_a_layer():
    model = two()
    norm = model.get_layer("two").norm
    norm.gamma.assign([0.01] * 3 + [1.0] * 3)
    plan = kg.surgeon.plan(model, {"batch_norm": T})
    masks = plan.masks()
    assert plan.closed == {"two_norm": [0, 1, 2]}
    small = plan.apply()
    assert far(model, small, plan) < 1e-5
    norm.gamma.assign([0.0] * 3 + [1.0] * 3)
    x = helpers.inputs_for(model)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    match = "'two_norm' is inside a layer"
    with pytest.raises(ValueError, match=match), closed_gates(model, masks):
        pass


def test_parts_that_are_not_the_layer_are_refused():
    model = two(WrongTwo)
    scores = {"two_up": np.arange(6.0)}
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    with pytest.raises(ValueError, match="'two' .of type WrongTwo.*expand"):
        far(model, small, plan)


# ResConv -------------------------------------------------------------------


def res_convs(shared=False, sequential=False):
    layers = [kg.ResConv(4, 3, activation="relu", name=n) for n in "abc"]
    if sequential:
        layers = [keras.Input((6, 6, 4)), *layers]
        layers += [L.GlobalAveragePooling2D(), L.Dense(2)]
        model = keras.Sequential(layers)
    else:
        x = keras.Input((6, 6, 4))
        y = layers[0](x)
        y = layers[0](y) if shared else y
        for layer in layers[1:]:
            y = layer(y)
        model = keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(y)))
    helpers.randomize(model, seed=3)
    for name, m in zip("abc", (0.01, 0.8, 0.02), strict=True):
        model.get_layer(name).m.assign(m)
        model.get_layer(name).g.assign(0.9)
    return model


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("sequential", [False, True])
def test_layer_scaling_factors(shared, sequential):
    model = res_convs(shared, sequential)
    plan = kg.surgeon.plan(model, {"layer": 0.1})
    small = plan.apply()
    before = helpers.fingerprint(model)
    assert far(model, small, plan) < 1e-5
    assert helpers.fingerprint(model) == before
    for name in "ac":
        model.get_layer(name).m.assign(0.0)
    x = helpers.inputs_for(model)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_gammas_and_factors_together(shared):
    model = res_convs(shared)
    model.get_layer("a").norm.gamma.assign([1.0, 0.01, 1.0, 0.01])
    norm = model.get_layer("b").norm
    norm.gamma.assign([0.01, 0.01, 1.0, 1.0])
    model.get_layer("a").m.assign(0.9)
    closed = {"layer": 0.1, "batch_norm": 0.1}
    plan = kg.surgeon.plan(model, closed)
    small = plan.apply()
    assert far(model, small, plan) < 1e-5
    norm.gamma.assign([0.0, 0.0, 1.0, 1.0])
    model.get_layer("a").norm.gamma.assign([1.0, 0.0, 1.0, 0.0])
    model.get_layer("c").m.assign(0.0)
    x = helpers.inputs_for(model)
    (expected,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_drop_betas_leaves_other_betas_alone():
    """A layer with a gate may have a weight of that name."""

    class Shifted(Concrete):
        def build(self, shape):
            super().build(shape)
            self.beta = self.add_weight(
                shape=(shape[-1],), initializer="ones", name="beta"
            )

        def call(self, x):
            return super().call(x) + self.beta

        def get_config(self):
            return super().get_config()

    def expand(layer, x):
        y = behind(layer, x)
        shift = L.BatchNormalization(scale=False, name=f"{layer.name}_shift")
        z = shift(y)
        zeros, ones = np.zeros(8), np.ones(8) - shift.epsilon
        beta = helpers.numpy_of(layer.beta)
        shift.set_weights([beta, zeros, ones])
        return z

    kg.surgeon.register(Shifted, Composite(expand=expand, gate=phi))
    model = chain(Shifted)
    closed = {"filter": 0.1}
    copy = kg.transforms.drop_betas(model, closed)
    np.testing.assert_array_equal(
        helpers.numpy_of(copy.get_layer("c").beta),
        helpers.numpy_of(model.get_layer("c").beta),
    )
