"""`to_resconv` against the model as it was, and against stock layers."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.layers import ResConv
from keras_gates.transforms import find_convolutions
from keras_gates.transforms import fuse
from keras_gates.transforms import to_resconv
from tests import helpers

BACKEND = keras.backend.backend()


def same(filters=4, taps=3, **options):
    return L.Conv2D(filters, taps, padding="same", **options)


def build(function, shape=(8, 7, 4)):
    inputs = keras.Input(shape)
    return helpers.randomize(keras.Model(inputs, function(inputs)))


def conv_bn_act(x):
    options = {"epsilon": 1e-4, "momentum": 0.8}
    x = same(4, name="one", use_bias=False)(x)
    x = L.ReLU()(L.BatchNormalization(**options)(x))
    x = same(6, strides=2, name="two", kernel_regularizer="l2")(x)
    return L.PReLU()(L.BatchNormalization(**options)(x))


def conv_act(x):
    x = same(4, name="one", activation="relu")(x)
    return L.BatchNormalization()(same(6, 1, name="two")(x))


def depthwise(x):
    x = L.DepthwiseConv2D(3, padding="same", name="one")(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    return L.DepthwiseConv2D(
        3, 2, "same", depth_multiplier=2, use_bias=False, name="two"
    )(x)


def as_many_groups_as_channels(x):
    x = L.Conv2D(8, 3, groups=4, name="one")(x)
    return L.ReLU()(L.Conv2D(8, 3, groups=2, name="two")(x))


def nested(x):
    inner = keras.Input((None, None, 4))
    y = L.ReLU()(L.BatchNormalization()(same(name="one")(inner)))
    block = keras.Model(inner, y, name="block")
    return same(2, name="two")(block(block(x)))


def one_dimension(x):
    x = L.Conv1D(4, 3, padding="same", name="one")(x)
    return L.BatchNormalization()(L.Conv1D(6, 3, 2, name="two")(x))


# A model, and the shortcuts that its convolutions get.
CONVERTED = {
    "conv-bn-act": (conv_bn_act, ["identity", "pool_conv"]),
    "conv-act": (conv_act, ["identity", "conv"]),
    "depthwise": (depthwise, ["identity", "pool_conv"]),
    "groups": (as_many_groups_as_channels, ["pool_conv", "pool"]),
    "nested": (nested, ["identity", "conv"]),
    "1D": (one_dimension, ["identity", "pool_conv"], (9, 4)),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_the_function_stays_at_first(case):
    function, shortcuts, *shape = CONVERTED[case]
    original = build(function, *shape)
    before = helpers.fingerprint(original)
    converted = to_resconv(original)
    found = [x for x in helpers.layers_of(converted) if type(x) is ResConv]
    assert [x.name for x in found] == ["one", "two"]
    assert [x.shortcut_kind for x in found] == shortcuts
    helpers.assert_same(original, converted)
    helpers.assert_same(original, fuse(converted))
    assert helpers.fingerprint(original) == before
    left = [type(x) for x in helpers.layers_of(converted)]
    assert L.Conv2D not in left[: left.index(ResConv)]
    assert find_convolutions(converted).found == []


def test_the_residual_start_is_the_paper_s():
    original = build(conv_bn_act)
    converted = to_resconv(original, start="residual")
    one, two = (converted.get_layer(n) for n in ("one", "two"))
    inputs = original.inputs[0]
    conv, norm, relu, conv2, norm2, prelu = original.layers[1:]
    x = relu(L.Add()([norm(conv(inputs)), inputs]))
    pool = L.AveragePooling2D(3, 2)(L.ZeroPadding2D(((0, 1), (1, 1)))(x))
    small = L.Conv2D(6, 1)
    x = prelu(L.Add()([norm2(conv2(x)), small(pool)]))
    truth = keras.Model(inputs, x)
    small.set_weights(two.pointwise.get_weights())
    assert one.pointwise is None
    helpers.assert_same(truth, converted)
    far = helpers.differences(
        helpers.run(original, helpers.inputs_for(original)),
        helpers.run(converted, helpers.inputs_for(original)),
    )
    assert far[0] > 0.01


def test_what_the_layers_were_stays():
    original = build(conv_bn_act)
    original.get_layer("one").trainable = False
    converted = to_resconv(original, 1e-3)
    one, two = (converted.get_layer(n) for n in ("one", "two"))
    assert one.norm.momentum == 0.8
    assert one.norm.epsilon == 1e-4
    assert two.kernel_regularizer.l2 == keras.regularizers.L2().l2
    assert not one.conv.trainable
    assert two.conv.trainable
    assert one.gate.regularizer.l1 == np.float32(1e-3)
    # All but the batch normalizations, which are inside now.
    names = [
        x.name
        for x in original.layers
        if not isinstance(x, L.BatchNormalization)
    ]
    assert [x.name for x in converted.layers] == names


def test_arguments_go_to_all_layers():
    converted = to_resconv(
        build(conv_bn_act),
        m_regularizer=kg.regularizers.MeanL1(0.5),
        g_regularizer="l2",
        m_constraint="non_neg",
    )
    for name in ("one", "two"):
        layer = converted.get_layer(name)
        assert isinstance(layer.m_regularizer, kg.regularizers.MeanL1)
        assert isinstance(layer.g_regularizer, keras.regularizers.L2)
        assert isinstance(layer.gate.constraint, keras.constraints.NonNeg)


def test_blocks_keep_their_own_shortcuts():
    # A softmax would say 0 and 1, so large are sums with shortcuts.
    network = kg.zoo.resnet(8, classifier_activation=None)
    original = helpers.randomize(network)
    converted = to_resconv(original, start="residual")

    def count(model, kind):
        return sum(isinstance(x, kind) for x in model.layers)

    assert count(converted, L.Add) == count(original, L.Add) == 3
    assert count(converted, ResConv) == 7
    helpers.assert_same(converted, fuse(converted))


def test_a_sequential_stays_one_and_trains():
    original = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            same(4, use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.Flatten(),
            L.Dense(2),
        ]
    )
    converted = to_resconv(original, 0.25)
    assert isinstance(converted, keras.Sequential)
    converted.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 8, 8, 3)).astype("float32")
    before = helpers.numpy_of(converted.layers[0].m)
    converted.train_on_batch(x, rng.normal(size=(8, 2)))
    assert helpers.numpy_of(converted.layers[0].m) != before


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="no channels first on a CPU"
)
def test_channels_first():
    def function(x):
        options = {"padding": "same", "data_format": "channels_first"}
        y = L.DepthwiseConv2D(3, name="one", **options)(x)
        y = L.BatchNormalization(axis=1)(y)
        return L.Conv2D(6, 3, name="two", **options)(L.ReLU()(y))

    original = build(function, (4, 8, 7))
    converted = to_resconv(original)
    assert len(find_convolutions(original).converted) == 2
    assert converted.get_layer("one").norm is not None
    helpers.assert_same(original, converted)


# What is left out -----------------------------------------------------------


def shared(x):
    layer = same(name="left")
    return layer(layer(x))


def norm_of_two(x):
    y = same(name="left")(x)
    return L.Concatenate()([L.BatchNormalization()(y), y])


def norm_in_training(x):
    return L.BatchNormalization()(same(name="left")(x), training=True)


def norm_of_rows(x):
    return L.BatchNormalization(axis=1)(same(name="left")(x))


def lora(x):
    layer = same(name="left")
    y = layer(x)
    layer.enable_lora(2)
    return y


# A model, and why its convolution stays one.
LEFT_OUT = {
    "transposed": (
        lambda x: L.Conv2DTranspose(4, 3, name="left")(x),
        "Conv2DTranspose and its shortcut are no one layer",
    ),
    "separable": (
        lambda x: L.SeparableConv2D(4, 3, name="left")(x),
        "SeparableConv2D",
    ),
    "shared": (shared, "called at several places"),
    "norm beside another": (norm_of_two, "not the only one to read it"),
    "norm in training": (norm_in_training, "normalizes in another way"),
    "norm of rows": (norm_of_rows, "normalizes in another way"),
    "gaps": (
        lambda x: L.Conv2D(4, 3, dilation_rate=2, name="left")(x),
        "no kernel with gaps",
    ),
    "adapters": (lora, "weights beside its kernel"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_and_why(case):
    function, reason = LEFT_OUT[case]
    inputs = keras.Input((8, 8, 4))
    original = keras.Model(inputs, same(name="other")(function(inputs)))
    found = find_convolutions(original)
    assert {x.name for x in found.left_out} == {"left"}
    assert [x.name for x in found.converted] == ["other"]
    for conv in found.left_out:
        assert reason in conv.reason
        assert conv.reason in str(found)
    converted = to_resconv(original)
    assert type(converted.get_layer("other")) is ResConv
    assert type(converted.get_layer("left")) is type(original.get_layer("left"))
    alone = keras.Model(original.inputs, original.get_layer("other").input)
    with pytest.raises(ValueError, match="No convolution .* 'left'"):
        to_resconv(alone)


def test_causal_convolutions_are_left_out():
    def function(x):
        return L.Conv1D(4, 3, padding="causal", name="left")(x)

    (found,) = find_convolutions(build(function, (9, 4))).found
    assert "Expected: 'same' or 'valid'" in found.reason


@pytest.mark.parametrize(
    "options, names",
    [
        ({"include": "two"}, ["two"]),
        ({"exclude": "t*"}, ["one"]),
        ({"include": L.Conv2D, "exclude": ["one"]}, ["two"]),
    ],
)
def test_names_choose(options, names):
    original = build(conv_bn_act)
    converted = to_resconv(original, **options)
    found = [x.name for x in converted.layers if type(x) is ResConv]
    assert found == names
    left = find_convolutions(original, **options).left_out
    assert [x.reason for x in left] == ["it was not asked for"]


def test_layers_choose():
    original = build(conv_bn_act)
    converted = to_resconv(original, include=original.get_layer("two"))
    found = [x.name for x in converted.layers if type(x) is ResConv]
    assert found == ["two"]
    with pytest.raises(ValueError, match="'two', which is not part of model"):
        to_resconv(converted, include=original.get_layer("two"))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"include": "thre*"}, ValueError, r"'thre\*'.*choose from: one, two"),
        ({"exclude": 3}, TypeError, "`exclude` takes layer names"),
        ({"start": "zero"}, ValueError, "'same', 'residual'"),
        ({"start": []}, ValueError, "'same', 'residual'"),
        (
            {"filters": 7},
            TypeError,
            "the arguments of a convolution.*: filters",
        ),
        ({"batch_norm": False}, TypeError, "batch_norm.* Leave them out"),
        ({"strength": -1.0}, ValueError, "-1.0"),
        ({"m_regularizer": 0.1}, TypeError, "Pass strength=0.1"),
        ({"strength": "l1"}, TypeError, "regularizer as `m_regularizer`"),
        ({"strength": 1, "m_regularizer": "l1"}, ValueError, "takes a `str"),
        ({"exclude": "*"}, ValueError, "No convolution of model"),
        ({"shortcuts": 1}, ValueError, "shortcuts"),
    ],
)
def test_bad_arguments(options, error, message):
    original = build(conv_bn_act)
    with pytest.raises(error, match=message):
        to_resconv(original, **options)
