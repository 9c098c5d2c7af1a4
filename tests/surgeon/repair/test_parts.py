"""The parts of a repair by themselves."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.repair import fit
from keras_gates.surgeon.repair.held import Held
from keras_gates.surgeon.repair.windows import Window

WINDOWS = [
    L.Conv1D(2, 3, strides=2, padding="causal"),
    L.Conv1D(2, 3, dilation_rate=2, padding="causal"),
    L.Conv2D(2, (3, 2), strides=(2, 3), padding="same"),
    L.Conv2D(2, (3, 2), strides=(2, 3)),
    L.Conv2D(2, 3, dilation_rate=(2, 1)),
    L.Conv3D(2, (1, 2, 3), strides=(2, 1, 2), padding="same"),
]


@pytest.mark.parametrize("layer", WINDOWS, ids=range(len(WINDOWS)))
@pytest.mark.parametrize("length", [7, 10])
def test_sizes_of_an_output(layer, length):
    lengths = (length,) * len(layer.kernel_size)
    expected = layer.compute_output_shape((None, *lengths, 2))[1:-1]
    assert Window.of_layer(layer).outputs(lengths) == tuple(expected)


@pytest.mark.parametrize("best", fit.RIDGES)
def test_the_best_ridge_is_found_downhill(best):
    asked = []

    def error(ridge):
        asked.append(ridge)
        return abs(np.log10(ridge) - np.log10(best))

    assert fit._downhill(error) == (best, 0.0)
    assert len(asked) == len(set(asked))


class Inner(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = L.Dense(2)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) + 1.0


class Outer(L.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = Inner()

    def build(self, shape):
        self.inner.build(shape)
        self.bare = self.add_weight(shape=(2, 3), name="bare")

    def call(self, x):
        return keras.ops.matmul(self.inner(x), self.bare)


def test_what_is_fitted_in_a_layer_becomes_the_layers():
    x, layer = keras.Input((4,)), Outer()
    model = keras.Model(x, layer(x))
    graph = see_through.read(model)
    held = Held(graph)
    parts = {
        tuple(call.op.kernel.shape): call.op.kernel
        for call in graph.calls
        if isinstance(call.op, L.Dense)
    }
    own = layer.inner.dense.kernel
    assert set(parts) == {(4, 2), (2, 3)}
    for shape, variable in (((4, 2), own), ((2, 3), layer.bare)):
        copy = parts[shape]
        assert copy is not variable and held.original(copy) is variable
        _ = copy.assign(np.arange(np.prod(shape)).reshape(shape))
        held.spread([copy, None])
        got = keras.ops.convert_to_numpy(variable)
        np.testing.assert_array_equal(got.reshape(-1), range(np.prod(shape)))
    assert held.original(own) is own
