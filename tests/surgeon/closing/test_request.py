"""Which gates thresholds may speak of, from hand-made factors."""

import numpy as np
import pytest

import keras_gates as kg
from keras_gates.surgeon.closing import close
from keras_gates.surgeon.closing import request
from keras_gates.thresholds import Factors

GATES = [
    Factors(name, kind, np.ones(2))
    for name, kind in [
        ("f", "filter"),
        ("f2", "filter"),
        ("norm", "batch_norm"),
        ("block", "block"),
        ("group", "group"),
    ]
]
GATED = GATES[:4]  # as without scores
SCORED = {"group": np.ones(2)}
BOTH = {"group": np.ones(2), "f": np.ones(2)}


@pytest.mark.parametrize(
    "thresholds, gates, scores, names",
    [
        # Gammas are gates where a dict says so.
        (0.1, GATED, None, ["f", "f2", "block"]),
        (kg.Quantile(0.5), GATED, None, ["f", "f2", "block"]),
        ({"block": 0.1}, GATED, None, ["f", "f2", "block"]),
        ({"batch_norm": 0.1}, GATED, None, ["f", "f2", "norm", "block"]),
        ({"norm": 0.1}, GATED, None, ["f", "f2", "norm", "block"]),
        # Scores are compared with each other alone.
        (0.1, GATES, SCORED, ["group"]),
        (0.1, GATES, BOTH, ["f", "group"]),
        # A dict may name more; of a kind with scores, only by name.
        ({"block": 0.1}, GATES, SCORED, ["f", "f2", "block", "group"]),
        ({"filter": 0.1}, GATES, BOTH, ["f", "block", "group"]),
        (
            {"filter": 0.1, "f2": 0.1},
            GATES,
            BOTH,
            ["f", "f2", "block", "group"],
        ),
    ],
)
def test_the_gates_that_thresholds_may_speak_of(
    thresholds, gates, scores, names
):
    found = request._asked(thresholds, gates, scores)
    assert [gate.name for gate in found] == names


def shut(*bits):
    return np.array(bits, bool)


def test_notes_on_what_a_budget_leaves_open():
    wanted = {"a": shut(1, 1, 1, 0), "b": np.bool_(True), "c": shut(0, 1)}
    closed = {"a": shut(1, 0, 0, 0), "b": np.bool_(False), "c": shut(0, 1)}
    spared = {"a": shut(0, 1, 0, 0)}
    floors = "keep_essential"
    # The third of a and all of b were held; the second of a is of no use.
    assert close._budget_notes(wanted, closed, spared, floors) == [
        "held open by keep_essential: 'a' (1 of 4), 'b' (1 of 1)",
        "closing these removes nothing, so the budget leaves them open: "
        "'a' (1 of 4)",
    ]
    assert close._budget_notes(closed, closed, {}, floors) == []
