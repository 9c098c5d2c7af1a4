"""Shortcuts that were added: listed, and dropped where the gate is open."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import zoo
from keras_gates.transforms import added_shortcuts
from keras_gates.transforms import drop_shortcuts
from keras_gates.transforms import find_structure
from keras_gates.transforms import insert_gates
from tests import helpers

T = helpers.THRESHOLD
SMALL_IMAGE = (16, 16, 3)


def network():
    return zoo.inception(((6, 4), 5, (4, 6)), SMALL_IMAGE)


def gated_network(start="residual", **options):
    """With the paper's shortcuts, which count for something."""
    options = {"layers": True, "blocks": True, "start": start, **options}
    return insert_gates(network(), **options)


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


def renamed(model):
    """A copy of a model with other names for all of its layers."""

    def clone(layer):
        config = {**layer.get_config(), "name": f"{layer.name}_other"}
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=clone)


def pieces(model):
    """What could get gates, or why not, without what `renamed` adds."""
    found = find_structure(model)
    return [
        (x.name.replace("_other", ""), x.reason.replace("_other", ""))
        for x in [*found.layers, *found.blocks]
    ]


@pytest.mark.parametrize("start", ["residual", "same"])
def test_found_whatever_the_names(start):
    gated = gated_network(start=start)
    other = renamed(gated)
    expected = [f"{x.gate}_other" for x in added_shortcuts(gated)]
    assert [x.gate for x in added_shortcuts(other)] == expected
    # What was added is nothing that could get a gate of its own.
    assert pieces(other) == pieces(gated)


@pytest.mark.parametrize("start", ["residual", "same"])
def test_models_of_older_versions_are_read_by_name(start):
    """Their gates do not say that the shortcut was added."""
    gated = gated_network(start=start)
    expected = added_shortcuts(gated)
    for gate in helpers.gates_of(gated):
        gate.added_shortcut = False
    assert expected and added_shortcuts(gated) == expected
    assert added_shortcuts(renamed(gated)) == []


def test_only_gates_with_one_say_so():
    gated = insert_gates(network(), filters=True, blocks=True)
    for gate in helpers.gates_of(gated):
        found = gate.name in {x.gate for x in added_shortcuts(gated)}
        assert gate.added_shortcut == found
        assert ("added_shortcut" in gate.get_config()) == found


def test_a_sum_of_the_model_is_none_once_the_added_one_is_dropped():
    """The gate feeds an `Add` all the same, then that of the block."""
    inputs = keras.Input((8,))
    x = L.Dense(8, name="first")(inputs)
    h = L.Dense(8, name="second")(x)
    model = keras.Model(inputs, L.Dense(2)(L.Add(name="sum")([x, h])))
    gated = insert_gates(model, layers=["second"])
    assert [x.gate for x in added_shortcuts(gated)] == ["second_layer_gate"]
    bare = drop_shortcuts(gated, T)
    gate = bare.get_layer("second_layer_gate")
    assert gate.output is bare.get_layer("sum").input[1]
    assert added_shortcuts(bare) == []


def test_names_alone_are_not_enough():
    inputs = keras.Input((4,))
    x = L.Dense(4, name="d")(inputs)
    x = L.Add(name="d_layer_gate_shortcut_add")([inputs, x])
    assert added_shortcuts(keras.Model(inputs, x)) == []


def test_dropped_exactly_where_nothing_is_lost():
    """Inserted with "same" and at one, a shortcut counts for nothing."""
    source = helpers.randomize(network())
    x = helpers.inputs_for(source)
    gated = insert_gates(source, layers=True, blocks=True)
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
    gated = insert_gates(source, layers=True, mismatch="skip", start="residual")
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


# In one call, by `prune` ----------------------------------------------------


@pytest.mark.parametrize("start", ["residual", "same"])
def test_pruned_in_one_call(start):
    gated = gated_network(start=start)
    helpers.randomize(gated, closed="ones")
    gated.get_layer("block1_3x3_layer_gate").factor.assign(0.1)
    before = helpers.fingerprint(gated)
    pruned = kg.surgeon.prune(gated, T, drop_shortcuts=True)
    bare = drop_shortcuts(gated, T)
    helpers.assert_same(bare, pruned)
    assert helpers.fingerprint(gated) == before
    exact = kg.surgeon.prune(gated, T)
    assert pruned.count_params() < exact.count_params()
    x = helpers.inputs_for(gated)
    far = helpers.differences(helpers.run(exact, x), helpers.run(pruned, x))
    # At a gate of one, `f - shortcut + shortcut` does without both.
    if start == "same":
        assert max(far) < helpers.RTOL
    else:
        assert max(far) > 1e-2


def test_the_plan_tells_what_is_dropped():
    gated = gated_network()
    helpers.randomize(gated, closed="ones")
    gated.get_layer("block1_3x3_layer_gate").factor.assign(0.1)
    plan = kg.surgeon.plan(gated, T, drop_shortcuts=True)
    count = len(added_shortcuts(gated)) - 1
    assert f"removes {count} added shortcuts of gates" in str(plan)
    assert "changes the function" in str(plan)
    assert "removes" not in str(kg.surgeon.plan(gated, T))
    again = kg.surgeon.Plan.from_json(plan.to_json(), gated)
    small = again.apply()
    assert plan.params[1] == small.count_params()
    # Compared with the gated model without these shortcuts.
    assert max(kg.surgeon.verify(gated, small, again).values()) < helpers.RTOL
    with_them = kg.surgeon.verify(gated, small, T)
    assert max(with_them.values()) > 1e-2


def test_thresholds_are_those_of_the_whole_model():
    """A budget is met before the shortcuts go, not after."""
    gated = insert_gates(network(), filters=True, layers=True, start="residual")
    helpers.randomize(gated, closed="half")
    budget = kg.Budget(macs=0.6)
    plan = kg.surgeon.plan(gated, budget)
    bare = kg.surgeon.plan(gated, budget, drop_shortcuts=True)
    assert plan.closed == bare.closed


def test_nothing_was_added():
    gated = helpers.randomize(insert_gates(network(), filters=True))
    pruned = kg.surgeon.prune(gated, T, drop_shortcuts=True)
    helpers.assert_same(gated, pruned)
    assert "removes" not in str(kg.surgeon.plan(gated, T, drop_shortcuts=True))


def test_refused_with_it():
    gated = gated_network()
    with pytest.raises(TypeError, match="Received: 1 "):
        kg.surgeon.prune(gated, T, drop_shortcuts=1)
    with pytest.raises(ValueError, match="Pass one of them"):
        kg.surgeon.prune(gated, T, scores={}, drop_shortcuts=True)
    gated.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Pass one of them"):
        kg.surgeon.prune(gated, T, keep_optimizer=True, drop_shortcuts=True)


def test_bad_thresholds():
    with pytest.raises(ValueError, match="at least 0"):
        drop_shortcuts(gated_network(), -1.0)
    with pytest.raises(ValueError, match="no gates"):
        drop_shortcuts(network(), 0.5)
