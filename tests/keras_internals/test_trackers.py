"""What finds the variables and layers among the attributes of a layer."""

import keras
from keras import layers as L

from keras_gates.graphs import private

KINDS = {
    *("trainable_variables", "non_trainable_variables", "metrics"),
    *("layers", "seed_generators"),
}


def built():
    layer = L.BatchNormalization()
    layer.build((None, 3))
    return layer


def test_tracker_of():
    layer = built()
    assert private.tracker_of(layer) is layer._tracker


def test_stores_of():
    layer = built()
    stores = private.stores_of(private.tracker_of(layer))
    assert stores.keys() == KINDS
    assert stores["trainable_variables"] == [layer.gamma, layer.beta]
    assert any(x is stores["trainable_variables"] for x in vars(layer).values())


def test_start_tracking():
    """What is set on a layer with such a tracker is found."""
    old, new = built(), object.__new__(L.Layer)
    tracker = private.start_tracking(new, old)
    assert private.tracker_of(new) is tracker
    assert tracker is not private.tracker_of(old)
    assert private.stores_of(tracker) == {kind: [] for kind in KINDS}
    inner = L.ReLU()
    assert tracker.track(inner) is inner
    assert private.stores_of(tracker)["layers"] == [inner]
    assert private.stores_of(private.tracker_of(old))["layers"] == []
    weight = keras.Variable([1.0], trainable=False)
    tracker.track(weight)
    assert len(private.stores_of(tracker)["non_trainable_variables"]) == 1


def test_tracker_state():
    tracker = private.tracker_of(built())
    state = private.tracker_state(tracker)
    assert {"config", "exclusions"} <= state.keys() < vars(tracker).keys()
    known = {id(w) for w in built().weights}
    assert not any(isinstance(x, set) and x & known for x in state.values())


def test_set_found():
    """What is known is not found again."""
    layer = L.Layer()
    layer.weight = keras.Variable([1.0])
    tracker = private.tracker_of(layer)
    stores = private.stores_of(tracker)
    before = vars(tracker)["stored_ids"]
    private.set_found(tracker, stores)
    assert vars(tracker)["stored_ids"] == before
    tracker.track(layer.weight)
    assert len(stores["trainable_variables"]) == 1
    private.set_found(tracker, {kind: [] for kind in stores})
    tracker.track(layer.weight)
    assert len(stores["trainable_variables"]) == 2


def test_container_tracker():
    layer = L.Layer()
    layer.parts, layer.table = [L.ReLU()], {"a": 1}
    for value in (layer.parts, layer.table):
        value = private.unwrapped(value)
        assert private.container_tracker(value) is private.tracker_of(layer)
    assert private.container_tracker([]) is None


def test_tracked():
    layer = L.Layer()
    layer.parts = []
    tracker = private.tracker_of(layer)
    made = private.tracked(type(layer.parts), [1], tracker)
    assert made == [1] and private.container_tracker(made) is tracker
    inner = L.ReLU()
    made.append(inner)
    assert private.stores_of(tracker)["layers"] == [inner]
