"""Channels that a move spreads: their groups, their gates, what goes.

The truth is the network called once more on the same layers, with the closed
channels multiplied by 0 where the map has an axis of them.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers

CHANNELS = 6
CLOSED = [1, 2, 4]
OPEN = [0, 3, 5]


def dense_to_map(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, activation="relu", name="fc")(x)
    y = at(make(L.Reshape, (4, 4, 6))(y))
    return x, make(L.Conv2D, 3, 3, padding="same")(y)


def generator(make, at):
    """DCGAN's: normalized and activated before it is a map."""
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, use_bias=False, name="fc")(x)
    y = make(L.LeakyReLU)(make(L.BatchNormalization)(y))
    y = at(make(L.Reshape, (4, 4, 6))(y))
    y = make(L.Conv2DTranspose, 5, 5, 2, padding="same", name="up")(y)
    y = make(L.LeakyReLU)(make(L.BatchNormalization)(y))
    return x, make(L.Conv2DTranspose, 1, 5, 2, activation="tanh")(y)


def normalized_as_a_map(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, name="fc")(x)
    y = make(L.BatchNormalization)(make(L.Reshape, (4, 4, 6))(y))
    return x, make(L.Conv2D, 3, 3)(at(make(L.ReLU)(y)))


def by_operation(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, activation="tanh", name="fc")(x)
    y = at(ops.reshape(y, (-1, 4, 4, 6)))
    return x, make(L.Conv2D, 3, 3)(y)


def pooled_map(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, activation="gelu", name="fc")(x)
    y = make(L.GlobalAveragePooling2D)(at(make(L.Reshape, (4, 4, 6))(y)))
    return x, make(L.Dense, 3)(y)


def sequence(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 5 * 6, activation="relu", name="fc")(x)
    y = at(make(L.Reshape, (5, 6))(y))
    return x, make(L.Dense, 3)(make(L.LSTM, 4)(y))


def pixel_shuffle(make, at):
    x = keras.Input((5, 5, 3))
    y = make(L.Conv2D, 24, 3, padding="same", activation="relu", name="fc")(x)
    y = make(L.Permute, (1, 3, 2, 4, 5))(make(L.Reshape, (5, 5, 2, 2, 6))(y))
    return x, make(L.Conv2D, 3, 3)(at(make(L.Reshape, (10, 10, 6))(y)))


def pixel_shuffle_of_pytorch(make, at):
    """Its channels are the slowest axis, and its factors the fastest."""
    x = keras.Input((5, 5, 3))
    y = make(L.Conv2D, 24, 3, padding="same", activation="relu", name="fc")(x)
    y = make(L.Permute, (1, 4, 2, 5, 3))(make(L.Reshape, (5, 5, 6, 2, 2))(y))
    return x, make(L.Conv2D, 3, 3)(at(make(L.Reshape, (10, 10, 6))(y)))


def activated_behind_the_shuffle(make, at):
    x = keras.Input((5, 5, 3))
    y = make(L.Conv2D, 24, 3, padding="same", name="fc")(x)
    y = make(L.Permute, (1, 3, 2, 4, 5))(make(L.Reshape, (5, 5, 2, 2, 6))(y))
    y = make(L.Activation, "sigmoid")(make(L.Reshape, (10, 10, 6))(y))
    return x, make(L.Conv2D, 3, 3)(at(y))


def channel_shuffle(make, at):
    """ShuffleNet's, of two groups: channels k and 6 + k go together."""
    x = keras.Input((5, 5, 3))
    y = make(L.Conv2D, 12, 1, activation="relu", name="fc")(x)
    y = make(L.Permute, (1, 2, 4, 3))(at(make(L.Reshape, (5, 5, 2, 6))(y)))
    return x, make(L.Conv2D, 3, 3)(make(L.Reshape, (5, 5, 12))(y))


def channels_first_map(make, at):
    x = keras.Input((10,))
    y = make(L.Dense, 4 * 4 * 6, activation="relu", name="fc")(x)
    y = at(make(L.Permute, (2, 3, 1))(make(L.Reshape, (6, 4, 4))(y)))
    return x, make(L.Conv2D, 3, 3)(y)


