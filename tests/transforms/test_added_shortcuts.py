"""Shortcuts that were added: listed, and dropped where the gate is open."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import zoo
from keras_gates.transforms import added_shortcuts
from keras_gates.transforms import drop_shortcuts
from keras_gates.transforms import insert_gates
from tests import helpers

T = helpers.THRESHOLD
SMALL_IMAGE = (16, 16, 3)


def network():
    return zoo.inception(((6, 4), 5, (4, 6)), SMALL_IMAGE)


def gated_network(**options):
    return insert_gates(network(), layers=True, blocks=True, **options)


def test_listed():
    gated = gated_network()
    scalar = {gate.name for gate in helpers.gates_of(gated)}
    # The halving block has a shortcut of its own, its pooling.
    there = {"block2_concat_block_gate"}
    found = added_shortcuts(gated)
    assert {x.gate for x in found} == scalar - there
    assert {x.add for x in found} == {
        f"{name}_shortcut_add" for name in scalar - there
    }


def test_listed_after_saving(tmp_path):
    gated = insert_gates(gated_network(), filters=True)
    gated.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    assert added_shortcuts(again) == added_shortcuts(gated_network())


def test_names_alone_are_not_enough():
    inputs = keras.Input((4,))
    x = L.Dense(4, name="d")(inputs)
    x = L.Add(name="d_layer_gate_shortcut_add")([inputs, x])
    assert added_shortcuts(keras.Model(inputs, x)) == []


def test_dropped_exactly_where_nothing_is_lost():
    """Inserted with "same" and at one, a shortcut counts for nothing."""
    source = helpers.randomize(network())
    x = helpers.inputs_for(source)
    gated = insert_gates(source, layers=True, blocks=True, start="same")
    bare = drop_shortcuts(gated, T)
    assert added_shortcuts(bare) == []
    assert len(helpers.gates_of(bare)) == len(helpers.gates_of(gated))
    expected, got = helpers.run(source, x), helpers.run(bare, x)
    assert max(helpers.differences(expected, got)) == 0
    assert bare.count_params() < gated.count_params()


@pytest.mark.parametrize("start", ["residual", "same"])
def test_closed_gates_keep_theirs(start):
    gated = gated_network(start=start)
    helpers.randomize(gated, closed="ones")
    closed = ["block1_3x3_layer_gate", "block3_concat_block_gate"]
    for name in closed:
        gated.get_layer(name).factor.assign(0.1)
    bare = drop_shortcuts(gated, T)
    assert {x.gate for x in added_shortcuts(bare)} == {*closed}
    pruned = kg.surgeon.prune(bare, T)
    helpers.assert_same(bare, pruned)
    names = {layer.name for layer in pruned.layers}
    assert not names & {"block1_3x3", "block3_1x1", "block3_3x3"}


def test_residual_ones_change_the_function():
    source = zoo.plain_resnet(8, SMALL_IMAGE)
    gated = insert_gates(source, layers=True, mismatch="skip")
    helpers.randomize(gated, closed="ones")
    bare = drop_shortcuts(gated, T)
    x = helpers.inputs_for(gated)
    far = helpers.differences(helpers.run(gated, x), helpers.run(bare, x))
    assert max(far) > 1e-2
    # It is the plain network, with the weights that the gated one had.
    for layer in source.layers:
        layer.set_weights(gated.get_layer(layer.name).get_weights())
    np.testing.assert_array_equal(
        helpers.run(source, x)[0], helpers.run(bare, x)[0]
    )


def test_bad_thresholds():
    with pytest.raises(ValueError, match="at least 0"):
        drop_shortcuts(gated_network(), -1.0)
    with pytest.raises(ValueError, match="no gates"):
        drop_shortcuts(network(), 0.5)
