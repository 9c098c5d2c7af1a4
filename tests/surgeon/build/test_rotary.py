"""Heads of Llama's kind: turned by their places, keys shared by queries.

The rotary layer asks for a size that the model leaves open, so that what it is
made of is known for single sizes; it has no weights, and is called as it is.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

WIDTH, QUERIES, KEYS, SIZE = 12, 6, 3, 4
register = keras.saving.register_keras_serializable("tests.rotary")


@register
class Rotary(L.Layer):
    """Turns halves of the last axis by the place along the second."""

    def call(self, x):
        half = x.shape[-1] // 2
        places = ops.cast(ops.arange(ops.shape(x)[1]), "float32")
        rates = (10.0 ** -np.arange(half)).astype("float32")
        angles = ops.multiply(places[:, None], rates)
        angles = ops.concatenate([angles, angles], axis=-1)[None, :, None]
        first, second = ops.split(x, 2, axis=-1)
        other = ops.concatenate([-second, first], axis=-1)
        return x * ops.cos(angles) + other * ops.sin(angles)

    def compute_output_shape(self, shape):
        return shape


@register
class Decoder(L.Layer):
    """Attention to what came before.

    Args:
        queries: how many heads of queries.
        keys: how many of keys, each for several of queries.
        size: the size of a head; by default, what follows from the width.
    """

    def __init__(self, queries, keys, size=None, **kwargs):
        super().__init__(**kwargs)
        self.queries, self.keys, self.size = queries, keys, size
        self.rotary = Rotary(name="rotary")

    def build(self, shape):
        self.own = self.size or shape[-1] // self.queries

        def heads(name, count):
            layer = L.EinsumDense(
                "btm,mhd->bthd", (None, count, self.own), name=name
            )
            layer.build(shape)
            return layer

        self.query = heads("query", self.queries)
        self.key = heads("key", self.keys)
        self.value = heads("value", self.keys)
        self.out = L.EinsumDense("bthd,hdm->btm", (None, shape[-1]), name="out")
        self.out.build((*shape[:-1], self.queries, self.own))

    def call(self, x):
        steps = ops.shape(x)[1]
        q, k = self.rotary(self.query(x)), self.rotary(self.key(x))
        each = self.queries // self.keys
        k, v = (ops.repeat(y, each, axis=2) for y in (k, self.value(x)))
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) * self.own**-0.5
        seen = ops.arange(steps)[:, None] >= ops.arange(steps)[None, :]
        weights = ops.softmax(ops.where(seen[None, None], scores, -1e9))
        return x + self.out(ops.einsum("bhqk,bkhd->bqhd", weights, v))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        own = {"queries": self.queries, "keys": self.keys, "size": self.size}
        return {**super().get_config(), **own}


@register
class ByWidth(Decoder):
    """The size of its heads can't be told."""

    def get_config(self):
        config = super().get_config()
        del config["size"]
        return config


def model_of(decoder):
    x = keras.Input((None, WIDTH))
    y = L.GlobalAveragePooling1D()(decoder(x))
    model = keras.Model(x, L.Dense(2, name="logits")(y))
    return helpers.randomize(model, x=np.ones((2, 5, WIDTH), "float32"))


def plan_for(model):
    scores = kg.surgeon.score(model, "l2")
    ((name, values),) = scores.items()
    return name, kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)


@pytest.mark.parametrize("size", [SIZE, None])
def test_heads_go_and_the_class_stays(size):
    """A size that follows from the number is told from then on."""
    model = model_of(Decoder(QUERIES, KEYS, size, name="block"))
    name, plan = plan_for(model)
    small = plan.apply()
    block = small.get_layer("block")
    left = KEYS - len(plan.closed[name])
    assert 0 < left < KEYS
    own = SIZE if size else WIDTH // QUERIES
    assert type(block) is Decoder and (block.keys, block.size) == (left, own)
    assert block.queries == left * QUERIES // KEYS
    out = model.get_layer("block").out.kernel
    rows = helpers.numpy_of(out).copy()
    rows.reshape(KEYS, -1)[plan.closed[name]] = 0
    out.assign(rows)
    for steps in (5, 9):  # any number of them
        x = np.random.default_rng(steps).normal(size=(2, steps, WIDTH))
        x = x.astype("float32")
        want = helpers.numpy_of(model(x))
        np.testing.assert_allclose(helpers.numpy_of(small(x)), want, atol=1e-5)


def test_what_bars_is_named():
    model = model_of(ByWidth(QUERIES, KEYS, name="block"))
    before = helpers.weights_digest(model)
    scores = kg.surgeon.score(model, "l2")
    with pytest.raises(ValueError, match="no change of the sizes in its conf"):
        kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    assert helpers.weights_digest(model) == before