def even_and_odd(make, at):
    """An interleaved split, written as a reshape."""
    x = keras.Input((10,))
    y = make(L.Dense, 12, activation="relu", name="fc")(x)
    y = make(L.Reshape, (6, 2))(y)
    even, odd = at(y[:, :, 0]), at(y[:, :, 1])
    return x, make(L.Dense, 3)(even) + make(L.Dense, 3)(odd)


def joined_maps(make, at):
    """A reshaped layer that is added to a convolution: one group of both."""
    x = keras.Input((4, 4, 3))
    y = make(L.Dense, 4 * 4 * 6, name="fc")(make(L.Flatten)(x))
    z = make(L.Conv2D, 6, 1)(x)
    y = make(L.Add)([make(L.Reshape, (4, 4, 6))(y), z])
    return x, make(L.Conv2D, 3, 3)(at(make(L.ReLU)(y)))


def flattened(make, at):
    x = keras.Input((5, 5, 3))
    y = at(make(L.Conv2D, 6, 3, activation="relu", name="fc")(x))
    return x, make(L.Dense, 3)(make(L.Flatten)(y))


def there_and_back(make, at):
    x = keras.Input((4, 4, 3))
    y = at(make(L.Conv2D, 6, 1, activation="relu", name="fc")(x))
    y = make(L.Reshape, (4, 4, 6))(make(L.Reshape, (16, 6))(y))
    return x, make(L.Conv2D, 3, 3)(y)


NETWORKS = [
    *(dense_to_map, generator, normalized_as_a_map, by_operation, pooled_map),
    *(sequence, pixel_shuffle, pixel_shuffle_of_pytorch, channel_shuffle),
    *(activated_behind_the_shuffle, channels_first_map, even_and_odd),
    *(joined_maps, flattened, there_and_back),
]
all_networks = pytest.mark.parametrize(
    "network", NETWORKS, ids=lambda network: network.__name__
)


class Built:
    """A network, and the same layers called with closed channels at 0."""

    def __init__(self, network):
        self.network, self.layers = network, []
        self.model = keras.Model(*network(self.make, lambda x: x))
        helpers.randomize(self.model)

    def make(self, layer_class, *args, **kwargs):
        self.layers.append(layer_class(*args, **kwargs))
        return self.layers[-1]

    def masked(self, closed):
        own = iter(self.layers)
        mask = np.ones(CHANNELS, "float32")
        mask[closed] = 0
        inputs, outputs = self.network(
            lambda *args, **kwargs: next(own), lambda x: x * mask
        )
        return keras.Model(inputs, outputs)


def check(built, small):
    """The truth for `CLOSED`, with half of what `fc` puts out gone."""
    x = helpers.inputs_for(built.model)
    expected = helpers.run(built.masked(CLOSED), x)
    assert max(helpers.variation(expected)) > 1e-3
    assert max(helpers.differences(expected, helpers.run(small, x))) < 1e-5
    before, after = (m.get_layer("fc") for m in (built.model, small))
    assert after.bias is None or after.bias.shape[0] * 2 == before.bias.shape[0]
    assert after.kernel.shape[-1] * 2 == before.kernel.shape[-1]


@all_networks
def test_a_unit_of_a_group_is_a_channel_and_goes(network):
    built = Built(network)
    scores = {"fc": np.isin(np.arange(CHANNELS), OPEN) + 1.0}
    plan = kg.surgeon.plan(built.model, 1.5, scores=scores)
    assert plan.closed["fc"] == CLOSED
    small = plan.apply()
    check(built, small)
    assert small.count_params() == plan.params[1] < plan.params[0]
    assert max(kg.surgeon.verify(built.model, small, plan).values()) < 1e-5


