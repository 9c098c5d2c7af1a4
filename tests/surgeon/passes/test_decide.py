"""Which channels stay on a few nodes, and which constants go where."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon.passes import decide
from keras_gates.surgeon.passes import worth
from keras_gates.surgeon.passes.decision import Absorption
from tests.surgeon.passes.hand_made import chain
from tests.surgeon.passes.hand_made import decided
from tests.surgeon.passes.hand_made import labelled
from tests.surgeon.passes.hand_made import output_of
from tests.surgeon.passes.hand_made import sigmoid
from tests.surgeon.passes.hand_made import step_of
from tests.surgeon.passes.hand_made import sum_of_two
from tests.surgeon.passes.hand_made import two_ways

CLOSED = {"gate": [False, True, False]}


def kept(decision, path):
    """Which channels of what a layer puts out are kept."""
    labels = decision.labelling.labels[output_of(decision.labelling, path)]
    return decision.mask(labels).ravel().tolist()


def absorbed(decision, path):
    """`{input: constants that go}` of a layer."""
    step = step_of(decision.labelling, path)
    found = decision.absorbed(step)
    return {index: values.tolist() for index, values in found.items()}


def test_where_all_is_open_all_stays():
    decision = decided(chain(), gate=[False, False, False])
    assert decision.kept.tolist() == [True] * 6


def test_a_zero_goes_and_nothing_is_absorbed():
    decision = decided(chain(), **CLOSED)
    assert decision.kept.tolist() == [True, True, False, True, True, True]
    assert absorbed(decision, "head") == {}


def test_another_constant_goes_into_the_bias():
    decision = decided(chain(sigmoid()), **CLOSED)
    assert kept(decision, "hidden") == [True, False, True]
    assert absorbed(decision, "head") == {0: [0.0, 0.5, 0.0]}
    head = step_of(decision.labelling, "head")
    absorbable = decision.absorbable(head, 0)
    assert absorbable.how is Absorption.BIAS
    assert absorbable.values.tolist() == pytest.approx(
        [np.nan, 0.5, np.nan], nan_ok=True
    )
    hidden = step_of(decision.labelling, "hidden")
    assert decision.absorbable(hidden, 0) is None


def test_one_channel_stays_so_that_no_tensor_is_empty():
    decision = decided(chain(sigmoid()), gate=[True, True, True])
    assert kept(decision, "hidden") == [True, False, False]
    assert absorbed(decision, "head") == {0: [0.0, 0.5, 0.5]}


def test_tied_channels_go_together_or_not_at_all():
    model = sum_of_two()
    one = decided(model, a_gate=[True, False])
    assert kept(one, "a") == kept(one, "b") == [True, True]
    both = decided(model, a_gate=[True, False], b_gate=[True, False])
    assert kept(both, "a") == kept(both, "b") == [False, True]
    # Units 1 and 3 are one class, 2 and 4 another one.
    assert both.kept.tolist() == [True, False, True, False, False, True]


def test_a_branch_goes_as_a_whole():
    decision = decided(sum_of_two(), b_gate=[True, True])
    present = {step.path for step in decision.present}
    assert present == {"a", "a_gate", "add", "head"}
    assert kept(decision, "a") == [True, True]


def test_what_reads_all_keeps_all():
    decision = decided(chain(L.Softmax(name="softmax")), **CLOSED)
    assert kept(decision, "hidden") == [True, True, True]


def test_a_selection_keeps_what_its_reader_needs():
    """All channels of the layer stay for the way without a gate."""
    decision = decided(two_ways(), **CLOSED)
    assert kept(decision, "hidden") == [True, True, True]
    assert kept(decision, "gate") == [True, False, True]
    selection = step_of(decision.labelling, "gate", 0)
    mask = decision.mask(selection.flow.labels[0])
    assert mask.tolist() == [[True, False, True]]


def convolutions(padding):
    """hidden (4) -> gate -> sigmoid -> a 3x3 convolution (2)."""
    x = keras.Input((5, 5, 3))
    h = L.Conv2D(4, 1, name="hidden")(x)
    h = kg.FilterGate(name="gate")(h)
    h = sigmoid()(h)
    return keras.Model(x, L.Conv2D(2, 3, padding=padding, name="head")(h))


TWO_OF_FOUR = {"gate": [False, True, False, True]}


def test_across_a_zero_border_constants_merge_into_one_that_stays():
    decision = decided(convolutions("same"), **TWO_OF_FOUR)
    assert kept(decision, "hidden") == [True, True, True, False]
    assert absorbed(decision, "head") == {0: [0.0, 0.0, 0.0, 0.5]}
    head = step_of(decision.labelling, "head")
    assert decision.absorbable(head, 0).how is Absorption.MERGE
    target = decide.merge_target(decision, head, 0)
    assert (target.ids.tolist(), target.position) == ([2], 1)


@pytest.mark.parametrize(
    "padding, exact, how",
    [
        ("valid", True, Absorption.BIAS),
        ("same", False, Absorption.APPROXIMATE),
    ],
)
def test_without_one_all_constants_go_into_the_bias(padding, exact, how):
    decision = decided(convolutions(padding), exact, **TWO_OF_FOUR)
    assert kept(decision, "hidden") == [True, False, True, False]
    assert absorbed(decision, "head") == {0: [0.0, 0.5, 0.0, 0.5]}
    head = step_of(decision.labelling, "head")
    assert decision.absorbable(head, 0).how is how
    assert decide.merge_target(decision, head, 0) is None


def test_what_each_call_of_a_layer_reads_must_be_the_same_constant():
    x = keras.Input((4,))
    shared = L.Dense(2, name="shared")
    ways = []
    for name, function in (("a", "sigmoid"), ("b", "linear")):
        h = kg.FilterGate(name=f"{name}_gate")(L.Dense(3, name=name)(x))
        ways.append(shared(L.Activation(function)(h)))
    model = keras.Model(x, ways)
    masks = {"a_gate": [True, False, False], "b_gate": [True, False, False]}
    decision = decided(model, **masks)
    assert kept(decision, "a") == kept(decision, "b") == [True, True, True]


def test_what_was_asked_is_part_of_the_decision():
    labelling = labelled(two_ways())
    uncut = frozenset([step_of(labelling, "gate", 0).key])
    decision = decide.decide(labelling, {}, exact=False, uncut=uncut)
    assert (decision.exact, decision.uncut) == (False, uncut)
    assert len(decision.closed) == 0


@pytest.mark.parametrize("name", ["kept", "uncut", "present", "reads"])
def test_a_decision_does_not_change(name):
    decision = decided(chain(), **CLOSED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(decision, name, None)


def gathered(width, closed):
    """The selections that don't pay, where a gate is on one of two ways."""
    x = keras.Input((width,))
    h = L.Dense(width, name="hidden")(x)
    gated = kg.FilterGate(name="gate")(h)
    heads = [L.Dense(4, name="a")(gated), L.Dense(2, name="b")(h)]
    mask = np.arange(width) < closed
    decision = decided(keras.Model(x, heads), gate=mask)
    return [key.site.name for key in worth.poor_selections(decision)]


@pytest.mark.parametrize("closed, poor", [(6, ["gate"]), (7, [])])
def test_a_gather_pays_if_it_saves_more_than_it_costs(closed, poor):
    """Each channel saves 4 multiply-adds, and each that is left costs 16.

    Of 8, 6 that go save 24 and the 2 that stay cost 32; 7 save 28 for 16.
    """
    assert worth.GATHERING == 16
    assert gathered(8, closed) == poor
