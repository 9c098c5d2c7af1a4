"""Arithmetic on kernels, with explicit numbers."""

import keras
import numpy as np
from keras import layers as L

from keras_gates.layers import kernels


def test_a_layer_without_a_bias_has_zeros_for_it():
    layer = L.DepthwiseConv1D(1, depth_multiplier=2, use_bias=False)
    layer.build((None, 4, 3))
    kernel, bias = kernels.weights(layer)
    assert kernel.shape == (1, 3, 2)
    assert bias.tolist() == [0.0] * 6


def test_a_batch_normalization_is_a_scale_and_an_offset():
    norm = L.BatchNormalization(epsilon=0.0)
    norm.build((None, 2))
    # gamma, beta, moving mean, moving variance
    norm.set_weights([np.array(x) for x in ([6, 1], [1, 0], [5, 2], [4, 1])])
    scale, offset = kernels.affine(norm)
    assert scale.tolist() == [6 / 2, 1.0]
    assert offset.tolist() == [1 - 5 * 6 / 2, -2.0]
    kernel, bias = kernels.normalized(
        np.array([[1.0, 2.0]]), np.array([10.0, 20.0]), norm
    )
    assert kernel.tolist() == [[3.0, 2.0]]
    assert bias.tolist() == [3 * 10 - 14.0, 20 - 2.0]


def test_outputs_of_a_depthwise_kernel_are_channel_by_channel():
    kernel = np.ones((1, 2, 2))
    scaled = kernels.scaled(kernel, np.array([1.0, 2.0, 3.0, 4.0]))
    assert scaled.tolist() == [[[1, 2], [3, 4]]]


def test_the_identity_of_a_group_counts_from_its_first_channel():
    whole = kernels.identity((3, 3, 2, 2), depthwise=False)
    assert whole.tolist() == [[1, 0], [0, 1]]
    grouped = kernels.identity((3, 3, 1, 2), depthwise=False)
    assert grouped.tolist() == [[1, 1]]


def test_one_tap_and_the_average():
    channels = np.array([[5.0]])
    assert kernels.at_tap((3, 1, 1), (1,), channels).ravel().tolist() == [
        *(0, 5, 0)
    ]
    average = kernels.averaging((2, 2, 1, 1), channels)
    assert average.ravel().tolist() == [1.25] * 4


def test_weights_are_read_in_double_precision():
    layer = L.Dense(1, dtype="float16")
    layer.build((None, 1))
    layer.set_weights([np.array([[0.1]]), np.array([0.0])])
    kernel = kernels.weights(layer).kernel
    assert kernel.dtype == "float64"
    assert kernel[0, 0] == np.float16(0.1)
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float16"