@all_networks
@pytest.mark.parametrize("position", ["activation", "norm"])
def test_a_gate_has_a_factor_for_each_channel(network, position):
    built = Built(network)
    spec = {"position": position, "constraint": None}
    gated = kg.insert_gates(built.model, filters=spec)
    x = helpers.inputs_for(built.model)
    same = helpers.run(built.model, x), helpers.run(gated, x)
    assert max(helpers.differences(*same)) < 1e-6
    gate = helpers.gates_of(gated)[0]
    assert tuple(gate.factor.shape) == (CHANNELS,)
    if position == "activation" or network is not activated_behind_the_shuffle:
        gate.factor.assign(np.isin(np.arange(CHANNELS), OPEN) * 1.0)
        check(built, kg.surgeon.prune(gated, 0.5))


@pytest.mark.parametrize("criterion", kg.surgeon.scores.CRITERIA)
def test_every_criterion_scores_the_channels(criterion):
    # Nothing is ever zero after a LeakyReLU.
    model = Built(dense_to_map if criterion == "apoz" else generator).model
    x = helpers.inputs_for(model, batch=8)
    y = np.random.default_rng(0).normal(size=(8, *model.output_shape[1:]))
    found = kg.surgeon.score(model, criterion, (x, y), loss="mse")
    assert found["fc"].shape == (CHANNELS,)
    assert np.ptp(found["fc"]) > 0


def test_activations_are_means_over_the_positions():
    built = Built(dense_to_map)
    x = helpers.inputs_for(built.model, batch=20)
    found = kg.surgeon.score(built.model, "mean", x, normalize=None)["fc"]
    maps = keras.Model(built.model.inputs[0], built.layers[1].output)
    expected = np.abs(helpers.numpy_of(maps(x))).mean((0, 1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_are_means_over_the_units_of_a_channel():
    built = Built(dense_to_map)
    found = kg.surgeon.score(built.model, "l1", normalize=None)["fc"]
    made = np.abs(helpers.numpy_of(built.layers[0].kernel)).sum(0)
    read = np.abs(helpers.numpy_of(built.layers[2].kernel)).sum((0, 1, 3))
    members = [*made.reshape(16, CHANNELS), read]
    np.testing.assert_allclose(found, np.mean(members, axis=0), rtol=1e-5)


def test_a_gate_goes_into_a_nested_model():
    inner = keras.Input((5, 5, 24))
    y = L.Permute((1, 3, 2, 4, 5))(L.Reshape((5, 5, 2, 2, 6))(inner))
    shuffle = keras.Model(inner, L.Reshape((10, 10, 6))(y), name="shuffle")
    x = keras.Input((5, 5, 3))
    y = L.Conv2D(24, 3, padding="same", activation="relu", name="fc")(x)
    model = keras.Model(x, L.Conv2D(3, 3, name="head")(shuffle(y)))
    helpers.randomize(model)
    mask = np.isin(np.arange(CHANNELS), OPEN) * 1.0
    head = model.get_layer("head")
    y = shuffle(model.get_layer("fc").output) * mask.astype("float32")
    truth = keras.Model(model.inputs[0], head(y))
    inputs = helpers.inputs_for(model)
    expected = helpers.run(truth, inputs)
    gated = kg.insert_gates(model, filters=True)
    (gate,) = helpers.gates_of(gated)
    gate.factor.assign(mask)
    scores = {"fc": mask + 1}
    for small in (
        kg.surgeon.prune(gated, 0.5),
        kg.surgeon.prune(model, 1.5, scores=scores),
    ):
        got = helpers.run(small, inputs)
        assert max(helpers.differences(expected, got)) < 1e-5
        assert small.get_layer("fc").filters == 12


def test_what_is_read_as_a_map_and_as_units_is_cut_by_channels():
    x = keras.Input((10,))
    y = L.Dense(4 * 4 * 6, activation="relu", name="fc")(x)
    z = L.Conv2D(3, 3)(L.Reshape((4, 4, 6))(y))
    model = keras.Model(x, [z, L.Dense(2)(y)])
    helpers.randomize(model)
    scores = kg.surgeon.score(model, "l2")
    assert scores["fc"].shape == (CHANNELS,)
    plan = kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores)
    small = plan.apply()
    assert small.get_layer("fc").units == 48
    assert max(kg.surgeon.verify(model, small, plan).values()) < 1e-5
