"""Options and requests: what they refuse, and what JSON holds of them."""

import json

import numpy as np
import pytest

import keras_gates as kg
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.options import Request
from keras_gates.surgeon.closing.options import plain


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"round_to": 0}, ValueError, "`round_to` must be at least 1.*0"),
        ({"round_to": 2.0}, TypeError, "`round_to` must be an int.*2.0"),
        ({"round_to": True}, TypeError, "`round_to` must be an int.*True"),
        ({"exact": 1}, TypeError, "`exact` must be True or False.*1.*int"),
        ({"drop_shortcuts": None}, TypeError, "`drop_shortcuts`.*NoneType"),
        ({"written_out": "no"}, TypeError, "`written_out`.*'no'.*str"),
    ],
)
def test_options_that_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        Options(**arguments)


def test_options_are_python_numbers():
    assert type(Options(round_to=np.int64(8)).round_to) is int


class Bare:
    """A rule of the user's that is no dataclass."""

    def __repr__(self):
        return "Bare(3)"


@pytest.mark.parametrize(
    "value, expected",
    [
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (None, None),
        (True, True),
        ("same", "same"),
        ((1, (2, None)), [1, [2, None]]),
        ({"filter": 0.1, "g": 2}, {"filter": 0.1, "g": 2}),
        (
            kg.Quantile(0.25, scope="gate"),
            {"rule": "Quantile", "q": 0.25, "scope": "gate"},
        ),
        ({"filter": Bare()}, {"filter": "Bare(3)"}),
    ],
)
def test_plain_values(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    assert plain(found) == found
    assert json.loads(json.dumps(found)) == found


def test_a_budget_is_told_with_its_function():
    def milliseconds(model):
        return 1.0

    budget = kg.Budget(latency=0.5, sizes=(8, 8, 3), measure=milliseconds)
    found = plain(budget)
    assert found["rule"] == "Budget"
    assert found["latency"] == 0.5
    assert found["macs"] is None
    assert found["sizes"] == [8, 8, 3]
    assert "milliseconds" in found["measure"]


def test_a_request_holds_names_of_scores_and_no_array():
    scores = {"a": np.ones(3), "b": np.zeros(2)}
    found = Request.from_arguments(kg.Quantile(0.5, "gate"), {"a": 1}, scores)
    assert found == Request(
        {"rule": "Quantile", "q": 0.5, "scope": "gate"}, {"a": 1}, ("a", "b")
    )
    assert Request.from_arguments(0.1, 0, None) == Request(0.1)
    # Scores of nothing are scores, too.
    assert Request.from_arguments(0.1, 0, {}).scores == ()


def test_a_request_keeps_what_was_said():
    """A dict that changes afterwards changes no plan."""
    thresholds = {"filter": 0.1}
    found = Request.from_arguments(thresholds, 0, None)
    thresholds["filter"] = 0.9
    assert found.thresholds == {"filter": 0.1}
