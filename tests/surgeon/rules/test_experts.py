"""Experts: a kernel for each, in one weight, by `einsum` or `matmul`.

The hidden channels of all experts go together. The truth is the user's own
model with them at zero, and NumPy.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

EXPERTS, WIDTH, HIDDEN, STEPS = 3, 6, 8, 4


@keras.saving.register_keras_serializable("tests")
class Experts(L.Layer):
    """A mixture of experts, with weights of its own."""

    def __init__(self, way, hidden=HIDDEN, **kwargs):
        super().__init__(**kwargs)
        self.way, self.hidden = way, hidden
        self.router = L.Dense(EXPERTS, name="router")

    def build(self, shape):
        up, down = (shape[-1], self.hidden), (self.hidden, shape[-1])
        self.w1 = self.add_weight((EXPERTS, *up), name="w1")
        if self.way.startswith("of"):
            self.b1 = self.add_weight((EXPERTS, self.hidden), name="b1")
        self.w2 = self.add_weight((EXPERTS, *down), name="w2")
        self.router.build(shape)

    def call(self, x):
        return WAYS[self.way](self, x)

    def get_config(self):
        config = {"way": self.way, "hidden": self.hidden}
        return {**super().get_config(), **config}


def of_samples(layer, x):
    h = ops.relu(ops.einsum("bd,ndh->bnh", x, layer.w1) + layer.b1)
    y = ops.einsum("bnh,nhd->bnd", h, layer.w2)
    return ops.einsum("bnd,bn->bd", y, ops.softmax(layer.router(x)))


def of_tokens(layer, x):
    h = ops.gelu(ops.einsum("btd,ndh->btnh", x, layer.w1) + layer.b1)
    y = ops.einsum("btnh,nhd->btnd", h, layer.w2)
    shares = ops.softmax(layer.router(x))
    return ops.sum(y * shares[..., None], axis=2)


def dispatched(layer, x):
    """Each sample goes to one expert."""
    chosen = ops.one_hot(ops.argmax(layer.router(x), axis=-1), EXPERTS)
    y = ops.einsum("bd,bn->bnd", x, chosen)
    h = ops.silu(ops.einsum("bnd,ndh->bnh", y, layer.w1))
    return ops.sum(ops.einsum("bnh,nhd->bnd", h, layer.w2), axis=1)


def summed(layer, x):
    """The second kernel sums over experts as well: these could be heads."""
    h = ops.einsum("bd,ndh->bnh", x, layer.w1)
    h = ops.relu(h) * ops.softmax(layer.router(x))[..., None]
    return ops.einsum("bnh,nhd->bd", h, layer.w2)


WAYS = {f.__name__: f for f in (of_samples, of_tokens, dispatched, summed)}


def model_of(way):
    inputs = keras.Input((STEPS, 5) if way == "of_tokens" else (5,))
    x = L.Dense(WIDTH, activation="tanh", name="stem")(inputs)
    x = L.Add()([x, Experts(way, name="experts")(x)])
    return helpers.randomize(keras.Model(inputs, L.Dense(2, name="end")(x)))


@pytest.mark.parametrize("way", [w for w in WAYS if w != "summed"])
def test_hidden_channels_go_from_all_experts(way):
    model = model_of(way)
    scores = kg.surgeon.score(model, "l2")
    (name,) = (n for n in scores if n != "stem")
    assert scores[name].shape == (HIDDEN,)
    closed = np.arange(HIDDEN) % 2
    plan = kg.surgeon.plan(model, 0.5, scores={name: closed})
    small = plan.apply()
    x = helpers.inputs_for(model)
    assert max(plan.verify(small, x).values()) < helpers.RTOL
    # The class came back, with a smaller config.
    experts = small.get_layer("experts")
    assert isinstance(experts, Experts) and experts.hidden == HIDDEN // 2
    rows = model.get_layer("experts").w2
    rows.assign(helpers.numpy_of(rows) * closed[:, None])
    (truth,), (got,) = helpers.run(model, x), helpers.run(small, x)
    np.testing.assert_allclose(got, truth, atol=helpers.RTOL)


@pytest.mark.parametrize("way", WAYS)
def test_channels_that_experts_read_and_give_go(way):
    model = model_of(way)
    scores = {"stem": np.arange(WIDTH) % 2}
    plan = kg.surgeon.plan(model, 0.5, scores=scores)
    small = plan.apply()
    assert max(plan.verify(small, helpers.inputs_for(model)).values()) < 2e-6
    assert small.get_layer("stem").units == WIDTH // 2


def test_layers_of_keras_with_a_kernel_for_each_expert():
    inputs = keras.Input((EXPERTS, 5))
    x = L.EinsumDense("bnc,ncd->bnd", (EXPERTS, 8), bias_axes="nd", name="up")(
        inputs
    )
    x = kg.FilterGate(name="gate")(L.ReLU()(x))
    x = L.EinsumDense("bnd,nde->bne", (EXPERTS, 4), name="down")(x)
    model = keras.Model(inputs, L.Flatten()(L.Dense(2)(x)))
    helpers.randomize(model)
    model.get_layer("gate").factor.assign([0, 1.5, 0, -0.7, 1, 0, 1, 1])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("up").kernel.shape == (EXPERTS, 5, 5)
    assert small.get_layer("down").kernel.shape == (EXPERTS, 5, 4)


def test_constants_before_experts_go_into_a_bias_for_each():
    """Closed before a shift, channels are constants, not zeros."""
    inputs = keras.Input((EXPERTS, 5))
    x = kg.FilterGate(name="gate")(L.Dense(6, name="stem")(inputs))
    x = L.BatchNormalization()(x)
    x = L.EinsumDense("bnc,ncd->bnd", (EXPERTS, 4), name="experts")(x)
    model = helpers.randomize(keras.Model(inputs, L.Dense(2)(x)))
    model.get_layer("gate").factor.assign([0, 1, 1, 0, 0, -2])
    small = kg.surgeon.prune(model, 0.5)
    helpers.assert_same(model, small, helpers.inputs_for(model))
    assert small.get_layer("stem").units == 3
    assert small.get_layer("experts").bias.shape == (EXPERTS, 4)


def test_channels_along_the_letter_of_experts_stay():
    """There are as many experts as before."""
    inputs = keras.Input((5,))
    x = L.Dense(EXPERTS, activation="relu", name="stem")(inputs)
    x = L.Reshape((EXPERTS, 1))(x)
    x = L.EinsumDense("bnc,ncd->bnd", (EXPERTS, 4), name="experts")(x)
    x = L.Dense(2)(L.Flatten()(x))
    model = helpers.randomize(keras.Model(inputs, x))
    scores = kg.surgeon.score(model, "l2")
    assert "stem" not in scores and scores["experts"].shape == (4,)
