"""What closing a part of one group does, against weights zeroed by hand."""

import json

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    h = L.Dense(8, activation="tanh", name="first")(x)
    h = L.Add(name="sum")([h, L.Dense(8, name="second")(h)])
    h = L.Dense(5, activation="relu", name="third")(h)
    return keras.Model(x, L.Dense(3, name="classes")(h), name="net")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)).astype("float32")
    return x, rng.integers(0, 3, 50)


def by_hand(model, names, closed, x):
    """The outputs with rows of kernels that read closed channels at zero."""
    readers = [model.get_layer(name) for name in names]
    before = [helpers.numpy_of(layer.kernel) for layer in readers]
    for layer, kernel in zip(readers, before, strict=True):
        kernel = kernel.copy()
        kernel[closed] = 0
        _ = layer.kernel.assign(kernel)
    told = helpers.predicted(model, x)
    for layer, kernel in zip(readers, before, strict=True):
        _ = layer.kernel.assign(kernel)
    return told


# A group, and what reads its channels: the sum ties the first two.
READERS = {"first": ["second", "third"], "third": ["classes"]}


def test_the_values_are_those_of_closed_channels(model, data):
    x, y = data
    scores = kg.surgeon.score(model)
    found = kg.surgeon.sensitivity(model, scores, data, shares=(0.4, 1))
    assert list(found.points) == list(READERS)
    assert found.sizes == {"first": 8, "third": 5}
    whole = (helpers.predicted(model, x).argmax(-1) == y).mean()
    assert found.whole == pytest.approx(whole)
    for name, readers in READERS.items():
        order = np.argsort(scores[name])
        for point, count in zip(found.points[name], (3, 8), strict=True):
            count = min(2 if name == "third" and count == 3 else count, 8)
            told = by_hand(model, readers, order[:count], x)
            assert point.closed == min(count, order.size)
            assert point.value == pytest.approx((told.argmax(-1) == y).mean())


def test_a_loss_and_a_function(model, data):
    x, y = data
    scores = {"third": kg.surgeon.score(model)["third"]}
    told = by_hand(model, ["classes"], np.argsort(scores["third"])[:2], x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = kg.surgeon.sensitivity(
        model, scores, data, metric="loss", loss=loss, shares=[0.4]
    )
    expected = float(loss(y, told))
    assert found.points["third"][0].value == pytest.approx(expected, rel=1e-5)

    def largest(labels, outputs):
        assert labels.shape == (50,)
        return outputs.max()

    found = kg.surgeon.sensitivity(
        model, scores, data, metric=largest, shares=[0.4], batch_size=7
    )
    assert found.metric == "largest"
    assert found.points["third"][0].value == pytest.approx(told.max(), rel=1e-5)


def test_it_prints_draws_and_goes_to_json(model, data):
    found = kg.surgeon.sensitivity(model, kg.surgeon.score(model), data)
    lines = str(found).splitlines()
    assert (
        lines[2].split()
        == "group channels 25% 50% 75%".replace("%", "% closed").split()
    )
    content = json.loads(found.to_json())
    assert content["points"]["first"][0]["closed"] == 2
    assert "<td" in found._repr_html_()
    axes = found.plot()
    assert len(axes.lines) == 3
    before = [helpers.numpy_of(w) for w in model.weights]
    for weight, was in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(helpers.numpy_of(weight), was)


BAD = {
    "shares": ({"shares": (0.5, 2)}, ValueError, "from 0 to 1"),
    "metric": ({"metric": "auc"}, TypeError, "function of labels"),
    "loss": ({"metric": "loss"}, ValueError, "loss=None.*Pass one loss"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(model, data, name):
    more, error, words = BAD[name]
    with pytest.raises(error, match=words):
        kg.surgeon.sensitivity(model, kg.surgeon.score(model), data, **more)


def test_bad_data_and_scores(model, data):
    scores = kg.surgeon.score(model)
    with pytest.raises(ValueError, match="accuracy needs"):
        kg.surgeon.sensitivity(model, scores, (data[0], data[0]))
    with pytest.raises(ValueError, match="scores"):
        kg.surgeon.sensitivity(model, {}, data)
    with pytest.raises(ValueError, match="nothing for 'other'"):
        kg.surgeon.sensitivity(model, {"other": np.ones(3)}, data)
