"""Groups that keep a layer from being rebuilt are left alone."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

WIDTH, STEPS = 8, 5
HALF = kg.Quantile(0.5, scope="gate")


@keras.saving.register_keras_serializable("tests.left_alone")
class Block(L.Layer):
    """The size of a head follows from their number: none can go alone."""

    def __init__(self, heads, inner, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.inner = heads, inner

    def build(self, shape):
        width = shape[-1]
        self.attention = L.MultiHeadAttention(
            self.heads, width // self.heads, name="attention"
        )
        self.attention.build(shape, shape)
        self.up = L.Dense(self.inner, activation="relu", name="up")
        self.up.build(shape)
        self.down = L.Dense(width, name="down")
        self.down.build((*shape[:-1], self.inner))

    def call(self, x):
        x = x + self.attention(x, x)
        return x + self.down(self.up(x))

    def get_config(self):
        config = {"heads": self.heads, "inner": self.inner}
        return {**super().get_config(), **config}


def network(blocks=2):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, WIDTH))
    x = inputs
    for number in range(blocks):
        x = Block(4, 12, name=f"block_{number}")(x)
    x = L.GlobalAveragePooling1D()(x)
    return helpers.randomize(keras.Model(inputs, L.Dense(3)(x)))


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, STEPS, WIDTH)).astype("float32")


def inside(scores):
    return {n: x for n, x in scores.items() if n.startswith("block_")}


def test_heads_are_left_alone_where_the_class_is_asked_for():
    model = network()
    scores = inside(kg.surgeon.score(model, "l2"))
    assert {n.rpartition("/")[-1] for n in scores} == {"heads", "up"}
    plan = kg.surgeon.plan(model, HALF, scores=scores, written_out=False)
    assert set(plan.closed) == {"block_0/up", "block_1/up"}
    (note,) = (n for n in plan.notes if "stay: without them" in n)
    assert "'block_0/attention/heads'" in note
    small = plan.apply()
    for number in range(2):
        block = small.get_layer(f"block_{number}")
        assert type(block) is Block
        assert (block.heads, block.inner) == (4, 6)
    assert max(kg.surgeon.verify(model, small, plan, data()).values()) < 1e-5


def test_heads_go_where_layers_may_be_written_out():
    model = network()
    scores = inside(kg.surgeon.score(model, "l2"))
    plan = kg.surgeon.plan(model, HALF, scores=scores)
    assert len(plan.closed) == 4
    small = plan.apply()
    assert not any(type(layer) is Block for layer in small.layers)
    assert max(kg.surgeon.verify(model, small, plan, data()).values()) < 1e-5


def test_nothing_is_left_where_all_is_in_the_way():
    model = network(1)
    scores = {
        n: x
        for n, x in inside(kg.surgeon.score(model, "l2")).items()
        if n.endswith("heads")
    }
    with pytest.raises(ValueError, match="'block_0' is kept whole"):
        kg.surgeon.plan(model, HALF, scores=scores, written_out=False)
