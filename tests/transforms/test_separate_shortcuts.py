"""1x1 convolutions on shortcuts: the function stays, the ties go."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import zoo
from keras_gates.transforms import insert_gates
from keras_gates.transforms import separate_shortcuts
from tests import helpers

T = helpers.THRESHOLD


def dense_blocks():
    inputs = keras.Input((6,))
    x = L.Dense(8, name="stem")(inputs)
    y = L.Dense(8, name="b")(L.Dense(5, activation="relu", name="a")(x))
    x = L.ReLU()(L.Add(name="add")([x, y]))
    return keras.Model(inputs, L.Dense(3)(x))


def rows_by_operators():
    inputs = keras.Input((9, 4))
    x = L.Conv1D(4, 1, name="stem")(inputs)
    y = L.Conv1D(4, 3, padding="same", name="a")(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(y + x)))


# Network, and how many shortcuts without a kernel it has.
NETWORKS = {
    "identity": (lambda: zoo.resnet(14, "identity"), 4),
    "pad": (lambda: zoo.resnet(14, "pad"), 6),
    "projection": (lambda: zoo.resnet(14, "projection"), 4),
    "preact": (lambda: zoo.preact_resnet(20), 3),
    "dense": (dense_blocks, 1),
    "operators": (rows_by_operators, 1),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_the_function_stays(case):
    build, count = NETWORKS[case]
    model = helpers.randomize(build())
    before = helpers.fingerprint(model)
    x = helpers.inputs_for(model)
    separated = separate_shortcuts(model)
    new = [n for n in separated.layers if n.name.endswith("_separated")]
    assert len(new) == count
    for layer in new:
        kernel = helpers.numpy_of(layer.kernel)
        eye = np.eye(kernel.shape[-1])
        np.testing.assert_array_equal(kernel.squeeze().reshape(eye.shape), eye)
        assert not layer.use_bias
    # A value times one, plus zeros: no rounding at all.
    expected, got = helpers.run(model, x), helpers.run(separated, x)
    assert max(helpers.differences(expected, got)) == 0
    assert helpers.fingerprint(model) == before


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow on a CPU has no channels-first convolutions",
)
def test_channels_first():
    shape = {"input_shape": (3, 16, 16), "data_format": "channels_first"}
    model = helpers.randomize(zoo.resnet(8, **shape))
    x = helpers.inputs_for(model)
    expected = helpers.run(model, x)
    got = helpers.run(separate_shortcuts(model), x)
    assert max(helpers.differences(expected, got)) == 0


def test_each_addition_has_a_gate_of_its_own():
    model = zoo.resnet(14, "pad", (16, 16, 3))
    gated = insert_gates(separate_shortcuts(model), filters=True)
    names = {gate.name for gate in helpers.gates_of(gated)}
    blocks = [f"stage{s}_block{n}" for s in (1, 2, 3) for n in (1, 2)]
    assert len(names) == 1 + 2 * len(blocks)
    helpers.randomize(gated, closed="half")
    pruned = kg.surgeon.prune(gated, T)
    helpers.assert_same(gated, pruned)
    widths = set()
    for block in blocks[:2]:
        conv = pruned.get_layer(f"{block}_conv2").filters
        assert pruned.get_layer(f"{block}_add_separated").filters == conv
        widths.add(conv)
    # In a chain of identities both would be as wide as the stem.
    assert len({pruned.get_layer("conv1").filters, *widths}) > 1


def even_sides():
    inputs = keras.Input((6,))
    sides = [L.Dense(4, name=name)(inputs) for name in ("a", "b")]
    return keras.Model(inputs, L.Dense(2)(L.Add(name="both")(sides)))


@pytest.mark.parametrize(
    "build, match",
    [
        (zoo.plain_resnet, "no shortcut to separate"),
        (even_sides, "as many kernels: both"),
    ],
)
def test_refused(build, match):
    with pytest.raises(ValueError, match=match):
        separate_shortcuts(build())


def test_shortcuts_that_pad_channels_can_be_trained():
    model = kg.separate_shortcuts(kg.zoo.resnet(8))
    model.compile("sgd", "mse")
    x = helpers.inputs_for(model)
    assert np.isfinite(model.train_on_batch(x, np.zeros((4, 10), "float32")))
