"""`fuse` against the original model and the expected layers."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.layers import ResConv
from keras_gates.transforms import fuse
from tests import helpers

BACKEND = keras.backend.backend()
X = (8, 7, 4)


def bn(x, **options):
    return L.BatchNormalization(**options)(x)


def same(filters=4, taps=3, **options):
    return L.Conv2D(filters, taps, padding="same", **options)


def noise(shape, seed=0):
    """A batch for a model's input; 9 where it leaves a size open."""
    sizes = [9 if size is None else size for size in shape]
    x = np.random.default_rng(seed).normal(size=(4, *sizes))
    return x.astype("float32")


def model(build, shape=X, **options):
    inputs = keras.Input(shape, **options)
    return keras.Model(inputs, build(inputs))


# What fuses -----------------------------------------------------------------


def repvgg(x, strides=1):
    branches = [
        bn(same(6, 3, strides=strides, use_bias=False)(x)),
        bn(same(6, 1, strides=strides)(x)),
    ]
    return L.ReLU()(bn(L.Add()(branches)))


def identity_branch(x):
    return L.ReLU()(bn(same()(x)) + bn(x))


def padded_branches(x):
    """As the networks of the zoo stride: padding in a layer of its own."""
    x = L.ZeroPadding2D(1)(x)
    y = bn(L.Conv2D(6, 3, 2)(x))
    z = L.Conv2D(6, 1)(L.AveragePooling2D(3, 2)(x))
    return L.Add()([y, z])


def pad_in_one_branch(x):
    y = bn(L.Conv2D(4, 3)(L.ZeroPadding2D(1)(x)))
    return L.Add()([x, y])


def counted_pool(x):
    z = L.AveragePooling2D(3, 1)(L.ZeroPadding2D(1)(x))
    return L.Add()([same()(x), L.Rescaling(0.3)(z), x])


def depthwise_into_dense(x):
    y = L.DepthwiseConv2D(3, padding="same")(x)
    return L.Add()([same(4, 5)(x), bn(y)])


def grouped(x):
    y = L.Conv2D(8, 3, padding="same", groups=2)(x)
    return L.Add()([bn(y), L.Conv2D(8, 1, groups=2)(x)])


def dilated(x):
    return L.Add()([bn(same(dilation_rate=2)(x)), x])


def dense_branches(x):
    y, z = bn(L.Dense(6)(x)), bn(L.Dense(6)(x))
    return L.ReLU()(L.Add()([y, z]))


def scale_through(x):
    x = L.Rescaling(2.0)(x)
    x = L.MaxPooling2D()(L.ReLU()(x))
    return same(3, activation="relu")(x)


def relu_twice(x):
    x = L.MaxPooling2D()(L.ReLU()(same()(x)))
    return same(3)(L.ReLU()(x))


def block_without_layers(x, first=0.5, second=3.0):
    """What pruning both ResConvs of a residual block leaves."""
    x = L.ReLU()(x)
    y = L.Rescaling(second)(L.ReLU()(L.Rescaling(first)(x)))
    return L.ReLU()(L.Add()([x, y]))


def blocks_without_layers(x):
    for scales in ((0.5, 3.0), (1.0, 1.0), (0.2, -0.4)):
        x = block_without_layers(x, *scales)
    return same(3)(x)


def block_with_two_readers(x):
    x = block_without_layers(x)
    return L.Concatenate()([x, L.MaxPooling2D(3, 1, "same")(x)])


def negative_block(x):
    """The sum is negative, so that the ReLU after it makes it zero."""
    x = L.ReLU()(x)
    y = L.ReLU()(L.Add()([x, L.Rescaling(-2.0)(x)]))
    return L.Add()([same(4)(x), y])


def nested(x):
    inner = model(lambda h: L.ReLU()(bn(same()(h))), (None, None, 4))
    return same(3)(inner(inner(x)))


def shared_res_conv(x):
    layer = ResConv(4, 3, activation="relu")
    return L.Add()([layer(layer(x)), x])


