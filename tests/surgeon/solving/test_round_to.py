"""`round_to` on hand-made arrays, and on graphs of a few layers."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.graphs import graph as gr
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.solving import round_to
from keras_gates.surgeon.solving.round_to import Link
from keras_gates.surgeon.solving.round_to import Vector
from keras_gates.surgeon.solving.solve import solve


def shut(*bits):
    return np.array(bits, bool)


# The size of what closes a class ------------------------------------------

FACTORS = np.array([0.1, 0.4, 0.0, 0.3])
ONE = Vector("one", FACTORS, np.array([1, 2, 3, 4]), np.arange(4))
# Another gate on classes 3 and 4, of which it closes both.
TWO = Vector("two", np.array([0.2, 0.2]), np.array([3, 4]), np.arange(2))
# A gather picks the classes 1 and 4, and makes 5 and 6 of them.
GATHER = Link(np.array([1, 4]), np.array([5, 6]))
BEHIND = Vector("behind", np.array([0.5, 0.6]), np.array([5, 6]), np.arange(2))
CLOSED = {
    "one": shut(1, 1, 1, 0),
    "two": shut(1, 1),
    "behind": shut(0, 1),
}


@pytest.mark.parametrize(
    "gates, links, sizes",
    [
        ([], [], [0, 0, 0, 0, 0, 0, 0]),
        # An open factor counts for nothing, and a closed one of 0 for a bit.
        ([ONE], [], [0, 0.1, 0.4, 1e-9, 0, 0, 0]),
        ([ONE, TWO], [], [0, 0.1, 0.4, 0.2, 0.2, 0, 0]),
        # What closes a class after a gather closes the one it is picked from.
        ([ONE, BEHIND], [GATHER], [0, 0.1, 0.4, 1e-9, 0.6, 0, 0.6]),
    ],
)
def test_a_class_is_as_large_as_the_largest_factor_that_closes_it(
    gates, links, sizes
):
    found = round_to.closed_sizes(7, gates, links, CLOSED)
    np.testing.assert_allclose(found, sizes, atol=2e-9)
    assert (found > 0).tolist() == (np.array(sizes) > 0).tolist()


def test_places_say_which_factor_it_is():
    """A vector may hold some of a group's factors, in any order."""
    part = Vector("one", FACTORS, np.array([1, 2]), np.array([3, 1]))
    found = round_to.closed_sizes(3, [part], [], {"one": shut(0, 1, 0, 1)})
    np.testing.assert_allclose(found, [0, 0.3, 0.4], atol=2e-9)


# Where gates and gathers are ----------------------------------------------


def chain(factors):
    inputs = keras.Input((2,))
    x = L.Dense(6, name="hidden")(inputs)
    gate = kg.FilterGate(name="gate")
    model = keras.Model(inputs, L.Dense(1, name="out")(gate(x)))
    gate.factor.assign(factors)
    return model


def two_readers():
    """A layer of four units, with a reader and a gate of its own for each."""
    inputs = keras.Input((2,))
    x = L.Dense(4, name="both")(inputs)
    outputs = []
    for name, factors in (("a", [0.1, 0.2, 1, 1]), ("b", [0.3, 0.4, 1, 1])):
        gate = kg.FilterGate(name=name)
        outputs.append(L.Dense(1)(gate(x)))
        gate.factor.assign(factors)
    return keras.Model(inputs, outputs)


def test_the_vector_of_a_gate():
    labelling = label(gr.read(chain([0.1, -0.2, 1, 1, 1, 1])))
    (found,) = round_to.vectors(labelling, {"gate": np.zeros(6, bool)})
    assert found.name == "gate"
    np.testing.assert_allclose(found.factors, [0.1, 0.2, 1, 1, 1, 1])
    assert found.places.tolist() == [0, 1, 2, 3, 4, 5]
    hidden = next(s for s in labelling.steps if s.path == "hidden")
    units = labelling.classes[hidden.flow.roles["out"]]
    assert found.classes.tolist() == units.tolist()


def test_only_the_gates_that_are_asked_for_have_vectors():
    labelling = label(gr.read(two_readers()))
    found = round_to.vectors(labelling, {"b": np.zeros(4, bool)})
    assert [one.name for one in found] == ["b"]
    assert round_to.vectors(labelling, {}) == []


def test_each_reader_of_a_shared_tensor_may_have_a_gather():
    labelling = label(gr.read(two_readers()))
    both = next(s for s in labelling.steps if s.path == "both")
    units = labelling.classes[both.flow.roles["out"]].tolist()
    links = round_to.selections(labelling)
    assert links
    for link in links:
        assert link.above.tolist() == units
        # Those after it are classes of their own.
        assert not set(link.below.tolist()) & set(units)
        assert len(set(link.below.tolist())) == 4


# What is opened again -----------------------------------------------------

# Closed are the first of six; the factors say in which order they open.
ROW = [0.1, 0.4, 0.3, 0.2, 1.0, 1.0]
OPENED = [
    # Of six, two are left: a multiple already.
    ((1, 1, 1, 1, 0, 0), 2, None),
    ((1, 1, 1, 1, 0, 0), 3, (1, 0, 1, 1, 0, 0)),
    ((1, 1, 1, 1, 0, 0), 4, (1, 0, 0, 1, 0, 0)),
    ((1, 1, 1, 1, 0, 0), 5, (1, 0, 0, 0, 0, 0)),
    # There are no eight: all open.
    ((1, 1, 1, 1, 0, 0), 8, (0, 0, 0, 0, 0, 0)),
    ((0, 1, 0, 0, 0, 0), 4, (0, 0, 0, 0, 0, 0)),
    # A layer that is whole lacks nothing, whatever its width.
    ((0, 0, 0, 0, 0, 0), 4, None),
]


@pytest.mark.parametrize("closed, multiple, left", OPENED)
def test_the_largest_closed_factors_open(closed, multiple, left):
    closed = {"gate": shut(*closed)}
    decision = solve(gr.read(chain(ROW)), closed).decision
    before = closed["gate"].copy()
    found = round_to.reopened(decision, closed, multiple)
    if left is None:
        assert found is None
    else:
        assert found["gate"].astype(int).tolist() == list(left)
    assert (closed["gate"] == before).all()  # what was passed stays


def test_of_two_readers_the_larger_closed_factor_opens():
    """A unit is there for both as soon as one of them reads it."""
    closed = {"a": shut(1, 1, 0, 0), "b": shut(1, 1, 0, 0)}
    decision = solve(gr.read(two_readers()), closed).decision
    found = round_to.reopened(decision, closed, 3)
    # The factors of b close units 0 and 1 by 0.3 and 0.4: unit 1 opens there.
    assert found["a"].astype(int).tolist() == [1, 1, 0, 0]
    assert found["b"].astype(int).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
def test_what_is_solved_is_rounded(multiple):
    graph = gr.read(chain(ROW))
    solution = solve(graph, {"gate": shut(1, 1, 1, 1, 0, 0)}, True, multiple)
    left = {1: 2, 2: 2, 3: 3, 4: 4}[multiple]
    assert np.count_nonzero(~solution.closed["gate"]) == left
    assert round_to.reopened(solution.decision, solution.closed, multiple) is (
        None
    )
