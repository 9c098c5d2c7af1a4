"""Keras' `Attention` and `AdditiveAttention`: layers without projections.

What they read goes with what makes it: channels of values, and of queries and
keys by pairs. The truth: the model whose kernels have zeros in the columns of
what is closed.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers

STEPS, WIDTH, SIZE, VALUES = 5, 8, 6, 4


def model_of(layer, keyed=True, mask=None, **call):
    """Attention between Dense layers; without keys, values are the keys."""
    x = keras.Input((STEPS, WIDTH), name="x")
    names = {"q": SIZE, "v": VALUES if keyed else SIZE, "k": SIZE}
    made = [L.Dense(names[n], name=n)(x) for n in ("qvk" if keyed else "qv")]
    inputs = [x]
    if mask:
        inputs.append(keras.Input((STEPS,), dtype="bool", name="mask"))
        call["mask"] = [None, inputs[1]] + [None] * keyed
    y = layer(made, **call)
    scores = None
    if call.get("return_attention_scores"):
        y, scores = y
    y = L.Flatten()(L.Dense(3, name="after")(y))
    outputs = L.Dense(2, name="logits")(y)
    outputs = outputs if scores is None else [outputs, scores]
    model = keras.Model(inputs if mask else x, outputs)
    data = inputs_of(model)
    return helpers.randomize(model, x=data if mask else data[0])


def inputs_of(model):
    random = np.random.default_rng(3)
    x = random.normal(size=(4, STEPS, WIDTH)).astype("float32")
    seen = np.arange(STEPS) < np.array([[2], [5], [3], [4]])
    return [x, seen][: len(model.inputs)]


def outputs_of(model):
    given = inputs_of(model)
    outputs = model(given if len(given) > 1 else given[0])
    return [helpers.numpy_of(y) for y in keras.tree.flatten(outputs)]


def shut(model, closed):
    """Zeros for what is closed: columns of kernels, and of biases."""
    for name, units in closed.items():
        names = ("q", "k") if name in ("q", "k") else (name,)
        for each in names:
            if each in [layer.name for layer in model.layers]:
                layer = model.get_layer(each)
                for weight in layer.weights:
                    value = helpers.numpy_of(weight).copy()
                    value[..., units] = 0
                    weight.assign(value)


CASES = {
    "dot": (lambda: L.Attention(name="attention"), {}, {"q", "v"}),
    "scaled": (
        lambda: L.Attention(use_scale=True, name="attention"),
        {},
        {"q", "v"},
    ),
    "causal": (
        lambda: L.Attention(name="attention"),
        {"use_causal_mask": True},
        {"q", "v"},
    ),
    "dropout": (
        lambda: L.Attention(dropout=0.3, name="attention"),
        {},
        {"q", "v"},
    ),
    "its scores": (
        lambda: L.Attention(name="attention"),
        {"return_attention_scores": True},
        {"q", "v"},
    ),
    "values are keys": (
        lambda: L.Attention(name="attention"),
        {"keyed": False},
        {"q"},
    ),
    "concat": (
        lambda: L.Attention(score_mode="concat", name="attention"),
        {},
        {"q", "v"},
    ),
    "additive": (
        lambda: L.AdditiveAttention(name="attention"),
        {},
        {"q", "v"},
    ),
    "additive without a scale": (
        lambda: L.AdditiveAttention(use_scale=False, name="attention"),
        {},
        {"q", "v"},
    ),
    "masked": (
        lambda: L.Attention(name="attention"),
        {"mask": True},
        {"q", "v"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_channels_go_and_the_layer_stays(case):
    make, options, groups = CASES[case]
    model = model_of(make(), **options)
    scores = kg.surgeon.score(model, "l2")
    scores.pop("after", None)
    assert scores.keys() == groups
    plan = kg.surgeon.plan(model, kg.Quantile(0.5, scope="gate"), scores=scores)
    small = plan.apply()
    assert type(small.get_layer("attention")) is type(make())
    assert small.get_layer("v").units < model.get_layer("v").units
    given = inputs_of(model)
    given = given if len(given) > 1 else given[0]
    assert max(plan.verify(small, given).values()) < helpers.RTOL
    closed = dict(plan.closed)
    if not options.get("keyed", True):
        closed["v"] = closed["q"]
    shut(model, closed)
    for want, got in zip(outputs_of(model), outputs_of(small), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)
