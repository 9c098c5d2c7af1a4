"""What a plan says, and that it does what it says."""

import json
import re

import pytest

import keras_gates as kg
from keras_gates.surgeon import Plan
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import verify
from tests import helpers
from tests.surgeon import small_models as sm

T = helpers.THRESHOLD


# The text ----------------------------------------------------------------

SAYS = [
    (
        sm.constants,
        {},
        [
            r"Plan for 'convnet'",
            r"layer +rule +channels +parameters +MACs +removal",
            # 27 inputs a filter; 64 positions: 8 * 27 * 64 MACs.
            r"conv1 +convolution +8 -> 5 +224 -> 140 +13,824 -> 8,640 +exact",
            r"norm +batch normalization +8 -> 5 +32 -> 20 +0 +exact",
            r"conv2 +convolution +6 -> 3 +438 -> 138 +27,648 -> 8,640 +exact",
            r"gate1 +gate +8 -> 5 +8 -> 0",
            r"4 of 8 channels closed",
            r"1 of them stay: one channel has to stay",
            r"3 constant inputs go into one that stays, for the zero border",
            r"out +dense +3 +21 -> 12 +18 -> 9 +exact",
            r"parameters: 729 -> 310 \(42.5% of before\)",
            r"MACs: 41,490 -> 17,289 .*one sample, 1 MAC = one multiply-add",
        ],
    ),
    (
        sm.constants,
        {"exact": False},
        [
            r"conv2 .* approximate\n +4 constant inputs go into its bias\n"
            r" +not exact at the zero border",
            r"conv1 .* exact",
            r"note: cut approximately \(exact=False\): 'conv2'$",
        ],
    ),
    (
        sm.dropped_branch,
        {},
        [
            # Said where a branch begins, and not again.
            r"a1 +convolution +8 -> 0 +56 -> 0 +1,728 -> 0 +exact\n"
            r" +goes: nothing that is left depends on it\n"
            r"inner1 +gate +8 -> 0 +8 -> 0 +0 +exact\n"
            r"b1 +convolution +6 -> 0 +438 -> 0 +15,552 -> 0 +exact\n"
            r"stream1 ",
            r"add1 .*\n +1 of 2 operands are constant and go",
            r"3 of them stay: 'stem', 'b2' share them; .*'a2' reads them",
        ],
    ),
    (
        sm.barred,
        {},
        [
            r"4 of them stay: no rule for Unknown; .*surgeon.register can",
            r"strange +barrier .*\n +kept whole: no rule for Unknown",
            r"MACs unknown, and not in the total: 'strange'",
        ],
    ),
    (
        lambda: sm.set_gates(sm.normalised(), gate=sm.half(8)),
        {},
        [r"'norm' \(layer normalization\) reads all channels together"],
    ),
    (
        sm.normalised_twice,
        {"exact": False},
        [r"norm +layer normalization +8 -> 4 +16 -> 8 .* approximate"],
    ),
    (
        sm.gated_output,
        {},
        [
            r"stay: it is an output of the model",
            r"a Rescaling stays: no neighbour can take its factors",
        ],
    ),
    (
        lambda: sm.set_gates(sm.gated_input(), gate=sm.half(6)),
        {},
        [r"gate +gate +6 -> 3.*\n.*\n +a gather picks 3 of 6 channels"],
    ),
    (
        lambda: sm.set_gates(sm.rescaled(), gate=sm.half(8)),
        {},
        [r"4 constant inputs go into its bias"],
    ),
    (sm.siamese, {}, [r"tower/hidden +dense", r"tower/gate +gate"]),
]


@pytest.mark.parametrize("make, options, patterns", SAYS)
def test_the_printed_plan_says(make, options, patterns):
    text = str(plan(make(), T, **options))
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern}\n{text}"


def test_lines_have_no_trailing_space_and_the_repr_is_short():
    found = plan(sm.constants(), T)
    assert all(line == line.rstrip() for line in str(found).splitlines())
    assert repr(found) == "<Plan for 'convnet': 729 -> 310 parameters>"


def test_a_note_says_how_far_closed_gates_are_from_zero():
    model = sm.set_gates(sm.chain(), gate=[0.1, 0, -0.3, 1, 1, 1, 1, 1])
    (note,) = plan(model, T).notes
    assert note.startswith("2 of 3 closed factors are not 0 yet, up to 0.3:")
    sm.set_gates(model, gate=[0, 0, 0, 1, 1, 1, 1, 1])
    assert plan(model, T).notes == []


# The numbers -------------------------------------------------------------


@pytest.mark.parametrize("closed", ["none", "half", "most"])
@pytest.mark.parametrize("make", sm.MODELS)
def test_totals_are_those_of_both_models(make, closed):
    model = make(closed=closed)
    found = plan(model, T)
    small = found.apply()
    assert found.params == (model.count_params(), small.count_params())
    counts = [kg.stats.count(m).macs for m in (model, small)]
    assert found.macs == tuple(counts)
    assert found.exact
    helpers.assert_same(model, small)


@pytest.mark.parametrize("make", [sm.constants, sm.dropped_branch, sm.barred])
def test_rows_are_the_layers_of_the_result(make):
    model = make()
    found = plan(model, T)
    small = found.apply()
    left = {layer.name: layer for layer in helpers.layers_of(small)}
    for row in found.rows:
        layer = left.get(row.layer)
        size = 0 if layer is None else layer.count_params()
        assert row.params[1] == size, row
        if layer is not None and row.after is not None:
            assert layer.output.shape[-1] == row.after, row
        before = model.get_layer(row.layer)
        assert row.params[0] == before.count_params()
        assert row.before == before.output.shape[-1]


# JSON --------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"round_to": 4}, {"exact": False}])
@pytest.mark.parametrize(
    "make", [sm.constants, sm.dropped_branch, sm.sequential, sm.siamese]
)
def test_a_plan_survives_json(make, options):
    model = make()
    found = plan(model, T, **options)
    again = Plan.from_json(found.to_json(), model)
    assert str(again) == str(found)
    assert again.to_json() == found.to_json()
    assert again.rows == found.rows
    results = [again.apply(), found.apply(), prune(model, T, **options)]
    for other in results[1:]:
        assert sm.same_weights(results[0], other)
    assert verify(model, results[0], again) == verify(model, results[0], found)


def test_the_json_is_plain_and_says_its_format():
    data = json.loads(plan(sm.constants(), T).to_json())
    assert data["format"] == 2
    assert data["model"] == "convnet"
    assert data["closed"] == {"gate1": [0, 1, 2, 3], "gate2": [0, 1, 2]}
    assert data["options"] == {
        "drop_shortcuts": False,
        "exact": True,
        "groups": [],
        "round_to": 1,
        "sizes": None,
    }
    assert data["request"] == {
        "keep_at_least": 0,
        "scores": None,
        "thresholds": T,
    }


def test_a_plan_takes_the_weights_as_they_are_when_applied():
    model = sm.chain()
    found = plan(model, T)
    out = model.get_layer("out")
    out.kernel.assign(2 * helpers.numpy_of(out.kernel))
    helpers.assert_same(model, found.apply())


def test_a_plan_closes_its_own_gates_whatever_their_factors_became():
    model = sm.set_gates(sm.chain(), gate=sm.half(8))
    found = plan(model, T)
    sm.set_gates(model, gate=[1.0] * 8)
    assert found.apply().get_layer("hidden").units == 4
