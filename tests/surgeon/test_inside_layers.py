"""All that works on a model works inside the layers that are seen through.

The truth is the same function built by hand of stock layers.
"""

import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests import own_layers

PAIRS = {
    "images": (own_layers.images, own_layers.plain_images),
    "sequences": (own_layers.sequences, own_layers.plain_sequences),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    """A model with layers of one's own, the same by hand, and inputs."""
    model, plain = (make() for make in PAIRS[request.param])
    x = np.random.default_rng(0).normal(size=(16, *model.inputs[0].shape[1:]))
    helpers.randomize(model, x=x.astype("float32"))
    plain.set_weights(model.get_weights())
    x = x.astype("float32")
    far = helpers.differences(helpers.run(model, x), helpers.run(plain, x))
    assert max(far) < 1e-5
    return model, plain, x


# Counts -----------------------------------------------------------------------


def test_counts_are_those_of_the_same_by_hand(pair):
    model, plain, _ = pair
    count, by_hand = kg.stats.count(model), kg.stats.count(plain)
    assert count.params == model.count_params() == by_hand.params
    assert count.trainable == by_hand.trainable
    assert count.macs == by_hand.macs
    assert not count.unknown
    sizes = [(x.params, x.macs, x.calls) for x in count.layers]
    assert sizes == [(x.params, x.macs, x.calls) for x in by_hand.layers]


def test_counts_are_those_of_the_plan(pair):
    model, _, _ = pair
    scores = kg.surgeon.score(model, "l2")
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    before, after = kg.stats.count(model), kg.stats.count(small)
    assert plan.params == (before.params, after.params)
    assert plan.macs == (before.macs, after.macs)
    assert after.params == small.count_params() < before.params
    compared = kg.stats.compare(model, small)
    assert compared.after.params == after.params


def test_rows_are_called_by_paths():
    names = [x.name for x in kg.stats.count(own_layers.images()).layers]
    assert names == [
        *("stem/conv", "stem/norm", "block/first/conv", "block/first/norm"),
        *("block/second", "twice/first/conv", "twice/first/norm"),
        *("twice/second", "linear/w", "scale/w", "logits"),
    ]


# Scores -----------------------------------------------------------------------

CRITERIA = ["l1", "l2", "fpgm", "batch_norm", "apoz", "mean", "taylor"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.filterwarnings("ignore:.*have no score by:UserWarning")
@pytest.mark.filterwarnings("ignore:All 'apoz' scores are equal:UserWarning")
def test_scores_are_those_of_the_same_by_hand(pair, criterion):
    model, plain, x = pair
    if criterion == "batch_norm" and len(model.inputs[0].shape) == 3:
        pytest.skip("no batch normalization")
    data, options = None, {}
    if criterion in ("apoz", "mean"):
        data = x
    if criterion == "taylor":
        y = np.random.default_rng(1).normal(
            size=(len(x), model.outputs[0].shape[1])
        )
        data, options = (x, y.astype("float32")), {"loss": "mse"}
    scores, by_hand = (
        kg.surgeon.score(m, criterion, data, **options) for m in (model, plain)
    )
    assert any("/" in name for name in scores)
    for own, other in zip(scores.values(), by_hand.values(), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=1e-6)


def test_random_scores_have_paths(pair):
    model, plain, _ = pair
    scores = kg.surgeon.score(model, "random", seed=3)
    assert scores.keys() == kg.surgeon.score(model, "l2").keys()
    by_hand = kg.surgeon.score(plain, "random", seed=3)
    for own, other in zip(scores.values(), by_hand.values(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    "ignore, left",
    [
        ("mix/wide", ["embed", "tower/net/wide", "tower/net/out"]),
        ("mix/*", ["tower/net/wide", "tower/net/out"]),
        ("tower", ["embed", "mix/wide"]),
        ("wide", ["embed", "tower/net/out"]),
        (own_layers.FeedForward, ["tower/net/wide", "tower/net/out"]),
        (L.Layer, None),
    ],
)
def test_what_is_inside_can_be_ignored(ignore, left):
    model = own_layers.sequences()
    if left is None:
        with pytest.raises(ValueError, match="leaves out all groups"):
            kg.surgeon.score(model, "l2", ignore=ignore)
        return
    assert list(kg.surgeon.score(model, "l2", ignore=ignore)) == left


def test_layers_inside_can_be_ignored_as_objects():
    model = own_layers.sequences()
    every = kg.surgeon.score(model, "l2")
    mix = model.get_layer("mix")
    inside = kg.surgeon.score(model, "l2", ignore=mix.parts[0])
    assert every.keys() - inside.keys() == {"mix/wide"}
    whole = kg.surgeon.score(model, "l2", ignore=[mix])
    assert every.keys() - whole.keys() == {"embed", "mix/wide"}
    with pytest.raises(ValueError, match="none of model"):
        kg.surgeon.score(model, "l2", ignore=L.Dense(3))
