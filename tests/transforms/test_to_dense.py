"""`to_dense` against the model with stripes."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.layers.stripconv.stripes import Stripes
from tests import helpers

BACKEND = keras.backend.backend()

MOVED = [L.Cropping2D, L.ZeroPadding2D, L.Conv2D]
# Rows and columns with stripes, arguments, and the layers in their place.
BOXES = {
    "whole": ((0, 3), (0, 3), {"padding": "same"}, [L.Conv2D]),
    "middle": ((1, 2), (0, 3), {"padding": "same"}, [L.Conv2D]),
    # One row more on top, and the last one off.
    "top": ((0, 1), (0, 3), {"padding": "same"}, MOVED),
    "corner": ((0, 2), (0, 1), {"padding": "same"}, MOVED),
    # Nothing but what is left of the kernel's foot: the input moves up.
    "foot": ((2, 3), (1, 2), {}, [L.Cropping2D, L.Conv2D]),
    "valid": ((0, 2), (0, 3), {}, [L.Cropping2D, L.Conv2D]),
    "strides": ((0, 2), (1, 3), {"padding": "same", "strides": 2}, MOVED),
    "dilation": (
        (0, 2),
        (0, 3),
        {"padding": "same", "dilation_rate": 2},
        [L.ZeroPadding2D, L.Conv2D],
    ),
}


def striped(rows, columns, options, shape=(9, 8, 3)):
    kept = np.zeros((3, 3, 4), bool)
    kept[slice(*rows), slice(*columns), :3] = True
    layer = kg.StripConv(
        4,
        3,
        stripes=Stripes(kept).lists(),
        kernel_initializer="zeros",
        name="strip",
        **options,
    )
    model = keras.Sequential([keras.Input(shape), layer])
    return helpers.randomize(model)


@pytest.mark.parametrize("name", BOXES)
def test_a_box_of_the_kernel_is_enough(name):
    rows, columns, options, expected = BOXES[name]
    model = striped(rows, columns, options)
    dense = kg.to_dense(model)
    assert [type(layer) for layer in dense.layers] == expected
    conv = dense.get_layer("strip")
    sizes = rows[1] - rows[0], columns[1] - columns[0]
    assert conv.kernel_size == sizes
    x = helpers.inputs_for(model)
    got, truth = helpers.run(dense, x), helpers.run(model, x)
    # The same products, summed in another order.
    assert helpers.differences(truth, got)[0] <= helpers.RTOL
    assert min(helpers.variation(truth)) > 0.01


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="no such convolution on a CPU"
)
def test_channels_first():
    model = striped(
        (0, 2),
        (0, 3),
        {"padding": "same", "data_format": "channels_first"},
        (3, 9, 8),
    )
    dense = kg.to_dense(model)
    x = helpers.inputs_for(model)
    got, truth = helpers.run(dense, x), helpers.run(model, x)
    assert helpers.differences(truth, got)[0] <= helpers.RTOL


def test_a_skeleton_is_multiplied_in():
    layer = kg.StripConv(
        4,
        3,
        padding="same",
        activation="relu",
        kernel_initializer="zeros",
        name="strip",
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    helpers.randomize(model)
    factors = np.random.default_rng(0).normal(size=(3, 3, 4))
    factors[:, 0] = 0
    layer.skeleton.assign(factors)
    dense = kg.to_dense(model)
    assert dense.get_layer("strip").kernel_size == (3, 2)
    x = helpers.inputs_for(model)
    got, truth = helpers.run(dense, x), helpers.run(model, x)
    assert helpers.differences(truth, got)[0] <= helpers.RTOL


def test_unknown_sizes_with_strides_keep_the_kernel():
    model = striped((0, 1), (0, 3), {"padding": "same", "strides": 2})
    inputs = keras.Input((None, None, 3))
    layer = kg.StripConv.from_config(model.layers[0].get_config())
    open_model = keras.Model(inputs, layer(inputs))
    open_model.set_weights(model.get_weights())
    dense = kg.to_dense(open_model)
    assert dense.get_layer("strip").kernel_size == (3, 3)
    for size in (7, 8):
        x = np.random.default_rng(0).normal(size=(2, size, size, 3))
        x = x.astype("float32")
        got, truth = helpers.run(dense, x), helpers.run(open_model, x)
        assert helpers.differences(truth, got)[0] <= helpers.RTOL


def test_only_what_is_slower_is_turned():
    few = np.zeros((3, 3, 64), bool)
    few[0, 0, :8] = few[2, 2, :8] = True
    inputs = keras.Input((16, 16, 256))
    most = [[list(range(64))] * 3] * 3
    options = {"padding": "same", "kernel_initializer": "zeros"}
    few = Stripes(few).lists()
    x = kg.StripConv(64, 3, stripes=few, name="few", **options)(inputs)
    x = kg.StripConv(64, 3, stripes=most, name="all", **options)(x)
    x = kg.StripConv(8, 3, name="trained", **options)(x)
    dense = kg.to_dense(keras.Model(inputs, x), only_slower=True)
    types = {layer.name: type(layer) for layer in dense.layers}
    assert types["few"] is kg.StripConv
    assert types["all"] is L.Conv2D
    assert types["trained"] is kg.StripConv


@pytest.mark.parametrize(
    "options, turned",
    [
        ({"include": "a"}, ["a"]),
        ({"exclude": "a"}, ["b"]),
        ({"include": kg.StripConv, "exclude": ["b"]}, ["a"]),
    ],
)
def test_names_choose(options, turned):
    layers = [kg.StripConv(2, 3, name=name) for name in "ab"]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    dense = kg.to_dense(model, **options)
    found = [x.name for x in dense.layers if type(x) is L.Conv2D]
    assert found == turned
    with pytest.raises(ValueError, match="'c', which fits nothing"):
        kg.to_dense(model, include="c")