# A model, and the types of the layers that are left after the input.
FUSED = {
    "conv": (lambda x: bn(same()(x)), [L.Conv2D]),
    "conv, unknown size": (
        lambda x: L.ReLU()(bn(same(strides=2, use_bias=False)(x))),
        [L.Conv2D, L.ReLU],
        (None, None, 4),
    ),
    "conv, no gamma": (
        lambda x: bn(same()(x), scale=False, center=False),
        [L.Conv2D],
    ),
    "conv, 1D": (lambda x: bn(L.Conv1D(3, 3)(x)), [L.Conv1D], (9, 4)),
    "conv, 1D, strided": (
        lambda x: bn(L.Conv1D(3, 3, padding="valid", strides=2)(x)),
        [L.Conv1D],
        (9, 4),
    ),
    "depthwise": (
        lambda x: bn(L.DepthwiseConv2D(3, depth_multiplier=2)(x)),
        [L.DepthwiseConv2D],
    ),
    "dense": (lambda x: bn(L.Dense(3)(x)), [L.Dense]),
    "dense, flat": (lambda x: bn(L.Dense(3)(x)), [L.Dense], (5,)),
    "before dense": (
        lambda x: L.Dense(3, activation="relu")(bn(x)),
        [L.Dense],
    ),
    "before valid": (lambda x: L.Conv2D(3, 3)(bn(x)), [L.Conv2D]),
    "before depthwise": (
        lambda x: L.DepthwiseConv2D(3, depth_multiplier=2)(bn(x)),
        [L.DepthwiseConv2D],
    ),
    "twice": (lambda x: bn(L.Rescaling(0.5, 0.1)(bn(same()(x)))), [L.Conv2D]),
    "scale": (lambda x: L.Rescaling(0.5)(same()(x)), [L.Conv2D]),
    "scale in front": (lambda x: same()(L.Rescaling(0.5)(x)), [L.Conv2D]),
    "scale through": (scale_through, [L.ReLU, L.MaxPooling2D, L.Conv2D]),
    "relu twice": (relu_twice, [L.Conv2D, L.ReLU, L.MaxPooling2D, L.Conv2D]),
    "scales in a row": (
        lambda x: L.Rescaling(-2.0)(L.Rescaling(3.0)(x)),
        [L.Rescaling],
    ),
    "added to itself": (lambda x: x + x, [L.Rescaling]),
    "block without layers": (block_without_layers, [L.ReLU, L.Rescaling]),
    "blocks without layers": (blocks_without_layers, [L.ReLU, L.Conv2D]),
    "block with two readers": (
        block_with_two_readers,
        [L.ReLU, L.Rescaling, L.MaxPooling2D, L.Concatenate],
    ),
    "negative block": (
        negative_block,
        [L.ReLU, L.Rescaling, L.Conv2D, L.ReLU, L.Add],
    ),
    "repvgg": (repvgg, [L.Conv2D, L.ReLU]),
    "repvgg, strided": (lambda x: repvgg(x, 2), [L.Conv2D, L.ReLU]),
    "repvgg, odd": (lambda x: repvgg(x, 2), [L.Conv2D, L.ReLU], (7, 7, 4)),
    "identity": (identity_branch, [L.Conv2D, L.ReLU]),
    "padded": (padded_branches, [L.ZeroPadding2D, L.Conv2D]),
    "padded in one": (pad_in_one_branch, [L.ZeroPadding2D, L.Conv2D]),
    "counted pool": (counted_pool, [L.Conv2D]),
    "depthwise beside dense": (depthwise_into_dense, [L.Conv2D]),
    "grouped": (grouped, [L.Conv2D]),
    "dilated": (dilated, [L.Conv2D]),
    "dense branches": (dense_branches, [L.Dense, L.ReLU], (5,)),
    "nested": (nested, [keras.Model, L.Conv2D]),
    "shared ResConv": (shared_res_conv, [L.Conv2D, L.Add]),
}


def of_types(found, types):
    pairs = zip(found, types, strict=True)
    return all(
        isinstance(x, keras.Model) if t is keras.Model else type(x) is t
        for x, t in pairs
    )


def check(original, fused, shape=X):
    x = noise(shape, 3)
    expected = helpers.run(original, x)
    got = helpers.run(fused, x)
    assert min(helpers.variation(expected)) > 1e-2
    assert max(helpers.differences(expected, got)) < helpers.RTOL


