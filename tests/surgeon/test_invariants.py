"""Invariances: spelling, nesting, the order of channels, sharing."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from keras_gates import surgeon
from tests import helpers

SHAPE = (8, 8, 3)


def drawn(model, closed="half"):
    """Weights by position, so that two models of one form agree."""
    return helpers.randomize(model, 5, helpers.inputs_for(model), closed)


def sizes(model):
    """The shapes of all weights, whatever the order of the layers."""
    return sorted(tuple(w.shape) for w in model.weights)


def assert_prunes_alike(one, other):
    """Both are exact, and as small as each other."""
    pruned = []
    for model in (one, other):
        pruned.append(surgeon.prune(model, helpers.THRESHOLD))
        helpers.assert_same(model, pruned[-1])
    assert sizes(pruned[0]) == sizes(pruned[1])


# Spelling ------------------------------------------------------------------

LAYERS = {
    "add": lambda a, b: L.Add()([a, b]),
    "subtract": lambda a, b: L.Subtract()([a, b]),
    "multiply": lambda a, b: L.Multiply()([a, b]),
    "maximum": lambda a, b: L.Maximum()([a, b]),
    "concatenate": lambda a, b: L.Concatenate()([a, b]),
    "relu": lambda x: L.ReLU()(x),
    "tanh": lambda x: L.Activation("tanh")(x),
    "pool": lambda x: L.GlobalAveragePooling2D()(x),
    "flatten": lambda x: L.Flatten()(x),
    "transpose": lambda x: L.Permute((2, 1, 3))(x),
}
OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: ops.multiply(a, b),
    "maximum": lambda a, b: ops.maximum(a, b),
    "concatenate": lambda a, b: ops.concatenate([a, b], axis=-1),
    "relu": ops.relu,
    "tanh": ops.tanh,
    "pool": lambda x: ops.mean(x, axis=[1, 2]),
    "flatten": lambda x: ops.reshape(x, (-1, int(np.prod(x.shape[1:])))),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
}


def spelled(words, merge, squash, end):
    """One model in two spellings; its layers with weights are the same."""
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(8, 3, padding="same")(inputs)
    x = words["relu"](kg.FilterGate()(x))
    y = L.BatchNormalization()(kg.FilterGate()(L.Conv2D(8, 1)(x)))
    x = kg.FilterGate()(words[merge](x, words[squash](y)))
    x = L.Conv2D(6, 3, padding="same")(words["transpose"](x))
    return drawn(keras.Model(inputs, L.Dense(3)(words[end](x))))


@pytest.mark.parametrize("end", ["pool", "flatten"])
@pytest.mark.parametrize("squash", ["relu", "tanh"])
@pytest.mark.parametrize(
    "merge", ["add", "subtract", "multiply", "maximum", "concatenate"]
)
def test_layers_and_operations_are_alike(merge, squash, end):
    made = [spelled(w, merge, squash, end) for w in (LAYERS, OPERATIONS)]
    assert_prunes_alike(*made)


# Nesting -------------------------------------------------------------------


def block(x):
    y = L.Conv2D(8, 3, padding="same")(x)
    y = kg.FilterGate()(y)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.Conv2D(x.shape[-1], 3, padding="same")(y)
    return L.Add()([x, kg.LayerGate()(y)])


def stack(call):
    """Two residual blocks, each applied by `call(block, x)`."""
    inputs = keras.Input(SHAPE)
    x = kg.FilterGate()(L.Conv2D(8, 3, padding="same")(inputs))
    for _ in range(2):
        x = call(block, x)
    x = L.GlobalAveragePooling2D()(x)
    return drawn(keras.Model(inputs, L.Dense(3)(x)))


def nested(block, x):
    start = keras.Input(x.shape[1:])
    return keras.Model(start, block(start))(x)


def nested_deeply(block, x):
    return nested(lambda y: nested(block, y), x)


@pytest.mark.parametrize("call", [nested, nested_deeply])
def test_nested_and_inlined_are_alike(call):
    inlined = stack(lambda block, x: block(x))
    other = stack(call)
    # Nesting changes the order of the layers, and so that of the weights.
    for a, b in zip(ordered(inlined), ordered(other), strict=True):
        b.set_weights(a.get_weights())
    assert_prunes_alike(inlined, other)
    small = [surgeon.prune(m, helpers.THRESHOLD) for m in (inlined, other)]
    x = helpers.inputs_for(inlined)
    a, b = (helpers.run(model, x) for model in small)
    assert max(helpers.differences(a, b)) < helpers.RTOL


def ordered(model):
    """Layers with weights in the order in which they were made."""

    def number(layer):
        stem, _, tail = layer.name.rpartition("_")
        return (stem, int(tail)) if tail.isdigit() else (layer.name, -1)

    layers = [k for k in helpers.layers_of(model) if k.weights]
    return sorted(layers, key=number)


# Layouts -------------------------------------------------------------------


def in_layout(data_format):
    last = data_format == "channels_last"
    axis = -1 if last else 1
    layout = {"data_format": data_format}
    inputs = keras.Input(SHAPE if last else (3, 8, 8))
    x = L.Conv2D(8, 3, padding="same", **layout)(inputs)
    x = kg.FilterGate(axis)(x)
    x = L.ReLU()(L.BatchNormalization(axis)(x))
    y = L.DepthwiseConv2D(3, padding="same", **layout)(x)
    x = kg.FilterGate(axis)(L.Concatenate(axis)([x, y]))
    x = L.MaxPooling2D(2, **layout)(x)
    return keras.Model(inputs, L.Dense(3)(L.Flatten(**layout)(x)))


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow has no channels_first convolution on a CPU",
)
def test_layouts_are_alike():
    last, first = in_layout("channels_last"), in_layout("channels_first")
    drawn(last)
    first.set_weights(last.get_weights())
    small = [surgeon.prune(m, helpers.THRESHOLD) for m in (last, first)]
    assert sizes(small[0]) == sizes(small[1])
    x = helpers.inputs_for(last)
    expected = helpers.gated_outputs(last, x)
    for model, at in zip(small, (x, x.transpose(0, 3, 1, 2)), strict=True):
        got = helpers.run(model, at)
        assert max(helpers.differences(expected, got)) < helpers.RTOL


# Channels ------------------------------------------------------------------


def two_layers():
    inputs = keras.Input(SHAPE)
    x = L.Conv2D(8, 3, padding="same", name="first")(inputs)
    x = kg.FilterGate(name="gate")(x)
    x = L.ReLU()(L.BatchNormalization(name="norm")(x))
    x = L.Conv2D(5, 3, padding="same", name="second")(x)
    return drawn(keras.Model(inputs, L.Dense(3)(L.Flatten()(x))))


def test_the_order_of_channels_does_not_matter():
    one, other = two_layers(), two_layers()
    order = np.random.default_rng(0).permutation(8)
    for name, axes in {
        "first": -1,
        "gate": -1,
        "norm": -1,
        "second": -2,
    }.items():
        arrays = one.get_layer(name).get_weights()
        if name == "second":
            arrays[0] = arrays[0].take(order, axes)
        else:
            arrays = [array.take(order, axes) for array in arrays]
        other.get_layer(name).set_weights(arrays)
    assert_prunes_alike(one, other)
    x = helpers.inputs_for(one)
    a, b = (
        helpers.run(surgeon.prune(m, helpers.THRESHOLD), x)
        for m in (one, other)
    )
    assert max(helpers.differences(a, b)) < helpers.RTOL


# Sharing -------------------------------------------------------------------


def test_shared_layers_stay_shared():
    inputs = [keras.Input((6,), name="a"), keras.Input((6,), name="b")]
    tower = L.Dense(8, activation="relu", name="tower")
    gate = kg.FilterGate(name="gate")
    parts = [gate(tower(x)) for x in inputs]
    outputs = {"score": L.Dense(1, name="score")(L.Concatenate()(parts))}
    model = drawn(keras.Model(dict(zip("ab", inputs, strict=True)), outputs))
    pruned = surgeon.prune(model, helpers.THRESHOLD)
    helpers.assert_same(model, pruned)
    layers = {layer.name: layer for layer in helpers.layers_of(pruned)}
    assert layers["tower"].units < 8
    assert len(layers["tower"]._inbound_nodes) == 2
    assert pruned.output_names == ["score"]
    assert set(pruned.input) == {"a", "b"}


# Sizes ---------------------------------------------------------------------


def test_closing_more_removes_more():
    """With gates that nothing couples, each closed channel goes."""
    widths = []
    model = two_layers()
    model.get_layer("gate").factor.assign(np.linspace(0.05, 0.75, 8))
    for threshold in (0.0, 0.1, 0.3, 0.5, 0.7):
        pruned = surgeon.prune(model, threshold)
        helpers.assert_same(model, pruned, threshold=threshold)
        widths.append(pruned.get_layer("first").filters)
    # One of the closed channels stays, to hold the constants of them all
    # for the zero border of the second convolution.
    assert widths == [8, 8, 6, 4, 2]
