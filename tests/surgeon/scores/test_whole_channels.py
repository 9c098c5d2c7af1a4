"""A channel that a score closes is zero at all places where it is read.

That holds for what is a constant there, too: the rim that a padding puts around
it, and what a normalization makes of such a rim. The truth is the user's own
layers, in two halves, with the channels masked between them by hand.
"""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests import helpers
from tests.surgeon import wide_judge
from tests.surgeon.scores import test_recurrent_scores as scored

SIZE, WIDTH = 6, scored.UNITS
IS_OPEN = np.isin(np.arange(WIDTH), scored.OPEN)
THERE = (np.arange(SIZE * SIZE).reshape(1, SIZE, SIZE, 1) % 3 > 0) * 1.0


def padded(mode, **options):
    widths = [(0, 0), (1, 2), (0, 1), (0, 0)]
    return lambda x: ops.pad(x, widths, mode=mode, **options)


def turned(function):
    """On maps whose channels come first."""

    def made(x):
        return L.Permute((2, 3, 1))(function(L.Permute((3, 1, 2))(x)))

    return made


def with_rows(value):
    """Rows of a constant, under those of the map."""
    return lambda x: ops.concatenate(
        [x, ops.full_like(x[:, :2], value)], axis=1
    )


# What is between the layer that makes channels and the normalization.
ALONG_SPACE = {
    "nothing": lambda x: x,
    "zero padding": L.ZeroPadding2D(((1, 0), (2, 1))),
    "zero padding, channels first": turned(
        L.ZeroPadding2D(1, data_format="channels_first")
    ),
    "pad with 0": padded("constant"),
    "pad with 1.5": padded("constant", constant_values=1.5),
    "pad by reflection": padded("reflect"),
    "pad by symmetry": padded("symmetric"),
    "padded twice": lambda x: padded("constant", constant_values=0.5)(
        L.ReLU()(padded("constant")(x))
    ),
    "pad images": lambda x: ops.image.pad_images(x, 1, 2, 1, 0),
    "resized with a rim": L.Resizing(5, 9, pad_to_aspect_ratio=True),
    "resized": L.Resizing(4, 9),
    "cropped": L.Cropping2D(1),
    "cropped, then padded": lambda x: L.ZeroPadding2D(1)(L.Cropping2D(2)(x)),
    "center": L.CenterCrop(4, 4),
    "upsampling": L.UpSampling2D(2),
    "turned and shifted": lambda x: ops.roll(ops.flip(x, axis=1), 2, axis=2),
    "lower triangle": turned(ops.tril),
    "places taken": lambda x: ops.take(x, [0, 3, 3, 5], axis=1),
    "sums": lambda x: ops.cumsum(x, axis=1),
    "padded in a model": lambda x: keras.Sequential(
        [keras.Input(x.shape[1:]), L.ReLU(), L.ZeroPadding2D(1)]
    )(x),
    "max pooling": L.MaxPooling2D(2, padding="same"),
    "average pooling": L.AveragePooling2D(4, 3, padding="same"),
    "depthwise": lambda x: L.DepthwiseConv2D(3, padding="same")(x),
    "rows of 0": with_rows(0.0),
    "rows of 0.3": with_rows(0.3),
}
CONV = {"padding": "same", "activation": "tanh"}
READERS = {
    "conv": lambda: [L.Conv2D(3, 3, **CONV), L.GlobalAveragePooling2D()],
    "strided": lambda: [L.Conv2D(3, 2, strides=2), L.GlobalMaxPooling2D()],
    "dense": lambda: [L.Dense(3, activation="tanh"), L.Flatten(), L.Dense(2)],
    "flat": lambda: [L.Flatten(), L.Dense(2)],
    "mean": lambda: [L.GlobalAveragePooling2D(), L.Dense(2)],
}


def halves(between, reader, made=None):
    """The model, what is before the mask, and what is after it."""
    x = keras.Input((SIZE, SIZE, 3))
    y = (made or L.Conv2D(WIDTH, 1, name="cells"))(x)
    y = L.ReLU()(L.BatchNormalization()(between(y)))
    first, middle = keras.Model(x, y), keras.Input(y.shape[1:])
    z = middle
    for layer in READERS[reader]():
        y, z = layer(y), layer(z)
    model = keras.Model(x, y)
    return helpers.randomize(model), first, keras.Model(middle, z)


def check(model, first, second, is_open):
    """Both truths agree; the layer has lost its closed channels."""
    data = helpers.inputs_for(model)
    plan, small = scored.prune(model, "cells")
    expected = helpers.run(second, helpers.run(first, data)[0] * is_open)
    same(expected, helpers.run(small, data))
    assert max(kg.surgeon.verify(model, small, plan, data).values()) < 1e-5
    assert small.get_layer("cells").filters == len(scored.OPEN)
    return plan, data, expected


