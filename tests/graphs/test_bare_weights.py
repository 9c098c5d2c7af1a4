"""Weights that a layer uses in operations, written as stock layers."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_gates.graphs import opened
from tests import helpers
from tests.graphs import own_layers as own
from tests.graphs.own_layers import Weighted

SIGNAL = (own.STEPS, own.CHANNELS)


def signals(dtype="float32"):
    x = np.random.default_rng(0).normal(size=(3, *SIGNAL))
    return ops.convert_to_tensor(x, dtype)


def assert_same(layer, found, *x, rtol=1e-6):
    """Both run the same operations on the same numbers, in float32."""
    want = helpers.numpy_of(ops.cast(layer(*x), "float32"))
    given = list(x) if len(x) > 1 else x[0]
    got = helpers.numpy_of(ops.cast(found.model(given), "float32"))
    atol = rtol * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


@pytest.mark.parametrize("name", own.USES)
def test_each_use_of_a_weight(name):
    function, shapes, kind = own.USES[name]
    layer = Weighted(function, *shapes, name="own")
    found = own.looked_into(layer, keras.Input(SIGNAL))
    kinds = {type(place.layer).__name__ for _, place in found.bare}
    assert kinds == {*kind.split()}
    assert not found.fixed
    assert found.model.name == "own"
    assert_same(layer, found, signals())
    # Nothing else holds numbers, and they are the model's own.
    assert len({id(v) for v, _ in found.bare}) == len(shapes)
    assert not {id(v) for v in layer.weights} & {
        id(v) for v in found.model.weights
    }
    for variable, place in found.bare:
        values = helpers.numpy_of(getattr(place.layer, place.name))
        same = np.array_equal(
            values.ravel(), helpers.numpy_of(variable).ravel()
        )
        assert same or place.derived


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16", *own.DOUBLE])
@pytest.mark.parametrize(
    "name", ["x * w", "x - w", "matmul + b, mixed", "class token", "by place"]
)
def test_policies(name, policy):
    function, shapes, _ = own.USES[name]
    layer = Weighted(function, *shapes, dtype=policy)
    found = own.looked_into(layer, keras.Input(SIGNAL))
    x = signals(layer.compute_dtype)
    assert found.model(x).dtype == layer(x).dtype
    dtypes = {w.dtype for w in found.model.weights}
    assert dtypes == {w.dtype for w in layer.weights}
    # One rounding of the coarsest: adding a bias may round once more.
    coarse = {"mixed_float16": 2e-3, "bfloat16": 2e-2}
    assert_same(layer, found, x, rtol=coarse.get(policy, 1e-6))


def test_a_weight_that_is_used_twice():
    """In two ways, and still one weight."""
    layer = Weighted(lambda x, w: ops.relu(x * w) + w, own.C, name="own")
    found = own.looked_into(layer, keras.Input(SIGNAL))
    assert len(found.model.weights) == len(found.bare) == 1
    assert_same(layer, found, signals())


TABLES = {
    "take": lambda x, w: ops.take(w, x, axis=0),
    "take, scaled": lambda x, w: ops.take(w, x, axis=0) * 2.0,
    "a slice of it": lambda x, w: ops.take(w[:10], x, axis=0),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name):
    layer = Weighted(TABLES[name], (20, 5))
    found = own.looked_into(layer, keras.Input((4,), dtype="int32"))
    x = np.random.default_rng(0).integers(0, 10, (3, 4)).astype("int32")
    assert type(found.bare[0][1].layer) is keras.layers.Embedding
    assert_same(layer, found, ops.convert_to_tensor(x))


def test_channels_first():
    layer = Weighted(lambda x, w: x * w, (5, 1, 1))
    found = own.looked_into(layer, keras.Input((5, 4, 4)))
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 4))
    assert_same(layer, found, ops.convert_to_tensor(x, "float32"))


CONVOLUTIONS = {
    "strided": (
        lambda x, w, b: ops.relu(ops.conv(x, w, strides=2) + b),
        [(3, 3, 4, 6), (6,)],
        "Conv2D",
    ),
    "dilated": (
        lambda x, w: same(x, w, dilation_rate=(2, 1)),
        [(3, 2, 4, 6)],
        "Conv2D",
    ),
    "depthwise, with a bias": (
        lambda x, w, b: ops.depthwise_conv(x, w, strides=2) + b,
        [(2, 2, 4, 3), (12,)],
        "DepthwiseConv2D",
    ),
    "separable": (
        lambda x, v, w, b: ops.separable_conv(x, v, w, padding="same") + b,
        [(3, 3, 4, 2), (1, 1, 8, 5), (5,)],
        "DepthwiseConv2D Conv2D",
    ),
    "transposed": (
        lambda x, w: ops.conv_transpose(x, w, 2, "same", output_padding=1),
        [(3, 3, 5, 4)],
        "Conv2DTranspose",
    ),
    "standardized": (
        lambda x, w: same(x, w - ops.mean(w, axis=(0, 1, 2), keepdims=True)),
        [(3, 3, 4, 5)],
        "Conv2D",
    ),
    "a masked kernel": (
        lambda x, w: same(x, w * np.tri(3, dtype="float32")[..., None, None]),
        [(3, 3, 4, 5)],
        "Conv2D",
    ),
    "twice": (lambda x, w: same(same(x, w), w), [(3, 3, 4, 4)], "Conv2D"),
}
FIRST = {
    "channels first": (
        lambda x, w, b: same(x, w, data_format="channels_first") + b,
        [(3, 3, 4, 6), (6, 1, 1)],
        "Conv2D EinsumDense",
    ),
}
if keras.backend.backend() != "tensorflow":  # which has none on a CPU
    CONVOLUTIONS |= FIRST


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    function, shapes, kind = CONVOLUTIONS[name]
    shape = (4, 8, 8) if name in FIRST else (8, 8, 4)
    layer = Weighted(function, *shapes)
    found = own.looked_into(layer, keras.Input(shape))
    kinds = {type(place.layer).__name__ for _, place in found.bare}
    assert kinds == {*kind.split()}
    assert not found.fixed
    x = np.random.default_rng(0).normal(size=(2, *shape))
    assert_same(layer, found, ops.convert_to_tensor(x, "float32"))


def test_flags_go_along():
    def function(x, w, v):
        return ops.matmul(x, w) + v

    adds = {"regularizer": "l2", "constraint": "non_neg"}
    layer = Weighted(function, (own.CHANNELS, 8), (8,), adds=adds)
    found = own.looked_into(layer, keras.Input(SIGNAL))
    (dense,) = [y for y in found.model.layers if y.weights]
    assert isinstance(dense.kernel_regularizer, keras.regularizers.L2)
    assert isinstance(dense.bias_constraint, keras.constraints.NonNeg)
    frozen = Weighted(function, (own.CHANNELS, 8), (8,))
    frozen(keras.Input(SIGNAL))
    frozen.trainable = False
    found = own.looked_into(frozen, keras.Input(SIGNAL))
    assert found.model.weights and not found.model.trainable_weights


def test_integers_are_constants():
    class Permuted(keras.layers.Layer):
        def build(self, shape):
            self.places = self.add_weight(
                shape=shape[-1:], dtype="int32", trainable=False, name="places"
            )
            self.places.assign(np.arange(shape[-1])[::-1])

        def call(self, x):
            return ops.take(x, self.places, axis=-1)

    layer = Permuted()
    found = own.looked_into(layer, keras.Input(SIGNAL))
    assert_same(layer, found, signals())


def same(x, w, **options):
    return ops.conv(x, w, padding="same", **options)


MAT = (own.CHANNELS, own.CHANNELS)
WALLS = {
    "tied matrix": (
        lambda x, w: ops.relu(x @ w) @ ops.transpose(w),
        [MAT],
        "in two ways",
    ),
    "two combined": (
        lambda x, w, v: x * (w + v),
        [own.C, own.C],
        "combines the variables 'w0' and 'w1'",
    ),
    "a kernel of two convolutions": (
        lambda x, w: same(x, w) + same(x, w, dilation_rate=2),
        [(3, own.CHANNELS, 8)],
        "'w0' in two ways",
    ),
}


@pytest.mark.parametrize("name", WALLS)
def test_walls(name):
    function, shapes, why = WALLS[name]
    found = own.traced(Weighted(function, *shapes), keras.Input(SIGNAL))
    assert isinstance(found, opened.Opaque)
    assert re.search(why, found.reason), found.reason


def test_a_matrix_twice_with_two_biases():
    def function(x, w, a, b):
        return ops.relu(x @ w + a) @ w + b

    layer = Weighted(function, MAT, own.C, own.C)
    found = own.looked_into(layer, keras.Input(SIGNAL))
    assert_same(layer, found, signals())
    kernels = [y for y in found.model.layers if type(y).__name__ == "Dense"]
    assert len(kernels) == 1


TWO_WAYS = {
    "parts": (
        lambda x, w: x * ops.split(w, 2)[0] + ops.relu(x) * ops.split(w, 2)[1],
        (2 * own.CHANNELS,),
    ),
    "numbers": (lambda x, w: w[0] * x + w[1] * ops.relu(x), (2,)),
    "shares": (
        lambda x, w: (w[0] * x + w[1] * ops.relu(x)) / (1 + ops.sum(w**2)),
        (2,),
    ),
    "softmax": (
        lambda x, w: ops.softmax(w)[0] * x + ops.softmax(w)[1] * ops.relu(x),
        (2,),
    ),
    "and the rest": (
        lambda x, w: w[0] * x + (1 - w[0]) * ops.relu(x),
        (1,),
    ),
}


@pytest.mark.parametrize("name", TWO_WAYS)
def test_a_weight_in_two_ways_can_only_stay_in_its_layer(name):
    """It is in two layers then, which would train apart."""
    function, shape = TWO_WAYS[name]
    layer = Weighted(function, shape)
    found = own.looked_into(layer, keras.Input(SIGNAL))
    assert_same(layer, found, signals())
    assert "the variable 'w0' in two ways" in found.fixed


def test_regularizers_of_what_is_derived_are_said():
    def function(x, w):
        return x * ops.softplus(w)

    layer = Weighted(function, own.C, adds={"regularizer": "l2"})
    found = own.looked_into(layer, keras.Input(SIGNAL))
    assert "'w0' has a L2" in found.fixed


def in_float32(x, w):
    """What half a precision has no numbers for."""
    y = ops.cast(x, "float32") * 1e6
    return ops.cast(y * w * 1e-6, "float16")


def test_what_is_computed_in_float32_stays_so():
    layer = Weighted(in_float32, own.C, dtype="mixed_float16")
    found = own.looked_into(layer, keras.Input(SIGNAL))
    x = signals("float16")
    assert np.isfinite(helpers.numpy_of(layer(x))).all()
    assert_same(layer, found, x, rtol=2e-3)
    assert found.bare[0][1].layer.compute_dtype == "float32"
