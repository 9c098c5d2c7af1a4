"""Which unit each coordinate is, and what is constant, on a few nodes."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_gates.surgeon.passes import label
from keras_gates.surgeon.passes.label import StepKey
from tests.surgeon.passes.hand_made import chain
from tests.surgeon.passes.hand_made import closing
from tests.surgeon.passes.hand_made import labelled
from tests.surgeon.passes.hand_made import output_of
from tests.surgeon.passes.hand_made import sigmoid
from tests.surgeon.passes.hand_made import step_of
from tests.surgeon.passes.hand_made import sum_of_two
from tests.surgeon.passes.hand_made import two_ways


def labels_of(labelling):
    """`{path: labels of its first output}`."""
    return {
        step.path: labelling.labels[step.outputs[0]].tolist()
        for step in labelling.steps
    }


def test_a_chain_mints_units_and_passes_them_on():
    labelling = labelled(chain(sigmoid()))
    (x,) = labelling.graph.inputs
    assert labelling.labels[x].tolist() == [[0]]
    assert labels_of(labelling) == {
        "hidden": [[1, 2, 3]],
        "gate": [[1, 2, 3]],
        "sigmoid": [[1, 2, 3]],
        "head": [[4, 5]],
    }
    assert labelling.classes.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_output_is_pinned_by_the_model():
    (pin,) = labelled(chain()).pinned
    assert pin.ids.tolist() == [4, 5]
    assert (pin.reason, pin.call) == (label.OUTPUT, None)


def test_an_add_ties_its_operands():
    labelling = labelled(sum_of_two())
    labels = labels_of(labelling)
    assert sorted([labels["a"], labels["b"]]) == [[[1, 2]], [[3, 4]]]
    assert labels["add"] == labels["a"]
    assert labels["head"] == [[5]]
    assert labelling.classes.tolist() == [0, 1, 2, 1, 2, 5]


def test_a_layer_that_is_called_twice_ties_what_it_reads():
    x = keras.Input((4,))
    shared = L.Dense(2, name="shared")
    a, b = (L.Dense(3, name=name)(x) for name in "ab")
    labelling = labelled(keras.Model(x, [shared(a), shared(b)]))
    steps = [step for step in labelling.steps if step.path == "shared"]
    made = [labelling.labels[step.outputs[0]].tolist() for step in steps]
    a, b = (labelling.labels[output_of(labelling, name)] for name in "ab")
    assert made[0] == made[1]
    assert labelling.classes[a].tolist() == labelling.classes[b].tolist()
    assert len(set(labelling.classes[a].ravel().tolist())) == 3


def test_what_has_no_rule_keeps_its_input_whole():
    model = chain(L.Lambda(lambda x: x, output_shape=(3,), name="any"))
    labelling = labelled(model)
    by_lambda, by_model = labelling.pinned
    assert by_lambda.ids.tolist() == [1, 2, 3]
    assert by_lambda.call is step_of(labelling, "any").call
    assert "Lambda" in by_lambda.reason
    assert by_model.ids.tolist() == [4, 5]
    assert labels_of(labelling)["any"] == [[0]]


def test_a_gate_on_one_of_two_ways_has_a_selection():
    labelling = labelled(two_ways())
    selection, gate = (step_of(labelling, "gate", at) for at in (0, None))
    assert selection.is_selection and not gate.is_selection
    assert selection.inputs == step_of(labelling, "hidden").outputs
    assert gate.inputs == selection.outputs
    # Units of its own, which come from those of the layer one by one.
    ids = selection.flow.labels[0]
    assert np.diff(ids).tolist() == [[1, 1]] and ids.min() > 3
    assert labels_of(labelling)["gate"] == ids.tolist()
    assert label.picks(selection.flow).tolist() == [[0, 1, 2]]
    assert labelling.classes.tolist() == list(range(11))


def test_selections_that_are_not_wanted_are_left_out():
    labelling = labelled(two_ways())
    key = StepKey(step_of(labelling, "gate").site, 0)
    assert key == step_of(labelling, "gate", 0).key
    for other in (
        label.label(labelling.graph, frozenset([key])),
        label.label(labelling.graph, selections=False),
    ):
        assert not any(step.is_selection for step in other.steps)
        assert labels_of(other)["gate"] == labels_of(other)["hidden"]


def test_a_sole_reader_needs_no_selection():
    assert not any(step.is_selection for step in labelled(chain()).steps)


def known(model, exact=True, **masks):
    """`{path: known values of its output}`, NaN where it varies."""
    labelling = labelled(model)
    closed = closing(labelling, **masks)
    values = label.constants(labelling, closed, exact)
    return {
        step.path: values[step.outputs[0]].values.tolist()
        for step in labelling.steps
        if step.outputs[0] in values
    }


NAN = pytest.approx(np.nan, nan_ok=True)


def test_a_closed_channel_is_carried_forward():
    found = known(chain(sigmoid()), gate=[False, True, False])
    assert found == {
        "gate": [[NAN, 0.0, NAN]],
        "sigmoid": [[NAN, 0.5, NAN]],
    }


def test_of_nothing_but_constants_a_dense_layer_makes_its_bias():
    model = chain(sigmoid())
    model.get_layer("head").kernel.assign([[1.0, 2.0], [0.0, 2.0], [1.0, 0.0]])
    model.get_layer("head").bias.assign([0.25, -1.0])
    found = known(model, gate=[True, True, True])
    assert found["head"] == [[1.25, 1.0]]


def test_nothing_is_known_where_nothing_is_closed():
    assert known(chain(sigmoid()), gate=[False, False, False]) == {}


def test_a_sum_is_known_where_both_operands_are():
    masks = {"a_gate": [True, True], "b_gate": [False, True]}
    assert known(sum_of_two(), **masks)["add"] == [[NAN, 0.0]]


@pytest.mark.parametrize("name", ["classes", "steps", "pinned", "labels"])
def test_a_labelling_does_not_change(name):
    labelling = labelled(chain())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(labelling, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        labelling.steps[0].inputs = ()
