"""What a plan says, and that it does what it says."""

import json
import re

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_gates as kg
from keras_gates.surgeon import Plan
from keras_gates.surgeon import plan
from keras_gates.surgeon import prune
from keras_gates.surgeon import verify
from keras_gates.surgeon.closing.options import Options
from keras_gates.surgeon.closing.options import Request
from keras_gates.surgeon.report import table
from keras_gates.surgeon.solving import solve
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
            r"3 constant inputs are merged into one that stays, because of "
            r"the zero padding",
            r"out +dense +3 +21 -> 12 +18 -> 9 +exact",
            r"parameters: 729 -> 310 \(42.5% of before\)",
            r"MACs: 41,490 -> 17,289 .*one sample, 1 MAC = one multiply-add",
        ],
    ),
    (
        sm.constants,
        {"exact": False},
        [
            r"conv2 .* approximate\n"
            r" +4 constant inputs are folded into its bias\n"
            r" +not exact at the zero padding",
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
            r" +removed: nothing in the pruned model depends on it\n"
            r"inner1 +gate +8 -> 0 +8 -> 0 +0 +exact\n"
            r"b1 +convolution +6 -> 0 +438 -> 0 +15,552 -> 0 +exact\n"
            r"stream1 ",
            r"add1 .*\n +1 of 2 operands are constant and are removed",
            r"3 of them stay: 'stem', 'b2' share them; .*'a2' reads them",
        ],
    ),
    (
        sm.barred,
        {},
        [
            r"4 of them stay: no rule for Unknown, .*surgeon.register",
            r"strange +barrier .*\n +kept whole: no rule for Unknown",
            r"MACs unknown, and not in the total: 'strange'",
        ],
    ),
    (
        lambda: sm.set_gates(sm.normalized(), gate=sm.half(8)),
        {},
        [
            r"'norm' \(layer normalization\) computes its statistics over them",
            r"reads all channels: .* costs more than it saves",
        ],
    ),
    (
        sm.normalized_twice,
        {"exact": False},
        [r"norm +layer normalization +8 -> 4 +16 -> 8 .* approximate"],
    ),
    (
        sm.gated_output,
        {},
        [
            r"stay: it is an output of the model",
            r"a Rescaling remains: no neighboring layer can absorb its factors",
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
        [r"4 constant inputs are folded into its bias"],
    ),
    (sm.siamese, {}, [r"tower/hidden +dense", r"tower/gate +gate"]),
]


@pytest.mark.parametrize("make, options, patterns", SAYS)
def test_the_printed_plan_says(make, options, patterns):
    text = str(plan(make(), T, **options))
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern}\n{text}"


def test_macs_of_open_sizes_are_unknown_and_the_plan_says_what_to_do():
    x = inputs = keras.Input((None, 4))
    for i in range(10):
        x = L.Dense(4, name=f"layer{i}")(x)
    model = keras.Model(inputs, kg.FilterGate()(x))
    text = str(plan(model, 0.5))
    assert "'layer7' and 2 more. If an input leaves sizes open" in text
    with pytest.raises(ValueError, match=r"unknown sizes .* pass `x`"):
        verify(model, model, 0.5)


def test_lines_have_no_trailing_space_and_the_repr_is_short():
    found = plan(sm.constants(), T)
    assert all(line == line.rstrip() for line in str(found).splitlines())
    assert repr(found) == "<Plan for 'convnet': 729 -> 310 parameters>"


def test_a_note_says_how_far_closed_gates_are_from_zero():
    model = sm.set_gates(sm.chain(), gate=[0.1, 0, -0.3, 1, 1, 1, 1, 1])
    (note,) = plan(model, T).notes
    assert note.startswith(
        "2 of 3 closed factors are not 0 yet (largest: 0.3):"
    )
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
        "whole": {},
        "written_out": None,
    }
    assert data["request"] == {
        "keep_at_least": 0,
        "scores": None,
        "thresholds": T,
    }