@pytest.mark.parametrize("case", FUSED)
def test_what_fuses(case):
    build, types, shape = (*FUSED[case], X)[:3]
    original = model(build, shape)
    helpers.randomize(original, x=noise(shape), closed="none")
    before = helpers.fingerprint(original)
    fused = fuse(original)
    assert of_types(fused.layers[1:], types), [x.name for x in fused.layers]
    check(original, fused, shape)
    assert helpers.fingerprint(original) == before
    # Nothing is left to be done.
    again = fuse(fused)
    assert [x.name for x in again.layers] == [x.name for x in fused.layers]


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="no channels first on a CPU"
)
def test_channels_first():
    def build(x):
        options = {"padding": "same", "data_format": "channels_first"}
        y = bn(L.Conv2D(4, 3, **options)(x), axis=1)
        y = L.ReLU()(L.Add()([x, y]))
        return bn(L.DepthwiseConv2D(3, **options)(y), axis=1)

    original = helpers.randomize(model(build, (4, 8, 7)), closed="none")
    fused = fuse(original)
    assert of_types(fused.layers[1:], [L.Conv2D, L.ReLU, L.DepthwiseConv2D])
    check(original, fused, (4, 8, 7))


# What does not --------------------------------------------------------------


def twice(layer):
    return lambda x: L.Add()([bn(layer(x)), bn(layer(bn(x)))])


def two_readers(x):
    y = same()(x)
    return L.Concatenate()([bn(y), y])


def same_pool(x):
    pool = L.AveragePooling2D(3, 1, padding="same")
    return L.Add()([same()(x), pool(x)])


def conv_then_pool(x):
    """A bias before the zeros of a padding is averaged with them."""
    z = L.ZeroPadding2D(1)(same(4, 1)(x))
    return L.Add()([same()(x), L.AveragePooling2D(3, 1)(z)])


def two_kernels(x):
    return L.Add()([same()(same()(x)), x])


def shared_addition(x):
    add, scale = L.Add(), L.Rescaling(0.5)
    return add([add([x, scale(x)]), x])


def dense_into_grouped(x):
    y = L.Conv2D(4, 3, padding="same", groups=2)(x)
    return L.Add()([y, same(4, 1)(x)])


def gaps(x):
    return L.Add()([same(dilation_rate=2)(x), same()(x)])


