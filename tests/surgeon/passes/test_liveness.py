"""One pass backwards over a few nodes: what it reads, and what is there."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.passes import label
from keras_gates.surgeon.passes.decision import AbsorbableInputs
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.passes.decision import Candidate
from keras_gates.surgeon.passes.liveness import backward
from tests.surgeon.passes.hand_made import chain
from tests.surgeon.passes.hand_made import closing
from tests.surgeon.passes.hand_made import labelled
from tests.surgeon.passes.hand_made import output_of
from tests.surgeon.passes.hand_made import paths
from tests.surgeon.passes.hand_made import sigmoid
from tests.surgeon.passes.hand_made import step_of
from tests.surgeon.passes.hand_made import sum_of_two
from tests.surgeon.passes.hand_made import two_ways


def candidate(model, kept=(), absorbable=None, exact=True, **masks):
    """A `Candidate` that keeps all classes, or those in `kept`.

    Args:
        absorbable: `{path: AbsorbableInputs}` of its first input.
        **masks: what is closed of each gate.
    """
    labelling = labelled(model)
    closed = closing(labelling, **masks)
    classes = np.arange(len(labelling.classes))
    return Candidate(
        labelling=labelling,
        values=label.constants(labelling, closed, exact),
        exact=exact,
        closed=closed,
        uncut=frozenset(),
        absorbable_by_layer=IdentityDict(
            (step_of(labelling, path).call.op, {0: inputs})
            for path, inputs in (absorbable or {}).items()
        ),
        kept=np.isin(classes, kept) if kept else classes >= 0,
    )


def reads_of(decision):
    """`{path: units that it reads}`, for those that read any."""
    found = {}
    for step, ids in decision.reads:
        if ids.size:
            found.setdefault(step.path, []).extend(ids.tolist())
    return found


def labels_after(labelling, path):
    return labelling.labels[output_of(labelling, path)].ravel().tolist()


def demand_of(decision, path):
    return decision.demand[output_of(decision.labelling, path)].tolist()


CLOSED = {"gate": [False, True, False]}


def test_where_all_is_open_all_is_read():
    decision = backward(candidate(chain()))
    assert paths(decision.present) == {"hidden", "gate", "head"}
    assert reads_of(decision) == {"hidden": [0], "head": [1, 2, 3]}
    assert demand_of(decision, "head") == [[True, True]]
    assert demand_of(decision, "hidden") == [[True, True, True]]
    assert (decision.dropped, decision.recalls) == ({}, ())


def test_a_zero_is_not_read_and_what_it_comes_from_not_demanded():
    decision = backward(candidate(chain(), **CLOSED))
    assert reads_of(decision) == {"hidden": [0], "head": [1, 3]}
    assert demand_of(decision, "gate") == [[True, False, True]]
    assert demand_of(decision, "hidden") == [[True, False, True]]


def test_another_constant_is_read_unless_it_can_be_absorbed():
    model = chain(sigmoid())
    assert reads_of(backward(candidate(model, **CLOSED)))["head"] == [1, 2, 3]
    values = np.array([np.nan, 0.5, np.nan])
    inputs = AbsorbableInputs(values, Absorption.BIAS)
    found = backward(candidate(model, absorbable={"head": inputs}, **CLOSED))
    assert reads_of(found)["head"] == [1, 3]


def test_a_softmax_reads_all():
    model = chain(L.Softmax(name="softmax"))
    found = backward(candidate(model, **CLOSED))
    assert reads_of(found)["softmax"] == [1, 2, 3]


def test_a_constant_operand_is_dropped_with_all_before_it():
    model = sum_of_two()
    decision = backward(candidate(model, b_gate=[True, True]))
    add = step_of(decision.labelling, "add")
    assert decision.dropped == {add.key: (1,)}
    assert paths(decision.present) == {"a", "a_gate", "add", "head"}
    assert paths(decision.steps()) == paths(decision.present)
    read = labels_after(decision.labelling, "add")
    assert reads_of(decision) == {"a": [0], "head": read}


def test_an_operand_is_constant_if_what_is_kept_of_it_is():
    """Units 1 and 3 are one class, 2 and 4 another one."""
    closed = {"b_gate": [True, False]}
    whole = backward(candidate(sum_of_two(), **closed))
    assert whole.dropped == {}
    part = backward(candidate(sum_of_two(), kept=[0, 1, 5], **closed))
    add = step_of(part.labelling, "add")
    assert part.dropped == {add.key: (1,)}


def test_a_selection_reads_what_is_kept_of_it():
    """The gate's units come from 1, 2, 3, and only the one of 2 is kept."""
    model = two_ways()
    own = labels_after(labelled(model), "gate")
    gone = {own[0], own[2]}
    kept = [number for number in range(11) if number not in gone]
    decision = backward(candidate(model, kept=kept))
    selection = step_of(decision.labelling, "gate", 0)
    read = [ids.tolist() for step, ids in decision.reads if step is selection]
    assert read == [[2]]


def test_what_one_call_of_a_model_needs_is_there_in_all():
    """The first call's left output is used, and the second call's right."""
    y = keras.Input((3,))
    ends = [L.Dense(2, name=name)(y) for name in ("left", "right")]
    inner = keras.Model(y, ends, name="inner")
    x = keras.Input((3,))
    first, second = inner(x), inner(x)
    decision = backward(candidate(keras.Model(x, [first[0], second[1]])))
    present = [step.path for step in decision.steps()]
    assert sorted(present) == sorted(2 * ["inner/left", "inner/right"])
    assert len(decision.called) == 2


def test_a_model_that_nothing_uses_is_not_called():
    y = keras.Input((4,))
    inner = keras.Model(y, L.Dense(2, name="dense")(y), name="inner")
    x = keras.Input((4,))
    a = L.Dense(2, name="a")(x)
    b = kg.FilterGate(name="gate")(inner(x))
    model = keras.Model(x, L.Dense(1, name="head")(L.Add(name="add")([a, b])))
    decision = backward(candidate(model, gate=[True, True]))
    assert decision.called == frozenset()
    assert paths(decision.present) == {"a", "add", "head"}


@pytest.mark.parametrize("exact, expected", [(True, [1, 2, 3]), (False, [])])
def test_a_recurrent_layer_reads_its_own_units(exact, expected):
    x = keras.Input((5, 2))
    h = kg.FilterGate(name="gate")(L.GRU(3, name="gru")(x))
    model = keras.Model(x, L.Dense(1, name="head")(h))
    found = backward(candidate(model, exact=exact, **CLOSED))
    recalled = [i for _, ids in found.recalls for i in ids.ravel().tolist()]
    assert sorted(set(recalled)) == expected
    assert reads_of(found)["head"] == [1, 3]
