"""StripConv against Conv2D with zeros, in all of its forms."""

import functools
import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_gates as kg
from keras_gates.layers import StripConv
from keras_gates.layers.stripconv.stripes import Stripes

BACKEND = keras.backend.backend()
# Sums of at most some hundred float32 products, added in another order.
RTOL = 1e-5
LAYOUTS = ["channels_last", "channels_first"]

# Kernel, and what else; each is tried with both paddings.
GEOMETRIES = {
    "square": ((3, 3), {}),
    "point": ((1, 1), {}),
    "even": ((2, 4), {}),
    "wide": ((1, 5), {}),
    "strides": ((3, 3), {"strides": 2}),
    "long strides": ((2, 2), {"strides": 3}),
    "large kernel": ((7, 7), {"strides": 2}),
    "dilation": ((3, 2), {"dilation_rate": (1, 3)}),
}


def array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy_of(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def drawn(kernel_size, filters, density=0.4, seed=0):
    """A mask of stripes; the last filter and the first row have none."""
    kept = np.random.default_rng(seed).random((*kernel_size, filters))
    kept = kept < density
    if kernel_size[0] > 1:
        kept[0] = False
    kept[-1, -1, 0] = True
    kept[..., -1] = False
    return kept


def pair(kept, shape, **options):
    """A Conv2D whose kernel is zero off the mask, and its stripes."""
    filters = kept.shape[-1]
    options = {"kernel_initializer": "zeros", **options}
    conv = keras.layers.Conv2D(filters, kept.shape[:2], **options)
    conv.build(shape)
    kernel = array(conv.kernel.shape, 1) * kept[:, :, None]
    bias = array((filters,), 2)
    conv.set_weights([kernel, bias][: len(conv.weights)])
    rows = kernel.transpose(0, 1, 3, 2)[kept]
    return conv, [rows, bias][: len(conv.weights)]


def packed(kept, shape, weights, **options):
    layer = StripConv(
        kept.shape[-1],
        kept.shape[:2],
        stripes=Stripes(kept).lists(),
        kernel_initializer="zeros",
        **options,
    )
    layer.build(shape)
    layer.set_weights(weights)
    return layer


def assert_same(got, expected, rtol=RTOL):
    got, expected = numpy_of(got), numpy_of(expected)
    assert got.shape == expected.shape
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= rtol * scale


def in_layout(layout, shape=(2, 11, 10, 4)):
    if layout == "channels_last":
        return shape
    if BACKEND == "tensorflow":
        pytest.skip("TensorFlow has no such convolution on a CPU")
    return (shape[0], shape[3], *shape[1:3])


@functools.cache
def geometry(name, padding, layout):
    """A mask, input, weights of a layer, the kernel, and the outputs."""
    kernel_size, more = GEOMETRIES[name]
    options = {"padding": padding, "data_format": layout, **more}
    shape = in_layout(layout)
    kept, x = drawn(kernel_size, 5), array(shape)
    conv, weights = pair(kept, shape, **options)
    return kept, x, weights, options, numpy_of(conv.kernel), numpy_of(conv(x))


# JAX compiles each shape anew, which takes most of the time.
ALL = itertools.product(GEOMETRIES, ["same", "valid"], LAYOUTS)
SOME = [
    (name, padding, layout)
    for name, padding, layout in ALL
    if BACKEND != "jax" or (padding == "same") == (layout == LAYOUTS[0])
]
CASES = [
    (*case, method)
    for case in SOME
    for method in ("stripes", "dense", "auto")
    if BACKEND != "jax" or method != "auto"
]


@pytest.mark.parametrize("name, padding, layout, method", CASES)
def test_stripes_compute_what_the_kernel_with_zeros_does(
    name, padding, layout, method
):
    kept, x, weights, options, _, expected = geometry(name, padding, layout)
    layer = packed(kept, x.shape, weights, method=method, **options)
    assert_same(layer(x), expected)
    assert layer.compute_output_shape(x.shape) == expected.shape


@pytest.mark.parametrize("name, padding, layout", SOME)
def test_training_is_dense(name, padding, layout):
    found = geometry(name, padding, layout)
    kept, x, weights, options, kernel, expected = found
    layer = packed(kept, x.shape, weights, method="stripes", **options)
    assert_same(layer(x, training=True), expected)
    assert_same(layer.effective_kernel(), kernel, rtol=0)


def test_activation_and_no_bias():
    options = {"use_bias": False, "activation": "relu", "padding": "same"}
    kept = drawn((3, 3), 5)
    conv, weights = pair(kept, (2, 8, 8, 4), **options)
    layer = packed(kept, (2, 8, 8, 4), weights, method="stripes", **options)
    assert_same(layer(array((2, 8, 8, 4))), conv(array((2, 8, 8, 4))))


@pytest.mark.parametrize("strides", [1, 2])
def test_sizes_may_be_unknown(strides):
    kept = drawn((3, 3), 5)
    options = {"padding": "same", "strides": strides}
    conv, weights = pair(kept, (None, None, None, 4), **options)
    shape = (None, None, None, 4)
    layer = packed(kept, shape, weights, method="auto", **options)
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, layer(inputs))
    for size in (7, 8):
        x = array((2, size, size + 3, 4))
        assert_same(model.predict(x, verbose=0), conv(x))