# Layers that stay, by type, and the shape of the input.
KEPT = {
    "before a border of zeros": (lambda x: same()(bn(x)),),
    "after an activation": (lambda x: bn(same(activation="relu")(x)),),
    "along another axis": (lambda x: bn(same()(x), axis=1),),
    "two readers": (two_readers,),
    "a shared convolution": (twice(same()),),
    "an offset before zeros": (lambda x: same()(L.Rescaling(0.5, 1.0)(x)),),
    "a negative scale": (lambda x: same()(L.ReLU()(L.Rescaling(-0.5)(x))),),
    "a clipped ReLU": (
        lambda x: same()(L.ReLU(max_value=6.0)(L.Rescaling(0.5)(x))),
    ),
    "a pool that leaves zeros out": (same_pool,),
    "a bias before a padding": (conv_then_pool,),
    "two kernels in a row": (two_kernels,),
    "a shared addition": (shared_addition,),
    "dense beside grouped": (dense_into_grouped,),
    "taps in the gaps of others": (gaps,),
    "nothing linear": (lambda x: L.LayerNormalization()(same()(x)),),
    "no kernel": (lambda x: L.Add()([bn(x), L.Rescaling(0.5)(x)]),),
    "an addition with broadcasting": (lambda x: L.Add()([same(1, 1)(x), x]),),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_stays(case):
    (build,) = KEPT[case]
    original = helpers.randomize(model(build), closed="none")
    fused = fuse(original)
    names = [x.name for x in original.layers]
    assert [x.name for x in fused.layers] == names
    check(original, fused)


def test_statistics_of_the_batch_stay():
    def build(x):
        return L.BatchNormalization()(same()(x), training=True)

    fused = fuse(model(build))
    assert any(isinstance(x, L.BatchNormalization) for x in fused.layers)


def test_a_scale_of_integers_stays():
    fused = fuse(model(lambda x: same()(L.Rescaling(0.1)(x)), dtype="uint8"))
    assert any(isinstance(x, L.Rescaling) for x in fused.layers)


def test_batch_normalization_stays_if_asked():
    original = model(lambda x: repvgg(bn(same()(x))))
    helpers.randomize(original, closed="none")
    fused = fuse(original, batch_norm=False)
    # That of the branches goes, those outside stay.
    types = [L.Conv2D, L.BatchNormalization] * 2 + [L.ReLU]
    assert of_types(fused.layers[1:], types)
    check(original, fused)


# ResConvs -------------------------------------------------------------------

RES_CONVS = {
    "identity": ({}, X),
    "1x1": ({"filters": 6, "activation": "relu"}, X),
    "pool": ({"strides": 2}, X),
    "pool, unknown size": ({"strides": 2}, (None, None, 4)),
    "pool and 1x1": ({"strides": 2, "filters": 6}, (7, 8, 4)),
    "pool and 1x1, unknown size": (
        {"strides": 2, "filters": 6},
        (None, None, 4),
    ),
    "strided 1x1": ({"strides": 2, "filters": 6, "shortcut": "conv"}, X),
    "valid": ({"padding": "valid"}, X),
    "dilated": ({"dilation_rate": 2}, X),
    "grouped": ({"groups": 2, "filters": 8}, X),
    "depthwise": ({"groups": 4}, X),
    "depthwise 1x1": ({"groups": 4, "filters": 8}, X),
    "depthwise pool": ({"groups": 4, "strides": 2}, X),
    "no normalization": ({"batch_norm": False, "use_bias": True}, X),
    "1D": ({"strides": 2, "filters": 6}, (9, 4)),
    "1x1 kernel": ({"kernel_size": 1, "filters": 6}, X),
}


@pytest.mark.parametrize("case", RES_CONVS)
def test_a_res_conv_and_its_expanded_form_fuse_to_the_same(case):
    arguments, shape = RES_CONVS[case]
    layer = ResConv(**{"filters": 4, "kernel_size": 3, **arguments})
    inputs = keras.Input(shape)
    original = keras.Model(inputs, layer(inputs))
    helpers.randomize(original, x=noise(shape))
    layer.g.assign(-0.7)
    layer.gate.factor.assign(0.6)
    expected = layer.fuse()
    written_out = keras.Model(inputs, layer.expand(inputs))
    for other in (original, kg.surgeon.prune(written_out, 0.0)):
        fused = fuse(other)
        (conv,) = [x for x in fused.layers if x.weights]
        assert type(conv) is type(expected)
        pairs = zip(conv.get_weights(), expected.get_weights(), strict=True)
        for got, wanted in pairs:
            # Each is the sum of some products, rounded to float32 twice.
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_sequential_stays_one():
    original = keras.Sequential(
        [
            keras.Input(X),
            ResConv(4, 3, activation="relu", name="first"),
            same(use_bias=False),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    helpers.randomize(original)
    fused = fuse(original)
    assert isinstance(fused, keras.Sequential)
    types = [L.Conv2D, L.Conv2D, L.Flatten, L.Dense]
    assert of_types(fused.layers, types)
    assert fused.layers[0].name == "first"
    check(original, fused)


def test_the_result_is_of_its_own(tmp_path):
    original = model(lambda x: L.ReLU()(bn(same()(ResConv(4, 3)(x)))))
    helpers.randomize(original)
    x = helpers.inputs_for(original)
    expected = helpers.run(original, x)
    fused = fuse(original)
    path = tmp_path / "fused.keras"
    fused.save(path)
    helpers.bump(fused)
    np.testing.assert_array_equal(helpers.run(original, x), expected)
    loaded = keras.saving.load_model(path)
    assert max(helpers.differences(expected, helpers.run(loaded, x))) < 1e-5
    # It trains as any model does.
    fused.compile("sgd", "mse")
    fused.train_on_batch(x, expected[0])


def test_a_network_of_the_zoo():
    original = helpers.randomize(kg.zoo.resnet(8, "projection"))
    fused = fuse(original)
    assert not any(isinstance(x, L.BatchNormalization) for x in fused.layers)
    # Multiply-adds are those of the convolutions before.
    assert kg.stats.count(fused).macs == kg.stats.count(original).macs
    helpers.assert_same(original, fused)


def test_no_model_is_refused():
    with pytest.raises(TypeError, match="built Keras model"):
        fuse(L.Dense(3))
