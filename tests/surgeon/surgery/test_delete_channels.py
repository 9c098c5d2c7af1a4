"""Channels deleted from layers: what is left is what NumPy leaves.

The truth is `numpy.delete` on the weights of the layer and of what reads it,
and, where nothing but a Dense reads it, the original with the rows of the
deleted channels at zero.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from tests import helpers
from tests.surgeon import small_models as sm

FORMATS = ["channels_last", "channels_first"]
CHANNELS = [[0], [-1], [1, 2]]
RUNS_FIRST = keras.backend.backend() != "tensorflow"


def weights_of(model, name):
    layer = model.get_layer(name)
    return {w.name: helpers.numpy_of(w) for w in layer.weights}


def assert_weights(model, name, expected):
    got = weights_of(model, name)
    assert got.keys() == expected.keys()
    for key, array in expected.items():
        assert np.array_equal(got[key], array), (name, key)


def deleted(model, name, channels, axis=-1):
    """All weights of a layer without some channels along their last axis."""
    weights = weights_of(model, name)
    return {k: np.delete(w, channels, axis) for k, w in weights.items()}


def rows_of(shape, channels, axis):
    """The rows that a Dense has for channels of a flattened tensor."""
    places = np.arange(np.prod(shape)).reshape(shape)
    return np.take(places, channels, axis).ravel()


def chain(first, middle, shape):
    inputs = keras.Input(shape)
    x = features = first(inputs)
    for layer in middle:
        x = features = layer(x)
    if len(x.shape) > 2:
        x = L.Flatten(name="flatten")(x)
    model = keras.Model(inputs, L.Dense(5, name="out")(x))
    return helpers.randomize(model, closed="none"), features.shape[1:]


def check_chain(model, features, channels, axis, name="first"):
    """The Dense at the end has lost the rows of the channels, exactly."""
    new = kg.surgeon.delete_channels(model, model.get_layer(name), channels)
    before = weights_of(model, "out")
    rows = rows_of(features, channels, axis)
    kernel = np.delete(before["kernel"], rows, axis=0)
    assert_weights(new, "out", {**before, "kernel": kernel})
    return new, rows


def check_function(model, new, rows):
    out = model.get_layer("out")
    kernel = helpers.numpy_of(out.kernel)
    x = helpers.inputs_for(model)
    out.kernel.assign(
        np.where(np.isin(np.arange(len(kernel)), rows)[:, None], 0, kernel)
    )
    expected = helpers.run(model, x)
    out.kernel.assign(kernel)
    # Sums without their zeros are added up in another order.
    assert max(helpers.differences(expected, helpers.run(new, x))) < 1e-5


# Layer types -----------------------------------------------------------------


def conv(rank, layout, **options):
    make = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}[rank]
    return make(3, 3, data_format=layout, name="first", **options)


SPATIAL = {
    "nothing": lambda n, layout: [],
    "max pooling": lambda n, layout: [
        getattr(L, f"MaxPooling{n}D")(2, data_format=layout)
    ],
    "average pooling": lambda n, layout: [
        getattr(L, f"AveragePooling{n}D")(2, data_format=layout)
    ],
    "global average": lambda n, layout: [
        getattr(L, f"GlobalAveragePooling{n}D")(data_format=layout)
    ],
    "global maximum": lambda n, layout: [
        getattr(L, f"GlobalMaxPooling{n}D")(data_format=layout)
    ],
    "normalization": lambda n, layout: [
        L.BatchNormalization(1 if layout == "channels_first" else -1),
        L.ReLU(),
    ],
}
ONE_FORMAT = {
    "cropping": lambda n, layout: [getattr(L, f"Cropping{n}D")(1)],
    "padding": lambda n, layout: [getattr(L, f"ZeroPadding{n}D")(1)],
    "upsampling": lambda n, layout: [getattr(L, f"UpSampling{n}D")(2)],
}
ANY_SHAPE = {
    "leaky ReLU": lambda: L.LeakyReLU(),
    "ELU": lambda: L.ELU(),
    "PReLU": lambda: L.PReLU(),
    "dropout": lambda: L.Dropout(0.5),
    "noise": lambda: L.GaussianNoise(0.5),
    "alpha dropout": lambda: L.AlphaDropout(0.5),
    "activation": lambda: L.Activation("sigmoid"),
}
CASES = [
    *((SPATIAL, k, n, f) for k in SPATIAL for n in (1, 2, 3) for f in FORMATS),
    *((ONE_FORMAT, k, n, FORMATS[0]) for k in ONE_FORMAT for n in (1, 2, 3)),
]


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(
    "table, kind, rank, layout",
    CASES,
    ids=[f"{k} {n}D {f}" for _, k, n, f in CASES],
)
def test_convolutions_and_what_keeps_channels(
    table, kind, rank, layout, channels
):
    first = layout == "channels_first"
    # Sizes that no two axes share: a mistaken axis can't go unseen.
    size = (7, 8, 9)[:rank]
    shape = (2, *size) if first else (*size, 2)
    model, features = chain(
        conv(rank, layout), table[kind](rank, layout), shape
    )
    new, rows = check_chain(model, features, channels, 0 if first else -1)
    assert_weights(new, "first", deleted(model, "first", channels))
    if rank == 2 and (RUNS_FIRST or not first):
        check_function(model, new, rows)


@pytest.mark.parametrize("kind", ANY_SHAPE)
def test_what_looks_at_one_number_at_a_time(kind):
    model, features = chain(conv(2, FORMATS[0]), [ANY_SHAPE[kind]()], (7, 8, 2))
    new, rows = check_chain(model, features, [0, 2], -1)
    assert_weights(new, "first", deleted(model, "first", [0, 2]))
    check_function(model, new, rows)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(
    "make, axes",
    [
        (lambda: L.Conv2D(4, 3, name="second"), {"kernel": -2}),
        (lambda: L.Conv2DTranspose(4, 3, name="second"), {"kernel": -1}),
        (
            lambda: L.SeparableConv2D(4, 3, name="second"),
            {"depthwise_kernel": -2, "pointwise_kernel": -2},
        ),
        (
            lambda: L.DepthwiseConv2D(3, name="second"),
            {"kernel": -2, "bias": 0},
        ),
        (lambda: L.Dense(4, name="second"), {"kernel": 0}),
        (
            lambda: L.BatchNormalization(name="second"),
            dict.fromkeys(
                ["gamma", "beta", "moving_mean", "moving_variance"], 0
            ),
        ),
        (
            lambda: L.LayerNormalization(name="second"),
            {"gamma": 0, "beta": 0},
        ),
    ],
    ids=[
        *("conv", "transposed", "separable", "depthwise", "dense of rank 4"),
        *("batch normalization", "layer normalization"),
    ],
)
def test_what_reads_channels_loses_its_part_of_them(make, axes, channels):
    model, _ = chain(conv(2, FORMATS[0]), [make()], (7, 8, 2))
    new = kg.surgeon.delete_channels(model, "first", channels)
    expected = {
        name: np.delete(w, channels, axes[name]) if name in axes else w
        for name, w in weights_of(model, "second").items()
    }
    assert_weights(new, "second", expected)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(
    "make, axes",
    [
        (lambda: L.Dense(3, name="first"), {}),
        (lambda: L.Conv1D(3, 2, padding="same", name="first"), {}),
        (lambda: L.Conv1DTranspose(3, 2, name="first"), {"kernel": -2}),
        (
            lambda: L.SeparableConv1D(3, 2, name="first"),
            {"depthwise_kernel": None},
        ),
    ],
    ids=["dense", "conv", "transposed", "separable"],
)
def test_the_layer_itself(make, axes, channels):
    model, features = chain(make(), [], (6, 4))
    new, rows = check_chain(model, features, channels, -1)
    expected = {
        name: w if axes.get(name, -1) is None
        else np.delete(w, channels, axes.get(name, -1))
        for name, w in weights_of(model, "first").items()
    }  # fmt: skip
    assert_weights(new, "first", expected)
    check_function(model, new, rows)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(
    "make, gates", [(L.SimpleRNN, 1), (L.GRU, 3), (L.LSTM, 4)]
)
def test_recurrent_layers(make, gates, channels):
    first = make(4, return_sequences=True, name="first")
    model, _ = chain(first, [make(2, name="second")], (6, 5))
    new = kg.surgeon.delete_channels(model, "first", channels)
    gone = np.arange(4)[channels]
    columns = [4 * gate + unit for gate in range(gates) for unit in gone]
    cut = {k: np.delete(w, columns, -1)
           for k, w in weights_of(model, "first").items()}  # fmt: skip
    cut["recurrent_kernel"] = np.delete(cut["recurrent_kernel"], gone, 0)
    assert_weights(new, "first", cut)
    second = weights_of(model, "second")
    kernel = np.delete(second["kernel"], gone, 0)
    assert_weights(new, "second", {**second, "kernel": kernel})


def test_an_embedding_loses_dimensions():
    inputs = keras.Input((6,), dtype="int32")
    x = L.Embedding(9, 4, name="first")(inputs)
    model = keras.Model(inputs, L.Conv1D(2, 3, name="conv")(x))
    new = kg.surgeon.delete_channels(model, "first", [1, -1])
    assert_weights(new, "first", deleted(model, "first", [1, 3]))
    before = weights_of(model, "conv")
    kernel = np.delete(before["kernel"], [1, 3], 1)
    assert_weights(new, "conv", {**before, "kernel": kernel})


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [L.Reshape((30, 4)), L.Conv1D(4, 1, name="conv")],
        lambda: [L.Permute((3, 1, 2)), L.Flatten()],
        lambda: [L.Reshape((5, 6, 2, 2)), L.Flatten()],
    ],
    ids=["space", "permute", "channels split"],
)
def test_targets_of_reshapes_follow(middle):
    """Split channels that no box is left of go with others: an error."""
    inputs = keras.Input((7, 8, 2))
    x = L.Conv2D(4, 3, name="first")(inputs)
    for layer in middle():
        x = layer(x)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x)))
    helpers.randomize(model)
    try:
        new = kg.surgeon.delete_channels(model, "first", [1])
    except ValueError as error:
        assert (
            "can only be deleted together with channels [3] of 'first'"
            in str(error)
        )
        new = kg.surgeon.delete_channels(model, "first", [1, 3])
    x = helpers.inputs_for(new)
    assert np.isfinite(helpers.run(new, x)[0]).all()
    assert new.get_layer("first").filters < 4


# Joins -----------------------------------------------------------------------


def two_convs(join, layout="channels_last"):
    shape = (2, 6, 7) if layout == "channels_first" else (6, 7, 2)
    inputs = [keras.Input(shape) for _ in range(2)]
    pair = [
        L.Conv2D(3, 3, data_format=layout, name=f"conv{i}")(x)
        for i, x in enumerate(inputs)
    ]
    x = join(pair)
    features = x.shape[1:]
    x = L.Flatten()(x)
    model = keras.Model(inputs, L.Dense(5, name="out")(x))
    return helpers.randomize(model), features


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_concatenated_channels_are_found_in_their_place(channels, layout):
    axis = 1 if layout == "channels_first" else -1
    model, features = two_convs(L.Concatenate(axis), layout)
    places = [c % 3 + 3 for c in channels]
    new = kg.surgeon.delete_channels(model, "conv1", channels)
    rows = rows_of(features, places, axis - (axis > 0))
    before = weights_of(model, "out")
    kernel = np.delete(before["kernel"], rows, 0)
    assert_weights(new, "out", {**before, "kernel": kernel})
    assert_weights(new, "conv0", weights_of(model, "conv0"))


JOINS = [L.Add, L.Multiply, L.Average, L.Maximum, L.Subtract]


@pytest.mark.parametrize("join", JOINS)
def test_joined_layers_lose_the_same_channels_by_two_jobs(join):
    model, features = two_convs(join())
    surgeon = kg.surgeon.Surgeon(model, copy=True)
    for name in ("conv0", "conv1"):
        surgeon.add_job("delete_channels", model.get_layer(name), channels=[1])
    new = surgeon.operate()
    for name in ("conv0", "conv1"):
        assert_weights(new, name, deleted(model, name, [1]))
    before = weights_of(model, "out")
    kernel = np.delete(before["kernel"], rows_of(features, [1], -1), 0)
    assert_weights(new, "out", {**before, "kernel": kernel})


def test_one_of_two_joined_layers_is_an_error_that_lists_the_other():
    model, _ = two_convs(L.Add(name="sum"))
    with pytest.raises(
        ValueError,
        match=r"Channels \[0, 2\] of 'conv0' can only be deleted together "
        r"with channels \[0, 2\] of 'conv1'. They meet in 'sum'. Pass "
        "tied=True",
    ):
        kg.surgeon.delete_channels(model, "conv0", [0, 2])
    surgeon = kg.surgeon.Surgeon(model)
    surgeon.add_job("delete_channels", "conv0", channels=[0])
    surgeon.add_job("delete_channels", "conv1", channels=[1])
    with pytest.raises(ValueError, match=r"channels \[1\] of 'conv0'"):
        surgeon.operate()


def test_tied_deletes_the_group():
    model, _ = two_convs(L.Add())
    new = kg.surgeon.delete_channels(model, "conv0", [-1], tied=True)
    for name in ("conv0", "conv1"):
        assert_weights(new, name, deleted(model, name, [2]))


def test_a_residual_stream_is_one_group():
    model = kg.zoo.resnet(20)
    helpers.randomize(model)
    first = next(x for x in model.layers if isinstance(x, L.Conv2D))
    with pytest.raises(ValueError, match="They meet in"):
        kg.surgeon.delete_channels(model, first, [3])
    new = kg.surgeon.delete_channels(model, first, [3], tied=True)
    before = {x.name: x for x in model.layers}
    # The stem and the second layer of each block of the first stage.
    narrow = [
        x.name
        for x in new.layers
        if isinstance(x, L.Conv2D) and x.filters < before[x.name].filters
    ]
    assert first.name in narrow
    for name in narrow:
        kernel = weights_of(model, name)["kernel"]
        got = weights_of(new, name)["kernel"]
        expected = np.delete(kernel, 3, -1)
        if name != first.name:
            assert got.shape[2] in (kernel.shape[2], kernel.shape[2] - 1)
        if got.shape[2] == kernel.shape[2]:
            assert np.array_equal(got, expected)
    assert np.isfinite(helpers.run(new, helpers.inputs_for(new))[0]).all()


def test_a_shared_layer_behind_reads_the_same_channels_of_both():
    inputs = keras.Input((5,))
    x, y = (L.Dense(4, name=f"dense{i}")(inputs) for i in range(2))
    shared = L.Dense(3, name="shared")
    model = keras.Model(inputs, [shared(x), shared(y)])
    helpers.randomize(model)
    with pytest.raises(ValueError, match=r"channels \[0\] of 'dense1'"):
        kg.surgeon.delete_channels(model, "dense0", [0])
    new = kg.surgeon.delete_channels(model, "dense0", [0], tied=True)
    before = weights_of(model, "shared")
    kernel = np.delete(before["kernel"], 0, 0)
    assert_weights(new, "shared", {**before, "kernel": kernel})
    assert new.get_layer("shared") is new.layers[-1]


def test_a_depthwise_layer_goes_with_what_feeds_it():
    depthwise = L.DepthwiseConv2D(3, name="depthwise")
    model, _ = chain(conv(2, FORMATS[0]), [depthwise], (7, 8, 2))
    with pytest.raises(ValueError, match=r"channels \[1\] of 'first'"):
        kg.surgeon.delete_channels(model, "depthwise", [1])
    new = kg.surgeon.delete_channels(model, "depthwise", [1], tied=True)
    assert_weights(new, "first", deleted(model, "first", [1]))


def test_groups_lose_the_same_place_in_each():
    inputs = keras.Input((6, 6, 4))
    x = L.Conv2D(6, 3, groups=2, name="grouped")(inputs)
    model = keras.Model(inputs, L.Conv2D(2, 1, name="out")(x))
    helpers.randomize(model)
    with pytest.raises(ValueError, match=r"channels \[3\] of 'grouped'"):
        kg.surgeon.delete_channels(model, "grouped", [0])
    new = kg.surgeon.delete_channels(model, "grouped", [0, 3])
    assert_weights(new, "grouped", deleted(model, "grouped", [0, 3]))


# What a deletion is not ------------------------------------------------------


def test_constants_are_not_made_up_for():
    """A channel of ones has a part in the output: deletion drops it."""
    inputs = keras.Input((5,))
    x = L.Dense(4, activation="sigmoid", name="first")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    helpers.randomize(model)
    new = kg.surgeon.delete_channels(model, "first", [0])
    before = weights_of(model, "out")
    kernel = np.delete(before["kernel"], 0, 0)
    assert_weights(new, "out", {"kernel": kernel, "bias": before["bias"]})


def test_outputs_get_narrower():
    inputs = keras.Input((5,))
    classes = L.Dense(4, activation="softmax", name="classes")
    model = helpers.randomize(keras.Model(inputs, classes(inputs)))
    new = kg.surgeon.delete_channels(model, "classes", [0])
    x = helpers.inputs_for(model)
    whole = helpers.run(model, x)[0][:, 1:]
    expected = whole / whole.sum(axis=1, keepdims=True)
    # A softmax over fewer classes is the same odds, in float32.
    np.testing.assert_allclose(helpers.run(new, x)[0], expected, rtol=1e-5)


def test_nested_models_and_sequentials_stay_what_they_are():
    model = sm.siamese(closed="none")
    new = kg.surgeon.delete_channels(
        model, model.get_layer("tower").get_layer("hidden"), [2]
    )
    tower = new.get_layer("tower")
    assert isinstance(tower, keras.Sequential)
    assert tower.get_layer("hidden").units == 7


def test_the_model_is_left_alone():
    model = sm.convnet(closed="none")
    before = helpers.fingerprint(model)
    kg.surgeon.delete_channels(model, "conv1", [2], copy=False)
    with pytest.raises(ValueError):
        kg.surgeon.delete_channels(model, "conv1", [99])
    assert helpers.fingerprint(model) == before


# Some calls of a shared layer ------------------------------------------------


def twice():
    inputs = [keras.Input((5,)) for _ in range(2)]
    shared = L.Dense(4, name="shared")
    heads = [
        L.Dense(2, name=f"head{i}")(shared(x)) for i, x in enumerate(inputs)
    ]
    return helpers.randomize(keras.Model(inputs, heads))


def test_some_calls_get_a_layer_of_their_own():
    model = twice()
    new = kg.surgeon.delete_channels(
        model, model.get_layer("shared"), [1], node_indices=[1]
    )
    assert_weights(new, "shared", weights_of(model, "shared"))
    own = deleted(model, "shared", [1])
    assert_weights(new, "shared_delete_channels", own)
    head = weights_of(model, "head1")
    kernel = np.delete(head["kernel"], 1, 0)
    assert_weights(new, "head1", {**head, "kernel": kernel})
    assert_weights(new, "head0", weights_of(model, "head0"))


def test_all_calls_of_a_shared_layer_lose_the_same():
    model = twice()
    new = kg.surgeon.delete_channels(model, "shared", [1])
    assert_weights(new, "shared", deleted(model, "shared", [1]))
    assert new.get_layer("head0").kernel.shape[0] == 3


# What is refused -------------------------------------------------------------


@pytest.mark.parametrize(
    "channels, error, words",
    [
        ([8], ValueError, "out of range: it has 8"),
        ([-9], ValueError, "out of range: it has 8"),
        ([1, 1], ValueError, "given twice"),
        ([1, -7], ValueError, "given twice"),
        (list(range(8)), ValueError, "all 8 channels"),
        ([0.5], TypeError, "must be ints"),
        ([True], TypeError, "must be ints"),
    ],
)
def test_bad_channels(channels, error, words):
    model = sm.chain(closed="none")
    with pytest.raises(error, match=words):
        kg.surgeon.delete_channels(model, "hidden", channels)


def test_a_layer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="'hidden' is not a layer of 'chain'"):
        other = sm.chain(closed="none").get_layer("hidden")
        kg.surgeon.delete_channels(sm.chain(closed="none"), other, [0])


def test_layers_without_channels_are_refused():
    model = sm.convnet(closed="none")
    with pytest.raises(ValueError, match="'pool' has no channels of its own"):
        kg.surgeon.delete_channels(model, "pool", [0])


def test_in_front_of_an_embedding_nothing_is_deleted():
    inputs = keras.Input((5,))
    x = L.Dense(4, activation="relu", name="first")(inputs)
    x = L.Embedding(9, 3, name="table")(x)
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match=r"'table' \(of type Embedding\)"):
        kg.surgeon.delete_channels(model, "first", [0])


def test_in_front_of_what_has_no_rule_nothing_is_deleted():
    with pytest.raises(ValueError, match="no rule for Unknown"):
        kg.surgeon.delete_channels(sm.barred(), "hidden", [0])


def test_what_meets_the_whole_input_is_refused():
    inputs = keras.Input((5,))
    x = L.Add()([L.Dense(5, name="first")(inputs), inputs])
    model = keras.Model(inputs, L.Dense(2)(x))
    with pytest.raises(ValueError, match="combined with what has all its"):
        kg.surgeon.delete_channels(model, "first", [0], tied=True)


def test_an_argument_of_channels_may_be_an_array():
    model = sm.chain(closed="none")
    new = kg.surgeon.delete_channels(model, "hidden", np.array([0, 3]))
    assert new.get_layer("hidden").units == 6
    same = kg.surgeon.delete_channels(model, "hidden", [])
    assert same.get_layer("hidden").units == 8