def same(expected, got):
    assert max(helpers.differences(expected, got)) < helpers.RTOL


def judged(model, *rest):
    """`check`, and the judge of random graphs says so, too."""
    plan, data, expected = check(model, *rest)
    scores = scored.scores_of("cells")
    same(expected, wide_judge.Truth(model, data, plan, scores).at(data))


CASES = [(between, "conv") for between in ALONG_SPACE]
CASES += [("zero padding", reader) for reader in READERS if reader != "conv"]
CASES += [
    (between, "flat")
    for between in ("zero padding, channels first", "pad with 1.5", "resized")
]


@pytest.mark.parametrize("between, reader", CASES)
def test_what_is_constant_along_space_is_the_channels(between, reader):
    judged(*halves(ALONG_SPACE[between], reader), IS_OPEN)


def test_a_residual_stream_with_a_rim():
    """It is read twice: after a normalization, and with what that adds."""
    x = keras.Input((SIZE, 4))
    rim = ops.pad(L.Dense(WIDTH, name="cells")(x), [(0, 0), (0, 1), (0, 0)])
    inner = L.ReLU()(L.BatchNormalization()(rim))
    conv, head = L.Conv1D(WIDTH, 3, padding="same"), L.Dense(3)
    pooled = L.GlobalMaxPooling1D()(L.Add()([rim, conv(inner)]))
    model = helpers.randomize(keras.Model(x, head(pooled)))
    data = helpers.inputs_for(model)
    plan, small = scored.prune(model, "cells")
    read, flat = keras.Input(inner.shape[1:]), keras.Input((WIDTH,))
    stream, inside = helpers.run(keras.Model(x, [rim, inner]), data)
    stream += helpers.run(keras.Model(read, conv(read)), inside * IS_OPEN)[0]
    top = stream.max(axis=1) * IS_OPEN
    expected = helpers.run(keras.Model(flat, head(flat)), top)
    same(expected, helpers.run(small, data))
    assert max(kg.surgeon.verify(model, small, plan, data).values()) < 1e-5
    judge = wide_judge.Truth(model, data, plan, scored.scores_of("cells"))
    same(expected, judge.at(data))
    assert small.get_layer("cells").units == len(scored.OPEN)


@pytest.mark.parametrize("strides, padding", [(3, "valid"), (2, "same")])
def test_places_with_nothing_but_a_bias(strides, padding):
    """A transposed convolution whose kernel leaves places out."""
    made = L.Conv2DTranspose(
        WIDTH, 1, strides, padding=padding, name="cells", activation="sigmoid"
    )
    judged(*halves(L.ZeroPadding2D(1), "conv", made), IS_OPEN)


BESIDE = {
    "channels of 0": (lambda x: ops.pad(x, [(0, 0)] * 3 + [(1, 2)]), (1, 2)),
    "channels of 0, and a rim": (
        lambda x: ops.pad(L.ZeroPadding2D(1)(x), [(0, 0)] * 3 + [(0, 1)]),
        (0, 1),
    ),
}


@pytest.mark.parametrize("reader", ["conv", "flat"])
@pytest.mark.parametrize("between", BESIDE)
def test_what_is_constant_beside_the_channels_is_not_theirs(between, reader):
    between, widths = BESIDE[between]
    is_open = np.pad(IS_OPEN, widths, constant_values=True)
    judged(*halves(between, reader), is_open)


def test_what_has_the_shape_of_channels_goes_with_them():
    """There is no other way to make two channels like the first two."""

    def between(x):
        return ops.concatenate([ops.full_like(x[..., :2], 0.3), x], axis=-1)

    is_open = np.concatenate([IS_OPEN[:2], IS_OPEN])
    check(*halves(between, "conv"), is_open)


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x * THERE,
        lambda x: ops.where(THERE > 0, x, 0.7),
    ],
)
def test_what_varies_along_space_is_no_channel_of_its_own(between):
    check(*halves(between, "conv"), IS_OPEN)


def test_a_gate_closes_no_more_than_what_it_is_on():
    """What a rim becomes after it stays, at the price of one channel."""
    x = keras.Input((SIZE, SIZE, 3))
    y = L.Conv2D(WIDTH, 1, name="cells")(x)
    y = L.ZeroPadding2D(1)(kg.FilterGate(name="gate")(y))
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.GlobalMaxPooling2D()(L.Conv2D(3, 3, padding="same")(y))
    model = helpers.randomize(keras.Model(x, y), closed="none")
    model.get_layer("gate").factor.assign(IS_OPEN * 1.0)
    data = helpers.inputs_for(model)
    small = kg.surgeon.prune(model, 0.5)
    same(helpers.run(model, data), helpers.run(small, data))
    assert small.get_layer("cells").filters == len(scored.OPEN) + 1
