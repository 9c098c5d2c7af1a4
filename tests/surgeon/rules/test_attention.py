"""The channels that attention reads and returns, against the gated model."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon.examples import behind
from tests.surgeon.examples import find
from tests.surgeon.examples import front
from tests.surgeon.rules.test_rules import draw

STEPS, WIDTH = 6, 8


def multi(**config):
    return lambda: L.MultiHeadAttention(2, 3, **config)


def grouped(**config):
    return lambda: find("GroupQueryAttention")(3, 4, 2, **config)


LAYERS = {
    "plain": multi(),
    "no bias": multi(use_bias=False),
    "value_dim": multi(value_dim=5),
    "output_shape": multi(output_shape=6),
    "grouped": grouped(),
    "grouped no bias": grouped(use_bias=False),
}
if keras.backend.backend() == "jax":
    # Its attention refuses values of another width when it runs.
    del LAYERS["value_dim"]
CALLS = {
    "self": lambda f, a, b, c: f(a, a),
    "cross": lambda f, a, b, c: f(a, b),
    "keyed": lambda f, a, b, c: f(a, b, c),
    "key is query": lambda f, a, b, c: f(a, b, a),
    "by name": lambda f, a, b, c: f(value=b, query=a),
    "causal": lambda f, a, b, c: f(a, a, use_causal_mask=True),
    "masked": lambda f, a, b, c: f(
        a, b, attention_mask=np.tri(STEPS, dtype=bool)[None]
    ),
    "masked by a tensor": lambda f, a, b, c: f(
        a, b, attention_mask=ops.matmul(c, ops.swapaxes(c, 1, 2)) > 0
    ),
    "scores": lambda f, a, b, c: f(a, b, return_attention_scores=True),
}


def model_of(make, call):
    inputs = keras.Input((STEPS, 2))
    tensors = [front(inputs, f"front_{name}") for name in "abc"]
    layer = make()
    layer.name = "subject"
    y = call(layer, *tensors)
    y, *rest = y if isinstance(y, (list, tuple)) else [y]
    # All three are read, whatever the call does.
    rest += [L.Dense(2)(tensor) for tensor in tensors]
    return draw(keras.Model(inputs, [behind(y), *rest]))


def widths(model):
    subject = model.get_layer("subject")
    return {
        name: int(getattr(subject, f"_{name}_dense").kernel.shape[0])
        for name in ("query", "key", "value")
    } | {"out": int(subject._output_dense.kernel.shape[-1])}


PAIRS = [
    *[("plain", call) for call in CALLS],
    *[(name, call) for name in LAYERS for call in ("self", "keyed")][2:],
    ("grouped", "scores"),
]


@pytest.mark.parametrize("name, call", PAIRS)
def test_what_attention_reads_and_returns_is_cut(name, call):
    model = model_of(LAYERS[name], CALLS[call])
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    before, after = widths(model), widths(small)
    if name.startswith("grouped"):
        # The output is as wide as the query: what one needs, both have.
        assert after["query"] < before["query"]
        assert after["out"] == after["query"]
        return
    # Half is closed; without a bias one of the constants stays for all.
    left = WIDTH // 2 + ("no bias" in name)
    assert {after[n] for n in ("query", "key", "value")} == {left}
    kept = [0, 1, 4, 5]
    assert after["out"] == before["out"] - sum(i < before["out"] for i in kept)


def test_a_gate_before_attention_is_folded_into_its_kernels():
    inputs = keras.Input((STEPS, 8))
    x = kg.FilterGate(name="gate")(inputs)
    y = L.MultiHeadAttention(2, 3)(x, x)
    model = keras.Model(inputs, kg.FilterGate(name="after")(y))
    helpers.randomize(model, closed="none")
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert not any(isinstance(layer, L.Rescaling) for layer in small.layers)


def test_calls_with_and_without_a_key_are_cut_alike():
    inputs = keras.Input((STEPS, 2))
    a, b, c = (front(inputs, f"front_{name}") for name in "abc")
    shared = L.MultiHeadAttention(2, 3)
    y = [behind(shared(a, b)), behind(shared(c, b, a))]
    model = draw(keras.Model(inputs, y))
    helpers.assert_same(model, kg.surgeon.prune(model, helpers.THRESHOLD))


def test_an_output_of_two_axes_stays():
    inputs = keras.Input((STEPS, 2))
    x = front(inputs)
    layer = L.MultiHeadAttention(2, 3, output_shape=(4, 2), name="subject")
    model = draw(keras.Model(inputs, L.Flatten()(layer(x, x))))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert widths(small)["query"] == WIDTH // 2


def test_positions_of_more_than_one_axis():
    inputs = keras.Input((3, 4, 2))
    x = front(inputs)
    y = L.MultiHeadAttention(2, 3, attention_axes=(2,), name="subject")(x, x)
    model = draw(keras.Model(inputs, behind(y)))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, small)
    assert widths(small)["value"] == WIDTH // 2


def test_a_mask_that_comes_with_the_tensor():
    inputs = keras.Input((5,), dtype="int32")
    x = L.Embedding(10, 8, mask_zero=True)(inputs)
    x = kg.FilterGate(name="front")(x)
    y = L.MultiHeadAttention(2, 3, name="subject")(x, x)
    model = draw(keras.Model(inputs, behind(y)))
    small = kg.surgeon.prune(model, helpers.THRESHOLD)
    x = np.random.default_rng(0).integers(0, 8, (4, 5)).astype("int32")
    helpers.assert_same(model, small, x)
    assert widths(small)["value"] == WIDTH // 2


def test_scores_offer_the_channels_around_attention(tmp_path):
    inputs = keras.Input((STEPS, 4))
    x = L.Dense(8, name="before")(inputs)
    y = L.MultiHeadAttention(2, 3, output_shape=6, name="attention")(x, x)
    model = keras.Model(inputs, L.Dense(2)(y))
    helpers.randomize(model, closed="none")
    scores = kg.surgeon.score(model, "l2")
    assert set(scores) == {"before", "attention", "attention/heads"}
    rule = kg.Quantile(0.5, scope="gate")
    plan = kg.surgeon.plan(model, rule, scores=scores)
    small = plan.apply()
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
    assert small.get_layer("before").units == 4
    assert small.get_layer("attention")._output_dense.kernel.shape[-1] == 3
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    x = helpers.inputs_for(model)
    for a, b in zip(helpers.run(small, x), helpers.run(loaded, x), strict=True):
        np.testing.assert_array_equal(a, b)