def test_assigned_weights_are_used():
    # What is compiled must read the weights, and hold no copy of them.
    kept = drawn((3, 3), 5)
    conv, weights = pair(kept, (2, 8, 8, 4), use_bias=False)
    layer = packed(
        kept, (2, 8, 8, 4), weights, method="stripes", use_bias=False
    )
    x = array((2, 8, 8, 4))
    before = numpy_of(layer(x))
    layer.stripe_kernel.assign(2 * weights[0])
    # A product with 2 is exact.
    np.testing.assert_array_equal(numpy_of(layer(x)), 2 * before)


def test_the_skeleton_multiplies_the_kernel():
    options = {"padding": "same", "kernel_initializer": "zeros"}
    layer = StripConv(5, (3, 2), **options)
    x = array((2, 8, 8, 4))
    layer.build(x.shape)
    layer._kernel.assign(array((3, 2, 4, 5), 1))
    conv = keras.layers.Conv2D(5, (3, 2), **options)
    conv.build(x.shape)
    conv.set_weights([numpy_of(layer.kernel), numpy_of(layer.bias)])
    np.testing.assert_array_equal(numpy_of(layer.skeleton), np.ones((3, 2, 5)))
    assert_same(layer(x), conv(x))
    factors = array((3, 2, 5), 3)
    layer.skeleton.assign(factors)
    conv.kernel.assign(numpy_of(layer.kernel) * factors[:, :, None])
    assert_same(layer(x), conv(x))


