"""The rows of a plan, and its text, of models that are small enough."""

import dataclasses
import json

import keras
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates import _tables
from keras_gates.surgeon.report.table import Row


def plan():
    """x (2) -> hidden (3) -> gate -> logits (4), one of three closed."""
    x = keras.Input((2,), name="x")
    h = kg.FilterGate(name="gate")(L.Dense(3, name="hidden")(x))
    model = keras.Model(x, L.Dense(4, name="logits")(h), name="small")
    model.get_layer("gate").factor.assign([1.0, 0.0, 1.0])
    return kg.surgeon.plan(model, 0.5)


def rows(found):
    return {row.layer: row for row in found.rows}


def test_rows_say_what_is_there_before_and_after():
    got = rows(plan())
    # 2 x 3 weights and 3 biases; 2 x 2 and 2.
    hidden = got["hidden"]
    assert (hidden.before, hidden.after) == (3, 2)
    assert (hidden.params, hidden.macs) == ((9, 6), (6, 4))
    # 3 x 4 and 4; 2 x 4 and 4.
    logits = got["logits"]
    assert (logits.before, logits.after) == (4, 4)
    assert (logits.params, logits.macs) == ((16, 12), (12, 8))
    # The gate goes with its factors.
    assert got["gate"].params == (3, 0)
    assert got["gate"].why == ["1 of 3 channels closed"]
    assert list(got) == ["hidden", "gate", "logits"]


def test_totals_are_the_sums():
    found = plan()
    assert found.params == (28, 18)
    assert found.macs == (18, 12)
    assert found.exact


def test_the_text():
    assert str(plan()).split("\n") == [
        "Plan for 'small'",
        "",
        "layer   rule   channels  parameters  MACs     removal",
        "------  -----  --------  ----------  -------  -------",
        "hidden  dense  3 -> 2    9 -> 6      6 -> 4   exact",
        "gate    gate   3 -> 2    3 -> 0      0        exact",
        "    1 of 3 channels closed",
        "logits  dense  4         16 -> 12    12 -> 8  exact",
        "",
        "parameters: 28 -> 18 (64.3% of before)",
        "MACs: 18 -> 12 (66.7% of before) for one sample, 1 MAC = one "
        "multiply-add",
    ]


def test_a_layer_that_is_called_twice_has_one_row():
    shared = L.Dense(2, name="shared")
    x = keras.Input((2,), name="x")
    h = kg.FilterGate(name="gate")(shared(L.Activation("tanh")(shared(x))))
    model = keras.Model(x, h)
    row = rows(kg.surgeon.plan(model, 0.5))["shared"]
    # Its weights are there once; it multiplies at each call.
    assert (row.params, row.macs) == ((6, 6), (8, 8))


def test_a_layer_that_goes():
    """The branch is closed as a whole, so that nothing of it stays."""
    x = keras.Input((2,), name="x")
    gate = kg.BranchGate(name="gate")
    h = gate(L.Dense(2, name="branch")(x))
    model = keras.Model(x, L.Dense(1)(L.Add(name="add")([x, h])))
    gate.factor.assign(0.0)
    row = rows(kg.surgeon.plan(model, 0.5))["branch"]
    assert (row.before, row.after) == (2, 0)
    assert (row.params, row.macs) == ((6, 0), (4, 0))
    assert row.why == ["removed: nothing in the pruned model depends on it"]


def test_rows_survive_json():
    for row in plan().rows:
        data = json.loads(json.dumps(dataclasses.asdict(row)))
        assert Row.from_dict(data) == row


def test_rows_without_macs_survive_json():
    row = Row("layer", "rule", None, None, (3, 0), None, why=["for a reason"])
    data = json.loads(json.dumps(dataclasses.asdict(row)))
    assert Row.from_dict(data) == row


def test_rows_do_not_change():
    row = plan().rows[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.after = 1


# Tables of plain text ---------------------------------------------------


def test_numbers_stand_to_the_right():
    cells = [("conv", 1234, None), ("a", 5, None), ("total", 1239, 7)]
    assert _tables.lines(("layer", "n", "MACs"), cells) == [
        "layer      n     MACs",
        "-----  -----  -------",
        "conv   1,234  unknown",
        "a          5  unknown",
        "total  1,239        7",
    ]


def test_text_stands_to_the_left():
    cells = [("a", ""), ("long", "x")]
    assert (
        _tables.text(("h", "why"), cells) == "h     why\n----  ---\na\nlong  x"
    )


def test_a_table_without_rows():
    assert _tables.lines(("a", "bc"), []) == ["a  bc", "-  --"]


KEEPERS = {
    "'softmax' (Softmax) reads all channels together": lambda x, i: L.Softmax(
        name="softmax"
    )(x),
    "'last' (Dense) keeps them whole: softmax over the channels": lambda x, i: (
        L.Dense(8, activation="softmax", name="last")(x) + x
    ),
    "'add' (Add) ties them to an input": lambda x, i: L.Add(name="add")([x, i]),
    "'odd' (Discretization) keeps them whole": lambda x, i: L.Discretization(
        [0.0], output_mode="int", name="odd"
    )(x),
}


@pytest.mark.parametrize("why", KEEPERS)
def test_a_layer_without_scores_says_what_keeps_its_channels(why):
    inputs = keras.Input((8,))
    x = KEEPERS[why](L.Dense(8, name="kept")(inputs), inputs)
    x = L.Dense(6, name="offered")(x)
    model = keras.Model(inputs, L.Dense(2, name="logits")(x))
    scores = kg.surgeon.score(model, "l1")
    assert list(scores) == ["offered"]
    got = rows(kg.surgeon.plan(model, kg.Quantile(0.5), scores=scores))
    (line,) = got["kept"].why
    assert line.startswith(f"no score closes its channels: {why}")
    # What is an output needs no explanation.
    assert got["logits"].why == []
    assert got["offered"].why == ["3 of 6 channels closed"]


def test_a_model_with_gates_says_nothing_of_scores():
    got = rows(plan())
    assert not any("score" in line for row in got.values() for line in row.why)