def requests():
    """Thresholds and more, and what the JSON of their plan says of them."""
    quantile = {"rule": "Quantile", "q": 0.5, "scope": "gate"}
    return [
        ((0.5, {}), (0.5, 0, None)),
        (({"filter": T, "gate": 0}, {}), ({"filter": T, "gate": 0}, 0, None)),
        ((kg.Quantile(0.5, "gate"), {"keep_at_least": 2}), (quantile, 2, None)),
        (
            (T, {"keep_at_least": {"gate": 0.25}}),
            (T, {"gate": 0.25}, None),
        ),
        (
            (T, {"scores": {"hidden": np.linspace(0, 1, 8)}}),
            (T, 0, ("hidden",)),
        ),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_plan_keeps_what_it_was_asked_for(number):
    (thresholds, options), expected = requests()[number]
    model = sm.chain()
    found = plan(model, thresholds, **options)
    assert found.request == Request(*expected)
    again = Plan.from_json(found.to_json(), model)
    assert again.request == found.request
    assert again.options == found.options
    assert again.to_json() == found.to_json()


def test_the_options_of_a_plan_with_scores_and_a_budget():
    model = sm.chain()
    budget = kg.Budget(macs=0.75, sizes=(5,))
    scores = {"hidden": np.linspace(0.1, 1, 8)}
    found = plan(model, budget, scores=scores, round_to=2, exact=False)
    assert found.options == Options(
        exact=False, round_to=2, sizes=[5], groups=("hidden",)
    )
    assert Plan.from_json(found.to_json(), model).options == found.options


# What version 0.1 wrote, but for the rows' line breaks.
OLD = """{
 "format": 1,
 "model": "old",
 "fingerprint":
  "d4bc572c17e116cb46a059bbc6a935a03d177704e3a4609424502e6dd43b03cf",
 "options": {
  "exact": true, "round_to": 1, "drop_shortcuts": false, "sizes": null
 },
 "closed": {"gate": [1, 2]},
 "rows": [
  {"layer": "hidden", "kind": "dense", "before": 4, "after": 2,
   "params": [16, 8], "macs": [12, 6], "exact": true, "why": []},
  {"layer": "gate", "kind": "gate", "before": 4, "after": 2,
   "params": [4, 0], "macs": [0, 0], "exact": true,
   "why": ["2 of 4 channels closed"]},
  {"layer": "out", "kind": "dense", "before": 2, "after": 2,
   "params": [10, 6], "macs": [8, 4], "exact": true, "why": []}
 ],
 "notes": []
}"""
OLD_SCORED = """{
 "format": 1,
 "model": "plain",
 "fingerprint":
  "1de14fe826fee80e332bc8da5cab190f42cb11e71fd4f9d84354ab107af03499",
 "options": {
  "exact": true, "round_to": 1, "groups": ["hidden"],
  "drop_shortcuts": false, "sizes": null
 },
 "closed": {"hidden": [0, 1]},
 "rows": [
  {"layer": "hidden", "kind": "dense", "before": 4, "after": 2,
   "params": [16, 8], "macs": [12, 6], "exact": true,
   "why": ["2 of 4 channels closed"]},
  {"layer": "out", "kind": "dense", "before": 2, "after": 2,
   "params": [10, 6], "macs": [8, 4], "exact": true, "why": []}
 ],
 "notes": []
}"""


def of_version_01(name, gate):
    """The models that `OLD` and `OLD_SCORED` were made for."""
    inputs = keras.Input((3,), name="features")
    x = L.Dense(4, name="hidden")(inputs)
    if gate:
        x = kg.FilterGate(name="gate")(x)
    return keras.Model(inputs, L.Dense(2, name="out")(x), name=name)


@pytest.mark.parametrize(
    "text, name, groups",
    [(OLD, "old", None), (OLD_SCORED, "plain", ("hidden",))],
)
def test_json_of_version_01_is_still_read(text, name, groups):
    model = of_version_01(name, gate=groups is None)
    found = Plan.from_json(text, model)
    assert found.request is None
    assert found.options == Options(groups=groups)
    assert found.params == (sum(r.params[0] for r in found.rows), 14)
    small = found.apply()
    assert [layer.units for layer in small.layers[1:]] == [2, 2]
    assert max(found.verify(small).values()) < helpers.RTOL
    # It goes on as one of today, which knows no more.
    again = Plan.from_json(found.to_json(), model)
    assert again.request is None
    assert again.options == found.options
    assert str(again) == str(found)


@pytest.mark.parametrize(
    "options", [{"exact": True}, {"exact": 1, "round_to": 1}]
)
def test_json_without_its_options_is_none(options):
    text = json.dumps({**json.loads(OLD), "options": options})
    with pytest.raises(ValueError, match="not the JSON of a keras_gates plan"):
        Plan.from_json(text, of_version_01("old", gate=True))


# One path -----------------------------------------------------------------


@pytest.fixture
def solutions(monkeypatch):
    """What was solved, one after the other."""
    found = []

    def counted(*args, **kwargs):
        found.append(kept(*args, **kwargs))
        return found[-1]

    kept = solve.solve
    monkeypatch.setattr(solve, "solve", counted)
    return found


def test_prune_solves_once_and_makes_no_rows(solutions, monkeypatch):
    model = sm.convnet()
    monkeypatch.setattr(table, "describe", None)
    prune(model, T)
    assert len(solutions) == 1


def test_a_plan_is_solved_once_and_once_more_to_be_applied(solutions):
    model = sm.convnet()
    found = plan(model, T)
    assert len(solutions) == 1
    small = found.apply()
    assert len(solutions) == 2
    found.verify(small)
    found.to_json()
    str(found)
    assert len(solutions) == 2


def test_the_rows_tell_of_the_weights_that_a_plan_was_made_with():
    model = sm.set_gates(sm.chain(), gate=[0.1, 0, -0.3, 1, 1, 1, 1, 1])
    found = plan(model, T)
    sm.set_gates(model, gate=[0.0] * 8)
    (note,) = found.notes
    assert note.startswith(
        "2 of 3 closed factors are not 0 yet (largest: 0.3):"
    )


def test_the_masks_of_a_plan_are_its_own():
    model = sm.chain()
    found = plan(model, T)
    before = found.masks()["gate"]
    found.masks()["gate"][:] = True
    again = Plan.from_json(found.to_json(), model)
    for each in (found, again, again):
        mask = each.masks()["gate"]
        assert mask.tolist() == before.tolist()
        mask[:] = True


def test_a_plan_that_was_edited_no_longer_removes_what_it_says():
    found = plan(sm.chain(), T)
    found.closed["gate"].pop()
    with pytest.raises(ValueError, match="would remove other channels"):
        found.apply()


# verify -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"exact": False}])
def test_a_plan_verifies_with_the_options_that_it_has(options):
    model = sm.constants()
    found = plan(model, T, **options)
    small = found.apply()
    far = found.verify(small, seed=3)
    assert far == verify(model, small, T, seed=3, **options)
    assert (far["out"] < helpers.RTOL) is (options == {})


def test_a_plan_verifies_on_the_inputs_that_it_gets():
    model = sm.chain()
    found = plan(model, T)
    small = found.apply()
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    assert found.verify(small, x) == verify(model, small, found, x)
    kernel = small.get_layer("out").kernel
    kernel.assign(1.5 * helpers.numpy_of(kernel))
    assert found.verify(small, x)["out"] > 0.01


# Keras hands torch tensors to np.array, and `pytest.warns` sees it.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    "judge",
    [
        lambda found, small, x: found.verify(small, x),
        lambda found, small, x: verify(found.model, small, found, x),
    ],
)
def test_the_warning_of_verify_points_at_who_calls_it(judge):
    found = plan(sm.chain(), T)
    small, x = found.apply(), np.ones((1, 5), "float32")
    with pytest.warns(UserWarning, match="one sample does not show") as told:
        judge(found, small, x)
    (place,) = {one.filename for one in told if one.category is UserWarning}
    assert place == __file__


# Weights that change ------------------------------------------------------


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


def test_a_plan_folds_the_factors_as_they_are_when_applied():
    model = sm.set_gates(sm.chain(), gate=sm.half(8))
    found = plan(model, T)
    sm.set_gates(model, gate=[0.0] * 4 + [3.0, -2.0, 0.5, 1.0])
    small = found.apply()
    helpers.assert_same(model, small)
    assert max(found.verify(small).values()) < helpers.RTOL


def test_json_that_is_applied_elsewhere_takes_the_weights_there():
    text = plan(sm.chain(), T).to_json()
    other = sm.chain(seed=7)
    found = Plan.from_json(text, other)
    small = found.apply()
    assert max(verify(other, small, found).values()) < helpers.RTOL
