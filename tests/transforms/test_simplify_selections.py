"""1x1 convolutions that only pick channels: gone, gathered, or kept."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.transforms import simplify_selections
from tests import helpers

# At 16 multiply-adds a value, a kernel of 40 inputs costs more to run than to
# gather: 40 > 16. With a channel of zeros, 41 more are moved.
INPUTS = 40


def matrix(indices, inputs=INPUTS):
    """A kernel that copies these inputs; -1 for a column of zeros."""
    kernel = np.zeros((inputs, len(indices)), "float32")
    for column, row in enumerate(indices):
        if row >= 0:
            kernel[row, column] = 1
    return kernel


def around(layer, kernel, rank=4):
    inputs = keras.Input((6,) * (rank - 2) + (kernel.shape[0],))
    y = layer(inputs)
    values = kernel.reshape((1,) * (rank - 2) + kernel.shape)
    layer.kernel.assign(values)
    return keras.Model(inputs, L.Activation("tanh")(y))


def conv(outputs, **options):
    options = {"use_bias": False, "name": "s", **options}
    return L.Conv2D(outputs, **{"kernel_size": 1, **options})


EYE, SOME, ZERO = np.arange(INPUTS), np.arange(5, 35), np.arange(-1, INPUTS - 1)
TWICE = [3, 3, 7, 1]


# What becomes of a layer with a kernel that copies: by hand, by its cost.
@pytest.mark.parametrize(
    "make, indices, inputs, left",
    [
        (conv, EYE, INPUTS, []),
        (conv, EYE[:8], 8, []),
        (conv, SOME, INPUTS, ["s"]),
        (conv, TWICE, INPUTS, ["s"]),
        (conv, TWICE, 16, None),  # 16 = 16 * 4 / 4: no gain
        (conv, TWICE, 17, ["s"]),
        (conv, ZERO, INPUTS, ["s_zero", "s"]),  # 16 * 81 < 40 * 40
        (conv, ZERO[:20], INPUTS, None),  # 16 * 61 > 40 * 20
        (lambda n: L.Dense(n, name="s"), SOME, INPUTS, ["s"]),
    ],
)
def test_what_copies_goes_where_that_is_cheaper(make, indices, inputs, left):
    layer = make(len(indices))
    rank = 2 if isinstance(layer, L.Dense) else 4
    model = around(layer, matrix(indices, inputs), rank)
    before = helpers.fingerprint(model)
    x = helpers.inputs_for(model)
    new = simplify_selections(model)
    # Copied values: no rounding at all.
    differences = helpers.differences(
        helpers.run(model, x), helpers.run(new, x)
    )
    assert max(differences) == 0
    names = [op.name for op in new.operations[1:-1]]
    assert names == (["s"] if left is None else left)
    assert bool(kg.stats.count(new).macs) is (left is None)
    assert helpers.fingerprint(model) == before


@pytest.mark.parametrize(
    "layer, change",
    [
        (conv(INPUTS), lambda k: k * 2),
        (conv(INPUTS), lambda k: -k),
        (conv(INPUTS), lambda k: k + np.eye(INPUTS)[::-1]),
        (conv(INPUTS, activation="relu"), None),
        (conv(INPUTS, strides=2), None),
        (conv(INPUTS, use_bias=True, bias_initializer="ones"), None),
        (conv(INPUTS, dtype="mixed_float16"), None),
    ],
)
def test_what_does_more_stays(layer, change):
    kernel = matrix(EYE)
    model = around(layer, kernel if change is None else change(kernel))
    kept = [op.name for op in simplify_selections(model).operations]
    assert "s" in kept


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
def test_along_the_axis_of_the_channels(rank, layout):
    if layout == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow on a CPU has no such convolutions")
    kind = [L.Conv1D, L.Conv2D, L.Conv3D][rank - 3]
    layer = kind(30, 1, data_format=layout, use_bias=False, name="s")
    space = (4,) * (rank - 2)
    first = layout == "channels_first"
    inputs = keras.Input((INPUTS, *space) if first else (*space, INPUTS))
    model = keras.Model(inputs, L.Activation("tanh")(layer(inputs)))
    layer.kernel.assign(matrix(SOME).reshape((1,) * (rank - 2) + (-1, 30)))
    new = simplify_selections(model)
    x = helpers.inputs_for(model)
    differences = helpers.differences(
        helpers.run(model, x), helpers.run(new, x)
    )
    assert max(differences) == 0
    assert not kg.stats.count(new).params


def test_called_twice_in_a_nested_model():
    layer = conv(30)
    inner = around(layer, matrix(SOME))
    a, b = keras.Input((6, 6, INPUTS)), keras.Input((6, 6, INPUTS))
    model = keras.Model([a, b], L.Add()([inner(a), inner(b)]))
    new = simplify_selections(model)
    x = helpers.inputs_for(model)
    differences = helpers.differences(
        helpers.run(model, x), helpers.run(new, x)
    )
    assert max(differences) == 0
    assert not kg.stats.count(new).params


@pytest.mark.parametrize("closed", [0.0, 0.5])
def test_the_cost_of_separated_shortcuts(closed):
    """Against the original: what stays of the 1x1 convolutions counts."""
    model = helpers.randomize(kg.zoo.resnet(14, input_shape=(16, 16, 3)))
    gated = kg.insert_gates(kg.separate_shortcuts(model), filters=True)
    rng = np.random.default_rng(0)
    for gate in helpers.gates_of(gated):
        open_ = rng.random(gate.factor.shape) >= closed
        gate.factor.assign(open_.astype("float32"))
    small = kg.surgeon.prune(gated, 0.5)
    new = simplify_selections(small)
    helpers.assert_same(gated, new)
    pairs = {
        layer.name: layer.kernel.shape[-2:]
        for layer in small.layers
        if layer.name.endswith("_separated")
    }
    assert len(pairs) == 6
    left = {layer.name for layer in new.layers if layer.name in pairs}
    sizes = {"stage1": 256, "stage2": 64, "stage3": 16}
    cost = {n: sizes[n[:6]] * i * o for n, (i, o) in pairs.items()}
    assert kg.stats.count(new).macs == kg.stats.count(small).macs - sum(
        macs for name, macs in cost.items() if name not in left
    )
    removed = kg.stats.compare(model, new).macs_removed
    assert (removed == 0) if not closed else (removed > 0.5)
    assert bool(left) is bool(closed)
