"""Layers deleted, inserted and replaced; several jobs at once; APoZ.

The truth is a model built by hand out of the same weights.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import small_models as sm

S = kg.surgeon


def dense(*names, units=4):
    """A chain of layers of one width, randomized."""
    inputs = keras.Input((units,))
    x = inputs
    for name in names:
        x = L.Dense(units, activation="tanh", name=name)(x)
    return helpers.randomize(keras.Model(inputs, x, name="chain"))


def assert_chain(new, layers):
    """`new` computes what these layers do, one after the other."""
    x = helpers.inputs_for(new)
    expected = keras.ops.convert_to_tensor(x)
    for layer in layers:
        expected = layer(expected)
    got = helpers.run(new, x)
    # The same operations on the same numbers.
    assert max(helpers.differences([helpers.numpy_of(expected)], got)) < 1e-6


def layers_of(model, names):
    return [model.get_layer(name) for name in names.split()]


def built(layer, width=4, seed=5):
    layer.build((None, width))
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return layer


# One operation ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name, left", [("a", "b c"), ("b", "a c"), ("c", "a b")]
)
def test_a_layer_is_deleted(name, left):
    model = dense("a", "b", "c")
    new = S.delete_layer(model, model.get_layer(name))
    assert [x.name for x in new.layers[1:]] == left.split()
    assert_chain(new, layers_of(model, left))


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_layer_is_inserted_in_front(name):
    model, extra = dense("a", "b"), built(L.Dense(4, name="new"))
    new = S.insert_layer(model, model.get_layer(name), extra)
    order = ["a", "b"]
    order.insert(order.index(name), "new")
    assert [x.name for x in new.layers[1:]] == order
    own = {"new": extra, "a": model.layers[1], "b": model.layers[2]}
    assert_chain(new, [own[n] for n in order])


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_layer_is_replaced(name):
    model, extra = dense("a", "b"), built(L.Dense(4, name="new"))
    new = S.replace_layer(model, model.get_layer(name), extra)
    own = {"a": model.layers[1], "b": model.layers[2], name: extra}
    assert_chain(new, [own[n] for n in "ab"])


def test_a_new_layer_may_be_one_without_weights_yet():
    model = dense("a", "b")
    fresh = L.Dense(7, name="new")
    new = S.replace_layer(model, "b", fresh)
    assert new.output_shape == (None, 7)
    assert not fresh.built


def test_a_sequential_stays_one():
    new = S.delete_layer(sm.sequential(), "dropout")
    assert isinstance(new, keras.Sequential)
    assert [x.name for x in new.layers] == ["hidden", "gate", "out"]


def test_a_merge_is_replaced_with_all_its_inputs():
    model = sm.residual()
    new = S.replace_layer(model, "add1", L.Maximum(name="max"))
    x = helpers.inputs_for(model)
    assert not np.allclose(helpers.run(model, x)[0], helpers.run(new, x)[0])
    assert len(new.get_layer("max").input) == 2


def test_layers_of_nested_models_are_meant_too():
    model = sm.siamese()
    tower = model.get_layer("tower")
    extra = L.Dropout(0.5, name="new")
    new = S.insert_layer(model, tower.get_layer("code"), extra)
    names = [x.name for x in new.get_layer("tower").layers]
    assert names == ["hidden", "gate", "new", "code"]
    x = helpers.inputs_for(model)
    far = helpers.differences(helpers.run(model, x), helpers.run(new, x))
    assert max(far) == 0


# Some calls of a layer -------------------------------------------------------


def reused():
    """a, b, c, b, d."""
    inputs = keras.Input((4,))
    a, b, c, d = (L.Dense(4, activation="tanh", name=n) for n in "abcd")
    return helpers.randomize(keras.Model(inputs, d(b(c(b(a(inputs)))))))


@pytest.mark.parametrize(
    "indices, left", [(None, "acd"), ([0], "acbd"), ([1], "abcd")]
)
def test_calls_are_deleted(indices, left):
    model = reused()
    new = S.delete_layer(model, "b", node_indices=indices)
    assert_chain(new, [model.get_layer(n) for n in left])


def test_calls_are_counted_over_all_models_of_a_layer():
    model = reused()
    b = model.get_layer("b")
    b(keras.Input((4,)))  # the third call, in no model
    new = S.delete_layer(model, b, node_indices=[1])
    assert_chain(new, [model.get_layer(n) for n in "abcd"])
    with pytest.raises(ValueError, match=r"\[0, 1\]. Received: \[2\]"):
        S.delete_layer(model, b, node_indices=[2])


def test_a_layer_inserted_at_two_places_is_shared():
    model = reused()
    extra = built(L.Dense(4, name="new"))
    new = S.insert_layer(model, "b", extra)
    own = {n: model.get_layer(n) for n in "abcd"} | {"n": extra}
    assert_chain(new, [own[n] for n in "anbcnbd"])
    assert len([x for x in new.layers if x.name == "new"]) == 1


# Several jobs ----------------------------------------------------------------


def test_jobs_of_every_kind_at_once():
    model = dense("a", "b", "c", "d")
    extra = built(L.Dense(4, activation="relu", name="new"))
    surgeon = S.Surgeon(model)
    surgeon.add_job("delete_channels", model.get_layer("d"), channels=[0])
    surgeon.add_job("replace_layer", model.get_layer("b"), new_layer=extra)
    surgeon.add_job("delete_channels", model.get_layer("a"), channels=[1, -1])
    surgeon.add_job("delete_layer", model.get_layer("c"))
    new = surgeon.operate()
    assert [x.name for x in new.layers[1:]] == ["a", "new", "d"]
    a, d = (
        [helpers.numpy_of(w) for w in model.get_layer(n).weights] for n in "ad"
    )
    k, b = (helpers.numpy_of(w) for w in extra.weights)
    expected = [
        *(np.delete(w, [1, 3], -1) for w in a),
        *(np.delete(k, [1, 3], 0), b),
        *(np.delete(w, 0, -1) for w in d),
    ]
    for got, array in zip(new.weights, expected, strict=True):
        assert np.array_equal(helpers.numpy_of(got), array)


def test_a_surgeon_operates_again():
    model = dense("a", "b")
    surgeon = S.Surgeon(model)
    same = surgeon.operate()
    assert same is not model
    assert sm.same_weights(model, same)
    surgeon.add_job("insert_layer", "b", new_layer=built(L.Dense(4, name="n")))
    first, second = surgeon.operate(), surgeon.operate()
    assert sm.same_weights(first, second)
    assert first.get_layer("n") is not second.get_layer("n")


def test_model_and_new_layer_are_left_alone():
    model, extra = dense("a", "b"), built(L.Dense(4, name="new"))
    before = helpers.fingerprint(model)
    nodes = len(extra._inbound_nodes)
    new = S.replace_layer(model, "a", extra, copy=False)
    helpers.bump(new)
    assert helpers.fingerprint(model) == before
    assert len(extra._inbound_nodes) == nodes
    assert new.get_layer("new") is not extra


# What is refused -------------------------------------------------------------


@pytest.mark.parametrize(
    "job, options, error, words",
    [
        ("delete_all", {}, ValueError, "'delete_all' is no job. Expected one"),
        ("insert_layer", {}, ValueError, "needs `new_layer`"),
        ("delete_channels", {}, ValueError, "needs `channels`"),
        ("delete_layer", {"channels": [1]}, ValueError, "takes no `channels`"),
        ("replace_layer", {"new_layer": 3}, TypeError, "must be a Keras layer"),
        ("delete_layer", {"node_indices": [0, 0]}, ValueError, "duplicates"),
        ("delete_layer", {"node_indices": [7]}, ValueError, "must be among"),
    ],
)
def test_bad_jobs(job, options, error, words):
    surgeon = S.Surgeon(dense("a", "b"))
    with pytest.raises(error, match=words):
        surgeon.add_job(job, "a", **options)


def test_a_node_takes_one_job():
    surgeon = S.Surgeon(reused())
    surgeon.add_job("delete_layer", "b", node_indices=[0])
    surgeon.add_job("delete_layer", "b", node_indices=[1])
    with pytest.raises(
        ValueError, match="'b' already has a job at one of these"
    ):
        surgeon.add_job("insert_layer", "b", new_layer=L.ReLU())


@pytest.mark.parametrize(
    "layer", ["nowhere", dense("a").layers[1]], ids=["name", "layer"]
)
def test_layers_that_are_not_in_the_model(layer):
    model = dense("a", "b")
    with pytest.raises(ValueError, match="is not a layer of 'chain'"):
        S.delete_layer(model, layer)


def test_inputs_are_no_layers_to_operate_on():
    model = dense("a")
    with pytest.raises(ValueError, match="that is called on something"):
        S.delete_layer(model, model.layers[0])


def test_a_nested_model_as_a_whole_is_refused():
    with pytest.raises(ValueError, match="'tower' is a model in 'siamese'"):
        S.delete_layer(sm.siamese(), "tower")


def test_what_has_several_inputs_is_not_deleted():
    with pytest.raises(ValueError, match="'add1'.*one input.*this one has 2"):
        S.delete_layer(sm.residual(), "add1")


def test_a_layer_that_does_not_fit_any_more_is_named():
    model = sm.convnet()
    with pytest.raises(ValueError, match="layer 'gate1'.*8, 3.*8, 8"):
        S.delete_layer(model, "conv1")
    with pytest.raises(ValueError, match="layer 'gate'.*[(]None, 5"):
        S.replace_layer(sm.chain(), "hidden", L.Dense(5))


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="is not built"):
        S.Surgeon(keras.Sequential([L.Dense(2)]))


# Zeros -----------------------------------------------------------------------


def convnet(layout="channels_last", between=()):
    shape = (6, 7, 2) if layout == "channels_last" else (2, 6, 7)
    inputs = keras.Input(shape)
    x = L.Conv2D(4, 3, data_format=layout, name="conv")(inputs)
    for layer in between:
        x = layer(x)
    x = L.ReLU(name="relu")(x)
    x = L.Flatten()(x)
    model = keras.Model(inputs, L.Dense(2, name="out")(x))
    helpers.randomize(model)
    model.get_layer("conv").bias.assign([-9.0, 9.0, 0.0, 0.5])
    return model


def zeros(model, x, axis):
    y = keras.Model(model.input, model.get_layer("relu").output)
    y = np.moveaxis(helpers.run(y, x)[0], axis, -1)
    return (y == 0).reshape(-1, 4).mean(axis=0)


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_zeros_are_counted_behind_the_activation(layout):
    if layout == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no such convolutions on CPUs")
    model = convnet(layout)
    x = helpers.inputs_for(model, batch=70)  # three batches, one not full
    axis = -1 if layout == "channels_last" else 1
    got = S.get_apoz(model, model.get_layer("conv"), x)
    np.testing.assert_allclose(got, zeros(model, x, axis), rtol=1e-6)
    assert got[0] == 1
    assert got[1] == 0
    assert 0 < got[2] < 1


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[5 * index : 5 * index + 5], np.zeros(5)


def test_normalizations_and_datasets():
    model = convnet(between=[L.BatchNormalization()])
    x = helpers.inputs_for(model, batch=10)
    expected = zeros(model, x, -1)
    pairs = [(x[:5], None), (x[5:], None)]
    for data in (x, Batches(x), pairs):
        got = S.get_apoz(model, "conv", data)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_shared_layer_has_the_mean_over_its_calls():
    inputs = [keras.Input((3,)) for _ in range(2)]
    shared = L.Dense(5, activation="relu", name="shared")
    model = keras.Model(inputs, [shared(x) for x in inputs])
    helpers.randomize(model)
    x = helpers.inputs_for(model, batch=8)
    one, two = (
        S.get_apoz(model, shared, x, node_indices=[i]) for i in range(2)
    )
    assert not np.array_equal(one, two)
    both = S.get_apoz(model, "shared", x)
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-6)


def test_without_an_activation_there_is_nothing_to_count():
    model = convnet()
    with pytest.raises(ValueError, match="activation follows layer 'out'"):
        S.get_apoz(model, "out", helpers.inputs_for(model))


APOZ = [0.5, 0.6, 0.7, 0.995]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [3]),
        ({"cutoff_std": 0}, [2, 3]),
        ({"method": "absolute"}, [3]),
        ({"method": "absolute", "cutoff_absolute": 0.6}, [1, 2, 3]),
        ({"method": "both", "cutoff_absolute": 0.7}, [2, 3]),
        ({"method": "both", "cutoff_std": -1, "cutoff_absolute": 1}, [1, 2, 3]),
    ],
)
def test_many_zeros(options, expected):
    """Mean 0.69875 and deviation 0.1848: by hand."""
    assert S.high_apoz(APOZ, **options).tolist() == expected


def test_an_unknown_method():
    with pytest.raises(ValueError, match='must be "std", "absolute"'):
        S.high_apoz(APOZ, "most")
