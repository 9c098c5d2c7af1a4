"""Gates and scores on attention that can't do what they are for.

Each is told by name, and leaves the model as it was.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon import written_attention as wt

STEPS, WIDTH, HEADS, SIZE = wt.STEPS, wt.WIDTH, wt.HEADS, wt.SIZE


def model_of(attend):
    x = keras.Input((STEPS, WIDTH))
    y = L.GlobalAveragePooling1D()(attend(x))
    model = keras.Model(x, L.Dense(2, name="logits")(y))
    return helpers.randomize(model)


def joined(y):
    return ops.reshape(y, (-1, STEPS, y.shape[2] * y.shape[3]))


def gated_keys(x):
    """A gate on the keys of the weights, which are steps of time."""
    q, k, v = (wt.projected(x, name) for name in "qkv")
    weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    weights = kg.HeadGate(3, name="gate")(weights)
    return joined(ops.einsum("bhqk,bkhd->bqhd", weights, v))


def gated_queries(x):
    """A gate on the heads of queries, two of which share a head of keys."""
    q, k, v = wt.projected(x, "q", 6), wt.projected(x, "k"), None
    v = wt.projected(x, "v")
    y = ops.dot_product_attention(q, k, v)
    return joined(kg.HeadGate(2, name="gate")(y))


def masked_by_channels(x):
    """What may be seen depends on the channels themselves."""
    h = L.Dense(8, name="h")(x)
    q, k, v = (wt.projected(h, name) for name in "qkv")
    seen = ops.greater(ops.var(h, axis=-1), 0.3)[:, None, None]
    scores = ops.einsum("bqhd,bkhd->bhqk", q, k)
    weights = ops.softmax(ops.where(seen, scores, -1e9))
    return joined(ops.einsum("bhqk,bkhd->bqhd", weights, v))


def odd_rotary(x):
    """Sizes that go by pairs, and one that is left over."""

    def turned(y):
        a, b, rest = y[..., :2], y[..., 2:4], y[..., 4:]
        a, b = a * 0.6 - b * 0.8, b * 0.6 + a * 0.8
        return ops.concatenate([a, b, rest], axis=-1)

    def heads(name):
        return L.Reshape((STEPS, HEADS, 5))(L.Dense(HEADS * 5, name=name)(x))

    q, k, v = (heads(name) for name in "qkv")
    scores = ops.einsum("bqhd,bkhd->bhqk", turned(q), turned(k))
    return joined(ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v))


@pytest.mark.parametrize(
    ("attend", "factors", "told"),
    [
        (gated_keys, [1, 0, 1, 1, 0], "closed by 'gate' remove nothing"),
        (gated_queries, [1, 0, 1, 1, 0, 0], "coupled to them"),
    ],
)
def test_gates_that_can_remove_nothing_are_named(attend, factors, told):
    model = model_of(attend)
    model.get_layer("gate").factor.assign(factors)
    before = helpers.weights_digest(model)
    plan = kg.surgeon.plan(model, 0.5)
    assert any(told in note for note in plan.notes)
    assert max(plan.verify(plan.apply()).values()) < helpers.RTOL
    assert helpers.weights_digest(model) == before


def test_a_mask_that_depends_on_channels_keeps_them():
    model = model_of(masked_by_channels)
    before = helpers.weights_digest(model)
    with pytest.raises(ValueError, match="'h', whose channels can't be rem"):
        kg.surgeon.plan(model, 0.5, scores={"h": np.zeros(8)})
    assert helpers.weights_digest(model) == before


def test_heads_go_under_an_odd_rotary_size():
    """Its pairs matter to sizes; a head has all of them."""
    model = model_of(odd_rotary)
    scores = kg.surgeon.score(model, "l2")
    assert [len(values) for values in scores.values()] == [HEADS]
    plan = kg.surgeon.plan(model, kg.Quantile(0.4), scores=scores)
    small = plan.apply()
    assert small.get_layer("q").units == 2 * 5
    assert max(plan.verify(small).values()) < helpers.RTOL


@pytest.mark.parametrize("round_to", [2, 4])
def test_heads_are_not_rounded(round_to):
    """A kernel for heads that are left is as wide as their sizes make it."""
    x = keras.Input((STEPS, WIDTH))
    y = L.MultiHeadAttention(4, 4, name="mha")(x, x)
    y = L.GlobalAveragePooling1D()(y)
    model = helpers.randomize(keras.Model(x, L.Dense(2, name="logits")(y)))
    plan = kg.surgeon.plan(
        model,
        0.5,
        scores={"mha/heads": np.array([1.0, 0.0, 1.0, 1.0])},
        round_to=round_to,
    )
    assert plan.apply().get_layer("mha").num_heads == 3
