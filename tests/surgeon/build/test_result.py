"""The pruned model is an ordinary Keras model."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates.surgeon import prune
from tests import helpers
from tests.surgeon import small_models as sm
from tests.surgeon.results import parts_of
from tests.surgeon.results import same
from tests.surgeon.results import weights_of

T = helpers.THRESHOLD


# Every model ---------------------------------------------------------------


@pytest.mark.parametrize("make", sm.MODELS)
def test_nothing_but_stock_keras_is_left(make):
    small = prune(make(), T)
    for part in parts_of(small):
        assert type(part).__module__.split(".")[0] == "keras", part
    assert not small.compiled
    assert type(small) in (keras.Sequential, keras.Model, type(keras_model()))


def keras_model():
    inputs = keras.Input((1,))
    return keras.Model(inputs, inputs)


@pytest.mark.parametrize("make", sm.MODELS)
def test_layers_keep_their_names_and_their_settings(make):
    model = make()
    small = prune(model, T)
    assert small.name == model.name
    before = {layer.name: layer for layer in parts_of(model)}
    for layer in parts_of(small):
        if isinstance(layer, keras.Layer):
            # A shared gate leaves a Rescaling at each call of it.
            name = layer.name
            name = name if name in before else name.removesuffix("_1")
            assert name in before, f"'{layer.name}' is new"
            same_class = type(before[name]) is type(layer)
            assert same_class or type(layer) is L.Rescaling


@pytest.mark.parametrize("make", sm.MODELS)
def test_inputs_and_outputs_keep_names_shapes_and_structure(make):
    model = make()
    small = helpers.functional(prune(model, T))
    model = helpers.functional(model)
    for struct in ("_inputs_struct", "_outputs_struct"):
        old, new = getattr(model, struct), getattr(small, struct)
        keras.tree.assert_same_structure(old, new)
        pairs = map(keras.tree.flatten, (old, new))
        for before, after in zip(*pairs, strict=True):
            assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert small.output_names == model.output_names
    names = [
        [layer.name for layer in m.operations if type(layer) is L.InputLayer]
        for m in (model, small)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("make", sm.MODELS)
def test_it_can_be_cloned_saved_and_loaded(make, tmp_path):
    small = prune(make(), T)
    x = helpers.inputs_for(small)
    expected = helpers.run(small, x)
    path = tmp_path / "small.keras"
    small.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(small)
    assert same(expected, helpers.run(loaded, x))
    clone = keras.models.clone_model(small)
    clone.set_weights(small.get_weights())
    assert same(expected, helpers.run(clone, x))


@pytest.mark.parametrize("make", sm.MODELS)
def test_pruning_leaves_the_original_alone(make):
    model = make()
    before = helpers.fingerprint(model)
    prune(model, T)
    assert helpers.fingerprint(model) == before


# The shape of models --------------------------------------------------------


def test_a_sequential_stays_one():
    small = prune(sm.sequential(), T)
    assert type(small) is keras.Sequential
    assert [x.name for x in small.layers] == ["hidden", "dropout", "out"]


def test_a_sequential_that_is_no_chain_any_more_says_what_it_is():
    """A gather stands in no Sequential: it is not a layer."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kg.FilterGate(name="gate"),
            L.Dense(4, activation="tanh", name="hidden"),
        ]
    )
    helpers.randomize(model)
    small = prune(model, T)
    helpers.assert_same(model, small)
    assert not isinstance(small, keras.Sequential)


def test_nested_models_stay_nested_and_shared():
    model = sm.siamese()
    small = prune(model, T)
    tower = small.get_layer("tower")
    assert type(tower) is keras.Sequential
    assert [x.name for x in tower.layers] == ["hidden", "code"]
    assert sum(layer is tower for layer in small.layers) == 1
    assert len(small.trainable_weights) == 4
    helpers.assert_same(model, small)


def test_shared_layers_stay_shared():
    small = prune(sm.shared(), T)
    hidden = small.get_layer("hidden")
    assert len(hidden._inbound_nodes) == 2
    assert len(small.trainable_weights) == 6


STRUCTURES = [
    lambda a, b: [a, b],
    lambda a, b: (a, b),
    lambda a, b: {"one": a, "two": b},
    lambda a, b: {"pair": [a, b]},
    lambda a, b: [a, {"other": b}],
]


@pytest.mark.parametrize("out", STRUCTURES)
@pytest.mark.parametrize("into", STRUCTURES)
def test_any_structure_of_inputs_and_outputs(into, out):
    inputs = [keras.Input((5,), name=name) for name in ("one", "two")]
    hidden = [L.Dense(6, activation="tanh")(x) for x in inputs]
    gated = kg.FilterGate()(L.Add()(hidden))
    outputs = [L.Dense(2, name="logits")(gated), hidden[0]]
    model = helpers.randomize(keras.Model(into(*inputs), out(*outputs)))
    small = prune(model, T)
    got = small(helpers.inputs_for(model), training=False)
    keras.tree.assert_same_structure(got, out(0, 0))
    helpers.assert_same(model, small)


def with_layers(inputs):
    x = L.Dense(8, name="a")(inputs)
    x = L.ReLU()(kg.FilterGate(name="g")(x))
    y = kg.FilterGate(name="h")(L.Dense(8, name="b")(inputs))
    x = L.Concatenate()([L.Add()([x, y]), L.Multiply()([x, y])])
    return L.Dense(3, name="out")(L.Reshape((16,))(x))


def with_operations(inputs):
    x = L.Dense(8, name="a")(inputs)
    x = ops.relu(kg.FilterGate(name="g")(x))
    y = kg.FilterGate(name="h")(L.Dense(8, name="b")(inputs))
    x = ops.concatenate([x + y, x * y], axis=-1)
    return L.Dense(3, name="out")(ops.reshape(x, (-1, 16)))


def test_layers_and_operations_are_pruned_alike():
    results = []
    for spelling in (with_layers, with_operations):
        inputs = keras.Input((5,))
        model = keras.Model(inputs, spelling(inputs))
        # Drawn in the order of the layers, so equal for both.
        rng = np.random.default_rng(0)
        for name in ("a", "b", "out"):
            for weight in model.get_layer(name).weights:
                weight.assign(rng.normal(size=weight.shape))
        sm.set_gates(model, g=sm.half(8, 5), h=sm.half(8, 3))
        small = prune(model, T)
        helpers.assert_same(model, small)
        results.append(small)
    assert same(*map(weights_of, results))


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="run eagerly on a CPU, a plain channels_first Conv2D with 'same' "
    "padding and a bias differs from the same layer in a graph",
)
def test_channels_first():
    model = sm.convnet("channels_first")
    small = prune(model, T)
    helpers.assert_same(model, small)
    other = prune(sm.convnet(), T)
    assert [layer.name for layer in small.layers] == [
        layer.name for layer in other.layers
    ]
    assert small.count_params() == other.count_params()
