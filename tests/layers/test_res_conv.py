"""ResConv against numpy, and its fused and its expanded form against it."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_gates.layers import LayerGate
from keras_gates.layers import ResConv
from keras_gates.regularizers import L1

BACKEND = keras.backend.backend()
# Sums of some hundred float32 products, of mixed signs.
RTOL = 1e-5


# The truth, in float64 ------------------------------------------------------


def pads(size, taps, stride, step, padding):
    """What Keras documents of "same": as little as needed, less before."""
    if padding == "valid":
        return 0, 0
    reach = (taps - 1) * step + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def numpy_taps(x, kernel, stride, step, padding):
    """What each tap reads for each output: `((tap, array), ...)`."""
    rank = x.ndim - 2
    sizes = x.shape[1:-1]
    strides = np.broadcast_to(stride, rank)
    widths = [
        pads(n, k, s, step, padding)
        for n, k, s in zip(sizes, kernel, strides, strict=True)
    ]
    x = np.pad(x, [(0, 0), *widths, (0, 0)])
    for tap in itertools.product(*map(range, kernel)):
        index = [slice(None)]
        for axis in range(rank):
            reach = (kernel[axis] - 1) * step + 1
            start = tap[axis] * step
            stop = start + x.shape[axis + 1] - reach + 1
            index.append(slice(start, stop, strides[axis]))
        yield tap, x[tuple(index)]


def numpy_conv(x, kernel, stride=1, step=1, padding="valid", groups=1):
    """A grouped convolution, channels last."""
    total = 0.0
    for tap, read in numpy_taps(x, kernel.shape[:-2], stride, step, padding):
        parts = zip(
            np.split(read, groups, -1),
            np.split(kernel[tap], groups, -1),
            strict=True,
        )
        total = total + np.concatenate([a @ b for a, b in parts], -1)
    return total


def numpy_pool(x, kernel, stride, padding):
    """The average over the window, zeros of the padding counted."""
    reads = [r for _, r in numpy_taps(x, kernel, stride, 1, padding)]
    return np.mean(reads, axis=0)


def weight(variable):
    return np.array(ops.convert_to_numpy(variable)).astype("float64")


def grouped_kernel(conv, groups):
    """A kernel as a grouped convolution has it; that of a depthwise too."""
    kernel = weight(conv.kernel)
    if isinstance(conv, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        kernel = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return kernel


def numpy_res_conv(layer, x, shortcut):
    """`act(m * BN(conv(x)) + g * f(x))`, channels last."""
    kernel = grouped_kernel(layer.conv, layer.groups)
    stride, step = layer.strides, layer.dilation_rate
    y = numpy_conv(x, kernel, stride, step, layer.padding, layer.groups)
    if layer.use_bias:
        y = y + weight(layer.conv.bias)
    if layer.norm is not None:
        gamma, beta, mean, variance = map(weight, layer.norm.weights)
        y = gamma * (y - mean) / np.sqrt(variance + layer.norm.epsilon) + beta
    f = x
    if shortcut.startswith("pool"):
        f = numpy_pool(x, kernel.shape[:-2], stride, layer.padding)
    if shortcut.endswith("conv"):
        small = grouped_kernel(layer.pointwise, layer.groups)
        stride = stride if shortcut == "conv" else 1
        f = numpy_conv(f, small, stride, groups=layer.groups)
        f = f + weight(layer.pointwise.bias)
    y = weight(layer.m) * y + weight(layer.g) * f
    return np.maximum(y, 0.2 * y)


def leaky(x):
    """A ReLU would hide what is wrong where it is negative."""
    return ops.leaky_relu(x, 0.2)


# What is compared -----------------------------------------------------------


def filled(layer, seed=0):
    """Give a layer weights as training could have left them."""
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        values = rng.normal(0.0, 0.5, variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            values = rng.uniform(0.5, 1.5, variable.shape)
        variable.assign(values)
    layer.gate.factor.assign(0.7)
    layer.g.assign(-1.3)
    return layer


def images(sizes, channels, first=False, seed=1):
    x = np.random.default_rng(seed).normal(size=(2, *sizes, channels))
    x = x.astype("float32")
    return np.moveaxis(x, -1, 1) if first else x


def channels_last(x, first):
    x = np.asarray(ops.convert_to_numpy(x)).astype("float64")
    return np.moveaxis(x, 1, -1) if first else x


def assert_close(got, expected, rtol=RTOL):
    assert got.shape == expected.shape
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=rtol * np.abs(expected).max()
    )


def check(layer, shortcut, sizes=(8, 7), channels=4, known=True):
    """The layer, what it fuses to and what it expands to equal numpy."""
    first = layer.data_format == "channels_first"
    shape = [*(sizes if known else [None] * len(sizes)), channels]
    shape = shape[-1:] + shape[:-1] if first else shape
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    assert layer.shortcut_kind == shortcut
    filled(layer)
    x = images(sizes, channels, first)
    last = channels_last(x, first)
    expected = numpy_res_conv(layer, last, shortcut)
    outputs = model(x, training=False)
    assert_close(channels_last(outputs, first), expected)
    assert layer.compute_output_shape(x.shape) == tuple(outputs.shape)
    fused = layer.fuse()
    assert fused.name == layer.name
    assert_close(channels_last(fused(x), first), expected)
    expanded = keras.Model(inputs, layer.expand(inputs))
    assert expanded.get_layer(layer.name).kind == "layer"
    assert_close(channels_last(expanded(x, training=False), first), expected)
    return expected


# (taps, (stride, dilation), padding, (channels, filters, groups)), and
# the shortcut that is chosen. An input of 8x7 pixels is even and odd.
CHANNELS = [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 8, 2), (4, 4, 4), (4, 8, 4)]
CASES = [
    (taps, pace, padding, widths)
    for taps, pace, padding, widths in itertools.product(
        [1, 2, 3, 5], [(1, 1), (2, 1), (3, 1), (1, 2)], ["same", "valid"],
        CHANNELS,
    )
    # These are refused: see REFUSED.
    if pace[1] == 1 or taps == 1 or (padding == "same" and taps % 2)
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CASES)))
def test_equals_numpy_and_its_fused_and_expanded_forms(number):
    taps, (stride, step), padding, widths = CASES[number]
    channels, filters, groups = widths
    sizes = [(8, 7), (7, 8), (9,), (8,)][number % 4]
    known = number % 3 > 0
    first = number % 5 == 0 and BACKEND != "tensorflow"
    layer = ResConv(
        filters,
        taps,
        stride,
        padding,
        "channels_first" if first else "channels_last",
        step,
        groups,
        activation=leaky,
        use_bias=number % 2 == 0,
        batch_norm=number % 7 > 0,
        name="layer",
    )
    keeps = stride == 1 and (padding == "same" or taps == 1)
    kind = "identity" if keeps else "pool"
    if channels != filters:
        kind = "conv" if keeps else "pool_conv"
    expected = check(layer, kind, sizes, channels, known)
    assert expected.std() > 0.1


# Shortcuts other than the automatic one, by size: an even size puts the
# pixel that a strided 1x1 convolution reads under the first of 3 taps, an odd
# one under the second.
OVERRIDDEN = {
    "1x1 where identity would do": ("conv", {}, (8, 7), 4),
    "pooling where identity would do": ("pool", {}, (8, 7), 4),
    "pooling and 1x1 at stride 1": ("pool_conv", {}, (8, 7), 4),
    "strided 1x1, even": ("conv", {"strides": 2}, (8, 8), 4),
    "strided 1x1, odd": ("conv", {"strides": 2}, (7, 7), 4),
    "strided 1x1, mixed": ("conv", {"strides": 2}, (8, 7), 6),
    "strided 1x1, 1D": ("conv", {"strides": 3}, (11,), 6),
    "strided 1x1 of a 1x1": (
        "conv",
        {"strides": 2, "kernel_size": 1, "padding": "valid"},
        (8, 7),
        6,
    ),
    "rectangle": ("pool", {"kernel_size": (3, 5)}, (8, 7), 4),
    "rectangle, identity": ("identity", {"kernel_size": (1, 4)}, (8, 7), 4),
    "rectangle, valid": (
        "pool",
        {"kernel_size": (2, 3), "padding": "valid"},
        (8, 7),
        4,
    ),
    "grouped 1x1": ("conv", {"groups": 2}, (8, 7), 4),
    "1x1 of a depthwise": ("conv", {"groups": 4}, (8, 7), 4),
}


@pytest.mark.parametrize("case", OVERRIDDEN)
def test_a_given_shortcut(case):
    shortcut, arguments, sizes, filters = OVERRIDDEN[case]
    arguments = {"kernel_size": 3, **arguments}
    layer = ResConv(filters, shortcut=shortcut, activation=leaky, **arguments)
    check(layer, shortcut, sizes)


@pytest.mark.parametrize(
    "groups, rank, expected",
    [
        (1, 1, layers.Conv1D),
        (1, 2, layers.Conv2D),
        (2, 2, layers.Conv2D),
        (4, 1, layers.DepthwiseConv1D),
        (4, 2, layers.DepthwiseConv2D),
    ],
)
def test_fuses_to_a_stock_layer(groups, rank, expected):
    layer = ResConv(4, 3, groups=groups, name="layer", activation="relu")
    layer.build((None, *[8] * rank, 4))
    fused = layer.fuse()
    assert type(fused) is expected
    assert type(layer.conv) is expected
    assert fused.activation is keras.activations.relu
    # A kernel and a bias, as many numbers as the convolution alone has.
    taps = 3**rank
    assert fused.count_params() == taps * 4 * 4 // groups + 4
    assert fused.kernel.shape == layer.conv.kernel.shape


# Arguments, input, and what the message says.
REFUSED = {
    "padding": ({"padding": "causal"}, None, "Expected: 'same' or 'valid'"),
    "shortcut": ({"shortcut": "add"}, None, "Expected: 'auto', or one of"),
    "identity at strides": (
        {"shortcut": "identity", "strides": 2},
        None,
        "shortcut='pool'",
    ),
    "identity of valid": (
        {"shortcut": "identity", "padding": "valid"},
        None,
        "another size",
    ),
    "1x1 beside valid": (
        {"shortcut": "conv", "padding": "valid"},
        None,
        "cuts off a border",
    ),
    "dilated pool": (
        {"shortcut": "pool", "dilation_rate": 2},
        None,
        "no kernel with gaps",
    ),
    "dilated valid": (
        {"padding": "valid", "dilation_rate": 2},
        None,
        "no kernel with gaps",
    ),
    "dilated, even": (
        {"kernel_size": 2, "dilation_rate": 2},
        None,
        "No tap of the kernel",
    ),
    "three axes": ({"strides": (1, 1, 1)}, None, "tuples of one or two"),
    "normalization by name": ({"batch_norm": "yes"}, None, "True, False, or"),
    "normalization of an axis": (
        {"batch_norm": {"axis": 1}},
        None,
        "other than axis",
    ),
    "identity, other channels": (
        {"shortcut": "identity"},
        (None, 8, 8, 3),
        "3 channels, and the output 4",
    ),
    "pool, other channels": (
        {"shortcut": "pool"},
        (None, 8, 8, 3),
        "shortcut='pool_conv'",
    ),
    "strided 1x1, unknown size": (
        {"shortcut": "conv", "strides": 2},
        (None, None, 8, 4),
        "size of the input, which is unknown",
    ),
    "rank 0": ({}, (None, 4), "Expected: an input of rank 3 or 4"),
    "rank 3": ({}, (None, 8, 8, 8, 4), "Expected: an input of rank 3 or 4"),
    "another rank": (
        {"kernel_size": (3, 3)},
        (None, 8, 4),
        "Expected: an input of rank 4",
    ),
    "unknown channels": (
        {},
        (None, 8, 8, None),
        "a known number of channels",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_single_convolution_is_refused(case):
    arguments, shape, message = REFUSED[case]
    arguments = {"kernel_size": 3, "name": "mine", **arguments}
    if shape is not None:
        layer = ResConv(4, **arguments)
    with pytest.raises(ValueError, match=f"ResConv 'mine' .*{message}"):
        ResConv(4, **arguments) if shape is None else layer.build(shape)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"strides": 2, "dilation_rate": 2}, "not supported in conjunction"),
        ({"groups": 3}, "evenly divisible"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (3, 3), "strides": (1,)}, "strides"),
        ({"batch_norm": {"epsilom": 1e-5}}, "epsilom"),
    ],
)
def test_keras_refuses_what_it_does_not_take(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ResConv(4, **{"kernel_size": 3, **arguments})


def test_another_size_is_refused_where_the_tap_depends_on_it():
    layer = ResConv(4, 3, strides=2, shortcut="conv", name="mine")
    layer(images((8, 8), 4))
    with pytest.raises(ValueError, match="mine"):
        layer(images((7, 8), 4))


def test_another_size_is_fine_where_a_pool_stands_for_it():
    layer = ResConv(4, 3, strides=2, name="mine", activation=leaky)
    layer.build((None, 8, 8, 4))
    filled(layer)
    x = images((7, 9), 4)
    expected = numpy_res_conv(layer, x.astype("float64"), "pool")
    assert_close(channels_last(layer(x), False), expected)
    assert_close(channels_last(layer.fuse()(x), False), expected)


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="depthwise strides must agree there"
)
def test_strides_that_differ():
    check(ResConv(4, 3, strides=(1, 2), activation=leaky), "pool")


@pytest.mark.parametrize("form", ["fuse", "expand"])
def test_a_layer_without_weights_has_no_other_form(form):
    layer = ResConv(4, 3, name="mine")
    arguments = [] if form == "fuse" else [keras.Input((8, 8, 4))]
    with pytest.raises(ValueError, match="'mine' .* Call it on an input"):
        getattr(layer, form)(*arguments)


# The weights ----------------------------------------------------------------


def test_starts_at_one_and_only_m_is_penalised():
    layer = ResConv(4, 3, m_regularizer=L1(0.5))
    x = images((8, 8), 4)
    layer(x)
    assert float(ops.convert_to_numpy(layer.m)) == 1.0
    assert float(ops.convert_to_numpy(layer.g)) == 1.0
    layer.m.assign(-0.25)
    layer.g.assign(3.0)
    (loss,) = layer.losses
    # 0.5 * |-0.25|, both exact in float32.
    assert float(ops.convert_to_numpy(loss)) == 0.125
    assert {layer.m.dtype, layer.g.dtype} == {"float32"}


def test_gradients_equal_numpy():
    layer = ResConv(4, 3, batch_norm=False)
    model = keras.Sequential([keras.Input((6, 6, 4)), layer])
    filled(layer)
    m, g = weight(layer.m), weight(layer.g)
    x, target = images((6, 6), 4), images((6, 6), 4, seed=2)
    kernel = weight(layer.conv.kernel)
    y = numpy_conv(x.astype("float64"), kernel, padding="same")
    upstream = 2 * (m * y + g * x - target) / x.size
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.train_on_batch(x, target)
    # A sum of 288 products; the step is of order 1.
    for variable, before, by in ((layer.m, m, y), (layer.g, g, x)):
        step = 0.5 * np.sum(upstream * by)
        np.testing.assert_allclose(weight(variable), before - step, atol=1e-5)


def test_statistics_move_in_training_only():
    layer = ResConv(4, 3, batch_norm={"momentum": 0.0})
    x = images((8, 8), 4)
    layer(x, training=False)
    np.testing.assert_array_equal(weight(layer.norm.moving_mean), 0.0)
    layer(x, training=True)
    y = numpy_conv(
        x.astype("float64"), weight(layer.conv.kernel), padding="same"
    )
    np.testing.assert_allclose(
        weight(layer.norm.moving_mean), y.mean((0, 1, 2)), atol=1e-6
    )


def test_the_two_kernels_start_apart():
    layer = ResConv(4, 1, strides=2, shortcut="pool_conv")
    layer.build((None, 8, 8, 4))
    assert layer.conv.kernel.shape == layer.pointwise.kernel.shape
    assert np.any(weight(layer.conv.kernel) != weight(layer.pointwise.kernel))


# In models ------------------------------------------------------------------


def configured():
    return ResConv(
        6,
        (3, 5),
        2,
        dilation_rate=[1, 1],
        activation="relu",
        use_bias=True,
        batch_norm={
            "momentum": 0.9,
            "gamma_regularizer": keras.regularizers.L2(0.25),
        },
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_initializer="ones",
        m_regularizer=L1(0.125),
        m_constraint="non_neg",
        g_initializer="zeros",
        activity_regularizer=keras.regularizers.L2(0.5),
        name="mine",
    )


def test_config_round_trip():
    config = configured().get_config()
    copy = ResConv.from_config(config)
    assert copy.get_config() == config
    assert copy.kernel_size == (3, 5)
    copy.build((None, 8, 8, 4))
    assert copy.norm.momentum == 0.9
    assert copy.norm.gamma_regularizer.l2 == 0.25
    assert copy.gate.regularizer.l1 == 0.125
    assert float(ops.convert_to_numpy(copy.g)) == 0.0


def test_save_and_load_and_clone(tmp_path):
    inputs = keras.Input((None, None, 4))
    outputs = ResConv(4, 3, name="first")(configured()(inputs))
    model = keras.Model(inputs, outputs)
    for name in ("mine", "first"):
        filled(model.get_layer(name))
    x = images((9, 9), 4)
    expected = ops.convert_to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), expected)
    fused = loaded.get_layer("first").fuse().kernel
    np.testing.assert_array_equal(
        weight(fused), weight(model.get_layer("first").fuse().kernel)
    )
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(ops.convert_to_numpy(clone(x)), expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer = ResConv(6, 3, 2, activation="relu", dtype=policy)
    x = images((8, 8), 4)
    outputs = layer(x)
    compute = policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    assert {w.dtype for w in layer.weights} == {"float32"}
    full = ResConv(6, 3, 2, activation="relu", dtype="float32")
    full.build((None, 8, 8, 4))
    full.set_weights(layer.get_weights())
    expected = weight(full(x))
    fused = layer.fuse()
    assert fused.compute_dtype == compute
    for found in (outputs, fused(x)):
        # bfloat16 keeps 8 bits, so each of a few roundings is off by 0.004.
        np.testing.assert_allclose(
            weight(ops.cast(found, "float32")),
            expected,
            atol=0.03 * np.abs(expected).max(),
        )


def test_a_frozen_layer_fuses_to_a_frozen_one():
    layer = ResConv(4, 3)
    layer.build((None, 8, 8, 4))
    layer.trainable = False
    assert not layer.trainable_weights
    assert not layer.fuse().trainable


def test_regularizers_of_the_kernel_go_on_and_constraints_do_not():
    layer = ResConv(
        4,
        3,
        kernel_regularizer=keras.regularizers.L2(0.5),
        kernel_constraint="non_neg",
    )
    layer.build((None, 8, 8, 4))
    fused = layer.fuse()
    assert fused.kernel_regularizer.l2 == 0.5
    assert fused.kernel_constraint is None


# The expanded form ----------------------------------------------------------


def test_expanded_layers_are_those_of_keras_and_one_gate():
    layer = ResConv(
        6, 3, 2, activation="relu", m_regularizer=L1(0.5), name="mine"
    )
    inputs = keras.Input((8, 7, 4))
    layer(inputs)
    filled(layer)
    model = keras.Model(inputs, layer.expand(inputs))
    kinds = {x.name: type(x) for x in model.layers[1:]}
    assert kinds == {
        "mine_conv": layers.Conv2D,
        "mine_bn": layers.BatchNormalization,
        "mine": LayerGate,
        "mine_pad": layers.ZeroPadding2D,
        "mine_pool": layers.AveragePooling2D,
        "mine_shortcut": layers.Conv2D,
        "mine_add": layers.Add,
        "mine_activation": layers.Activation,
    }
    gate = model.get_layer("mine")
    assert gate.regularizer.l1 == 0.5
    np.testing.assert_array_equal(weight(gate.factor), weight(layer.m))
    gate.factor.assign(0.0)
    assert float(weight(layer.m)) != 0.0


@pytest.mark.parametrize(
    "g, names", [(0.0, []), (1.0, ["mine_add"]), (2.0, ["mine_g", "mine_add"])]
)
def test_expanded_identities(g, names):
    layer = ResConv(4, 3, name="mine")
    inputs = keras.Input((8, 8, 4))
    layer(inputs)
    filled(layer)
    layer.g.assign(g)
    model = keras.Model(inputs, layer.expand(inputs))
    always = ["mine_conv", "mine_bn", "mine"]
    assert {x.name for x in model.layers[1:]} == {*always, *names}
    x = images((8, 8), 4)
    assert_close(weight(model(x)), weight(layer(x)))


def test_a_layer_called_twice_is_expanded_once():
    layer = ResConv(4, 3, name="mine", activation="relu")
    inputs, made = keras.Input((8, 8, 4)), {}
    model = keras.Model(inputs, layer(layer(inputs)))
    filled(layer)
    outputs = layer.expand(layer.expand(inputs, made), made)
    expanded = keras.Model(inputs, outputs)
    # g is not a weight there.
    assert len(expanded.weights) == len(model.weights) - 1
    x = images((8, 8), 4)
    assert_close(weight(expanded(x)), weight(model(x)))
