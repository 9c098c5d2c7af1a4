"""A layer without channels: refused with a remedy, or bypassed."""

import warnings

import keras
import numpy as np
import pytest

import keras_gates as kg
from tests import helpers

# What 70 % left of VGG-19's layers for a user of Network Slimming, whose
# next step was an IndexError: 1,651 of 5,504 channels.
LEFT = (45, 64, 128, 128, 256, 256, 249, 184, 36, 6, 2, 0, 0, 0, 5, 292)
CLOSED = {"batch_norm": 0.3}


def norms_of(model):
    kind = keras.layers.BatchNormalization
    return [x for x in helpers.layers_of(model) if isinstance(x, kind)]


def leave(norm, count, rng):
    """Gammas of which `count` are large."""
    size = norm.gamma.shape[0]
    gamma = np.where(np.arange(size) < count, rng.uniform(0.6, 1.5, size), 0.01)
    norm.gamma.assign(rng.permutation(gamma))


@pytest.fixture(scope="module")
def vgg():
    model = kg.zoo.vgg19(classifier_activation=None)
    rng = np.random.default_rng(0)
    for norm, count in zip(norms_of(model), LEFT, strict=True):
        leave(norm, count, rng)
        norm.beta.assign(rng.normal(0.1, 0.3, norm.beta.shape))
    return model


def test_the_collapsed_vgg_is_refused_by_name(vgg):
    assert sum(LEFT) == 1651
    # The first that is empty; the two after it are constant as it is.
    with pytest.raises(ValueError, match="'conv4_4_bn'.*keep_at_least=1"):
        kg.surgeon.plan(vgg, CLOSED)


@pytest.mark.slow
def test_with_a_floor_it_is_usable(vgg):
    plan = kg.surgeon.plan(vgg, CLOSED, keep_at_least=1)
    small = plan.apply()
    widths = [norm.gamma.shape[0] for norm in norms_of(small)]
    # One more may stay: the constants of all others, for the zero border.
    at_least = [max(1, count) for count in LEFT]
    assert all(
        low <= width <= low + 1
        for low, width in zip(at_least, widths, strict=True)
    )
    assert widths[-1] == LEFT[-1]  # Behind it there is no border.
    x = helpers.inputs_for(vgg)
    # Three layers of one channel each, with weights that were never trained.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`verify` can't tell")
        difference = kg.surgeon.verify(vgg, small, plan, x=x)
    assert max(difference.values()) < helpers.RTOL
    small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    history = small.fit(x, np.arange(4), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert any("keep_at_least" in note for note in plan.notes)


def residual(build, depth):
    model = build(depth, input_shape=(8, 8, 3), classifier_activation=None)
    return helpers.randomize(model)


@pytest.mark.parametrize(
    "build, depth, empty, gone",
    [
        (kg.zoo.resnet, 14, "stage2_block2_conv2_bn", 2),
        (kg.zoo.preact_resnet, 20, "stage2_block2_conv3_bn", 3),
        # What a 3x3 convolution makes of constants differs at the border.
        (kg.zoo.resnet, 14, "stage2_block2_conv1_bn", 0),
        (kg.zoo.preact_resnet, 20, "stage2_block2_conv1_bn", 0),
    ],
)
def test_a_shortcut_leads_round_an_empty_layer(build, depth, empty, gone):
    model = residual(build, depth)
    leave(model.get_layer(empty), 0, np.random.default_rng(0))
    plan = kg.surgeon.plan(model, {empty: 0.3})
    small = plan.apply()
    x = helpers.inputs_for(model)
    differences = kg.surgeon.verify(model, small, plan, x=x)
    assert max(differences.values()) < helpers.RTOL
    before, after = (
        sum(hasattr(layer, "filters") for layer in net.layers)
        for net in (model, small)
    )
    assert before - after == gone
    # It still tells one image from another.
    outputs = helpers.run(small, x)[0]
    assert outputs.std(0).max() > 1e-3 * np.abs(outputs).max()