def test_a_penalty_and_a_mask_close_stripes():
    layer = StripConv(
        4,
        3,
        skeleton_regularizer=kg.regularizers.L1(1.0),
        skeleton_constraint=kg.constraints.HardThreshold(0.95),
        kernel_initializer="zeros",
    )
    model = keras.Sequential([keras.Input((5, 5, 2)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    # A kernel of zeros passes no gradient: the penalty alone moves factors.
    model.train_on_batch(array((2, 5, 5, 2)), np.zeros((2, 3, 3, 4)))
    np.testing.assert_array_equal(numpy_of(layer.skeleton), 0)


@pytest.mark.parametrize("form", ["whole", "packed"])
def test_training_moves_every_weight(form):
    stripes = Stripes(drawn((3, 3), 4)).lists() if form == "packed" else None
    options = {"padding": "same", "kernel_initializer": "ones"}
    layer = StripConv(4, 3, stripes=stripes, **options)
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [numpy_of(w) for w in layer.weights]
    model.train_on_batch(array((4, 6, 6, 3)), array((4, 6, 6, 4), 1))
    for weight, old in zip(layer.weights, before, strict=True):
        assert (numpy_of(weight) != old).any(), weight.name


def test_what_is_said_of_the_kernel_holds_for_stripes():
    kept = drawn((3, 3), 5)
    layer = StripConv(
        5,
        3,
        stripes=Stripes(kept).lists(),
        kernel_initializer=keras.initializers.GlorotUniform(seed=1),
        kernel_regularizer=keras.regularizers.L2(0.5),
        kernel_constraint=keras.constraints.MaxNorm(0.1, axis=[0, 1, 2]),
    )
    layer.build((1, 8, 8, 4))
    # As a kernel of this size starts, whatever is left of it.
    limit = np.sqrt(6 / (9 * 4 + 9 * 5))
    largest = np.abs(numpy_of(layer.stripe_kernel)).max()
    assert 0.8 * limit < largest <= limit
    kernel = numpy_of(layer.effective_kernel())
    # Sums of some hundred squares in float32.
    assert float(numpy_of(layer.losses[0])) == pytest.approx(
        0.5 * (kernel**2).sum(), rel=1e-5
    )
    constraint = layer.stripe_kernel.constraint
    layer.stripe_kernel.assign(constraint(layer.stripe_kernel))
    norms = np.sqrt((numpy_of(layer.effective_kernel()) ** 2).sum((0, 1, 2)))
    assert norms.max() <= 0.1 + 1e-6


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_precision(policy):
    kept = drawn((3, 3), 5)
    conv, weights = pair(kept, (2, 8, 8, 4))
    layer = packed(kept, (2, 8, 8, 4), weights, dtype=policy, method="stripes")
    y = layer(array((2, 8, 8, 4)))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    # bfloat16 keeps 8 bits, a relative rounding of 0.4 % at each step.
    assert_same(keras.ops.cast(y, "float32"), conv(array((2, 8, 8, 4))), 0.02)
    assert StripConv(2, 3, dtype=policy).skeleton_initializer is not None


def test_the_skeleton_is_float32_in_half_precision():
    layer = StripConv(2, 3, dtype="float16", kernel_initializer="ones")
    layer(array((1, 5, 5, 2)))
    assert keras.backend.standardize_dtype(layer.skeleton.dtype) == "float32"


@pytest.mark.parametrize("form", ["whole", "packed"])
def test_save_and_load(form, tmp_path):
    stripes = Stripes(drawn((3, 3), 4)).lists() if form == "packed" else None
    layer = StripConv(
        4,
        3,
        padding="same",
        stripes=stripes,
        kernel_initializer="ones",
        skeleton_regularizer=kg.regularizers.L1(1e-4),
        name="strip",
    )
    model = keras.Sequential([keras.Input((6, 6, 3)), layer])
    if form == "whole":
        layer.skeleton.assign(array((3, 3, 4)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = array((2, 6, 6, 3))
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    assert loaded.get_layer("strip").get_config() == layer.get_config()
    json.dumps(layer.get_config(), default=lambda x: x)
    loaded.load_weights(_weights(model, tmp_path))


def _weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


@pytest.mark.once
def test_loading_without_keras_gates_says_what_to_do(tmp_path):
    stripes = Stripes(drawn((3, 3), 4)).lists()
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), StripConv(4, 3, stripes=stripes)]
    )
    model.save(tmp_path / "model.keras")
    code = (
        "import sys; sys.modules['keras_gates'] = None; import keras; "
        f"keras.models.load_model({str(tmp_path / 'model.keras')!r})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": BACKEND},
    )
    assert found.returncode != 0
    assert "StripConv" in found.stderr
    assert "Install it" in found.stderr
    assert "keras_gates.to_dense(model)" in found.stderr


BAD = {
    "groups": ({"groups": 2}, "cannot be split into groups"),
    "no stripes": ({"stripes": [[[]] * 3] * 3}, "at least one stripe"),
    "too few rows": ({"stripes": [[[0]] * 3] * 2}, "3 lists of 3"),
    "too few columns": ({"stripes": [[[0]] * 2] * 3}, "3 lists of 3"),
    "no such filter": ({"stripes": [[[4]] * 3] * 3}, "below 4"),
    "negative": ({"stripes": [[[-1]] * 3] * 3}, "below 4"),
    "twice": ({"stripes": [[[1, 1]] * 3] * 3}, "ascending"),
    "no lists": ({"stripes": 5}, "3 lists of 3"),
    "method": ({"method": "fast"}, "knows no such `method`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        StripConv(4, 3, name="mine", **options)
    assert "'mine'" in str(error.value)
    assert "Received" in str(error.value)


def test_stripes_alone_need_sizes_with_strides():
    kept = drawn((3, 3), 5)
    layer = StripConv(
        5, 3, strides=2, stripes=Stripes(kept).lists(), method="stripes"
    )
    layer.build((None, None, None, 4))
    with pytest.raises(ValueError, match='method="auto"'):
        layer.computes((None, None, None, 4))


def test_lora_is_refused():
    layer = StripConv(4, 3, kernel_initializer="zeros")
    layer.build((1, 5, 5, 2))
    with pytest.raises(ValueError, match="has no LoRA"):
        layer.enable_lora(2)


@pytest.mark.parametrize(
    "density, channels, computes",
    [(0.05, 256, "stripes"), (0.95, 256, "dense"), (0.6, 16, "dense")],
)
def test_few_stripes_are_computed_alone(density, channels, computes):
    kept = np.random.default_rng(0).random((3, 3, 64)) < density
    kept[0, 0, 0] = kept[2, 2, 1] = True
    shape = (1, 14, 14, channels)
    weights = [np.zeros((kept.sum(), channels)), np.zeros(64)]
    layer = packed(kept, shape, weights, padding="same")
    assert layer.computes(shape) == computes


def test_a_kernel_of_one_row_is_no_case_for_stripes():
    # All of a 1x3 kernel in a 3x3 one: a smaller convolution, nothing else.
    kept = np.zeros((3, 3, 64), bool)
    kept[1] = True
    weights = [np.zeros((kept.sum(), 64)), np.zeros(64)]
    layer = packed(kept, (1, 14, 14, 64), weights, padding="same")
    assert layer.computes((1, 14, 14, 64)) == "dense"
