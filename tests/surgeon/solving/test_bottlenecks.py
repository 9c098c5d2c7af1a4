"""Gates that cut an input off by themselves, found by counting paths."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates.find import factors_of
from keras_gates.surgeon.solving import essential
from tests.surgeon import random_graphs
from tests.surgeon import small_models as sm

MODELS = {
    **{
        f"graph {seed}": lambda seed=seed: random_graphs.build(seed).model
        for seed in range(12)
    },
    "chain": sm.chain,
    "convnet": sm.convnet,
    "residual": sm.residual,
    "siamese": sm.siamese,
    "sequence": sm.sequence,
    "a branch": sm.dropped_branch,
}


def read(model):
    """The graph of a model, and what of its gates may be closed."""
    found = expand.read(model)
    gates = [g for g in factors_of(found) if g.kind != "batch_norm"]
    return found, gates


def whole(gate):
    return {gate.name: np.ones(gate.values.shape, bool)}


class Unaided(essential.Severing):
    """Names no gate, so that all are searched for."""

    def alone(self):
        return []


@pytest.mark.parametrize("name", MODELS)
def test_what_is_held_open_is_what_a_search_finds(name):
    found, gates = read(MODELS[name]())
    for floor in (0, 2, 0.5):
        with_paths, without = (
            essential.held_open(gates, {}, floor, kind(found))
            for kind in (essential.Severing, Unaided)
        )
        assert with_paths.keys() == without.keys()
        for gate in with_paths:
            np.testing.assert_array_equal(with_paths[gate], without[gate])


@pytest.mark.parametrize("name", MODELS)
def test_each_does_cut_an_input_off(name):
    found, gates = read(MODELS[name]())
    severs = essential.Severing(found)
    alone = {gate.name: severs(whole(gate)) for gate in gates}
    assert set(severs.alone()) <= {n for n, cuts in alone.items() if cuts}


def test_a_chain_has_no_way_around_and_a_shortcut_is_one():
    inputs = keras.Input((6,))
    x = kg.FilterGate(name="first")(L.Dense(8)(inputs))
    y = kg.FilterGate(name="around")(L.Dense(8)(x))
    x = kg.FilterGate(name="last")(L.Dense(8)(L.Add()([x, y])))
    side = kg.FilterGate(name="one output")(L.Dense(8)(inputs))
    outputs = [L.Dense(2)(x), L.Dense(2)(side)]
    found, _ = read(keras.Model(inputs, outputs))
    alone = essential.Severing(found).alone()
    assert sorted(alone) == ["first", "last", "one output"]


def test_more_paths_than_a_number_holds():
    inputs = keras.Input((6,))
    x = kg.FilterGate(name="first")(L.Dense(6)(inputs))
    for _ in range(80):
        x = L.Add()([x, kg.FilterGate()(L.Dense(6)(x))])
    x = kg.FilterGate(name="last")(x)
    found, _ = read(keras.Model(inputs, L.Dense(2)(x)))
    assert essential.Severing(found).alone() == ["first", "last"]


def test_a_group_whose_channels_are_all_that_is_read():
    inputs = keras.Input((6,))
    x = L.Dense(8, name="alone")(inputs)
    x = L.Concatenate()([L.Dense(4, name="a")(x), L.Dense(4, name="b")(x)])
    model = keras.Model(inputs, L.Dense(2)(x))
    found = expand.read(model)
    groups.insert(found, groups.find(found))
    # Of "a" and "b", each may close as long as the other is open.
    assert essential.Severing(found).alone() == ["alone"]
