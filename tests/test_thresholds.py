"""Which gates are closed, against NumPy."""

import numpy as np
import pytest

from keras_gates.thresholds import Below
from keras_gates.thresholds import Budget
from keras_gates.thresholds import Factors
from keras_gates.thresholds import Quantile
from keras_gates.thresholds import ThresholdRule
from keras_gates.thresholds.resolve import part_budget
from keras_gates.thresholds.resolve import resolve
from keras_gates.thresholds.rule import KINDS

VALUES = [0.9, -0.05, 0.0, 0.3, -0.31, 0.05, -1.2]


def gate(name="gate", kind="filter", values=VALUES):
    return Factors(name, kind, np.array(values, "float32"))


def scalar(name, kind, value):
    return Factors(name, kind, np.array(value, "float32"))


def four_gates():
    """One gate of each kind, with factors below 0.5 and above."""
    return [
        gate("conv/gate"),
        scalar("layer", "layer", 0.2),
        scalar("branch", "branch", -0.2),
        scalar("block", "block", 0.6),
    ]


def closed(thresholds, gates, **options):
    masks = resolve(thresholds, gates, **options)
    assert list(masks) == [g.name for g in gates]
    for g in gates:
        assert masks[g.name].shape == g.values.shape
        assert masks[g.name].dtype == bool
    return {name: mask.tolist() for name, mask in masks.items()}


# Below -------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 0.05, 0.3, 1, np.float32(0.31), 9.0])
def test_a_number_compares_sizes_strictly(threshold):
    # Factors are float32, and so is the comparison: a factor set to 0.05 is
    # at a threshold of 0.05, although neither is that number in binary.
    limit = np.float32(threshold)
    expected = [bool(abs(np.float32(v)) < limit) for v in VALUES]
    assert closed(threshold, [gate()]) == {"gate": expected}
    found = Below(threshold).close([gate()])
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("value", [0.5, -0.5])
def test_a_factor_at_the_threshold_stays_open(value):
    at = gate(values=[value])
    assert closed(0.5, [at]) == {"gate": [False]}
    above = np.nextafter(np.float32(0.5), np.float32(1))
    assert closed(above, [at]) == {"gate": [True]}


def test_a_threshold_of_zero_closes_nothing():
    zeros = gate(values=[0.0, -0.0])
    assert closed(0.0, [zeros]) == {"gate": [False, False]}


# Quantile ----------------------------------------------------------------


def smallest(values, count):
    """Marks the `count` smallest sizes, the first of equal ones first."""
    sizes = np.abs(np.asarray(values, "float32"))
    ranked = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    return [i in ranked[:count] for i in range(len(sizes))]


@pytest.mark.parametrize("q", [0, 0.1, 0.3, 0.5, 0.99, 1])
@pytest.mark.parametrize("values", [VALUES, [0.5] * 7, [0.0, 1.0] * 4])
def test_a_quantile_closes_a_count_whatever_the_ties(q, values):
    expected = smallest(values, int(q * len(values)))
    assert closed(Quantile(q), [gate(values=values)]) == {"gate": expected}


def test_a_global_quantile_ranks_all_gates_together():
    gates = [
        gate("a", values=[0.1, 0.2]),
        scalar("b", "layer", 0.15),
        gate("c", values=[0.9]),
    ]
    expected = {"a": [True, False], "b": True, "c": [False]}
    assert closed(Quantile(0.5), gates) == expected


def test_a_quantile_by_gate_ranks_each_gate_alone():
    gates = [gate("a", values=[0.1, 0.2]), gate("c", values=[0.9, 0.8, 1])]
    expected = {"a": [True, False], "c": [False, True, False]}
    assert closed(Quantile(0.5, scope="gate"), gates) == expected


def test_a_quantile_of_no_gates_is_empty():
    assert Quantile(0.5).close([]) == []
    assert closed({"layer": Quantile(0.5)}, [gate()]) == {"gate": [False] * 7}


def test_a_quantile_by_kind_ranks_that_kind_only():
    gates = [*four_gates(), gate("late", values=[0.01, 0.02])]
    found = closed({"filter": Quantile(0.5)}, gates)
    both = smallest([*VALUES, 0.01, 0.02], 4)
    assert found["conv/gate"] + found["late"] == both
    assert not any(found[kind] for kind in ("layer", "branch", "block"))


# Kinds and names -----------------------------------------------------------


@pytest.mark.parametrize(
    "thresholds, closes",
    [
        ({}, []),
        (0.5, ["conv/gate", "layer", "branch"]),
        ({"filter": 0.5}, ["conv/gate"]),
        ({"layer": 0.5, "block": 0.7}, ["layer", "block"]),
        ({"conv/gate": 0.5}, ["conv/gate"]),
        # "layer" is a kind and the name of a gate of that kind.
        ({"layer": 0.5}, ["layer"]),
        ({"branch": Below(0.5), "filter": 0}, ["branch"]),
    ],
)
def test_kinds_and_names_select_gates(thresholds, closes):
    found = closed(thresholds, four_gates())
    assert [name for name, mask in found.items() if np.any(mask)] == closes


@pytest.mark.parametrize("turn", [1, -1])
def test_a_name_goes_before_its_kind_in_any_order(turn):
    gates = [gate("a", values=[0.2]), gate("b", values=[0.2])]
    thresholds = dict([("filter", 0.5), ("a", 0.1)][::turn])
    assert closed(thresholds, gates) == {"a": [False], "b": [True]}


@pytest.mark.parametrize(
    "thresholds, closes",
    [
        ({"stage1_*": 0.5}, ["stage1_a", "stage1_b"]),
        ({"*_a": 0.5}, ["stage1_a", "stage2_a"]),
        # A name goes before a pattern, in any order.
        ({"stage1_*": 0.5, "stage1_a": 0.1}, ["stage1_b"]),
        ({"stage1_a": 0.1, "stage1_*": 0.5}, ["stage1_b"]),
        # Of two patterns the first that fits, and a pattern before a kind.
        ({"stage1_*": 0.5, "*_a": 0.1}, ["stage1_a", "stage1_b"]),
        ({"*_a": 0.1, "stage1_*": 0.5}, ["stage1_b"]),
        ({"filter": 0.5, "stage?_b": 0.1}, ["stage1_a", "stage2_a"]),
    ],
)
def test_patterns_select_gates(thresholds, closes):
    names = ("stage1_a", "stage1_b", "stage2_a")
    gates = [gate(name, values=[0.2]) for name in names]
    found = closed(thresholds, gates)
    assert [name for name, mask in found.items() if np.any(mask)] == closes


def test_a_pattern_keeps_channels_open():
    gates = [gate(name, values=[0.1, 0.2, 0.3]) for name in ("a1", "a2", "b1")]
    found = closed(9, gates, keep_at_least={"a*": 2, "a2": 1})
    assert [sum(found[name]) for name in ("a1", "a2", "b1")] == [1, 2, 3]


def test_no_gates_are_resolved_to_nothing():
    assert resolve(0.5, []) == {}


class Third(ThresholdRule):
    """A rule of a user."""

    def close(self, gates):
        return [np.arange(g.values.size) % 3 == 0 for g in gates]


def test_rules_of_ones_own():
    assert closed(Third(), [gate(values=[1, 1, 1, 1])]) == {
        "gate": [True, False, False, True]
    }


# keep_at_least -------------------------------------------------------------


@pytest.mark.parametrize("floor", [0, 1, 3, 7, 99])
def test_the_largest_factors_stay(floor):
    found = closed(100, [gate()], keep_at_least=floor)["gate"]
    order = sorted(range(7), key=lambda i: -abs(VALUES[i]))
    assert found == [i not in order[:floor] for i in range(7)]


def test_a_floor_by_name():
    gates = [gate("a"), gate("b")]
    found = closed(100, gates, keep_at_least={"b": 2})
    assert [sum(mask) for mask in found.values()] == [7, 5]


def test_a_floor_leaves_scalar_gates_alone():
    gates = four_gates()
    found = closed(100, gates, keep_at_least=2)
    assert sum(found.pop("conv/gate")) == 5
    assert all(found.values())


@pytest.mark.parametrize(
    "floor, left", [(0.0, 0), (0.1, 1), (2 / 7, 2), (0.3, 3), (0.99, 7)]
)
def test_a_floor_may_be_a_share(floor, left):
    """Of each gate's own channels, rounded up."""
    gates = [gate("a"), gate("b", values=VALUES * 2)]
    found = closed(100, gates, keep_at_least=floor)
    assert found["a"].count(False) == left
    assert found["b"].count(False) == int(np.ceil(14 * floor))
    hundred = closed(9, [gate(values=np.ones(100))], keep_at_least=0.07)
    assert hundred["gate"].count(False) == 7


def test_equal_factors_stay_in_order():
    same = gate(values=[0.2] * 4)
    found = closed(1, [same], keep_at_least=2)
    assert found == {"gate": [False, False, True, True]}


# What is refused ------------------------------------------------------------


class Wrong(ThresholdRule):
    def __init__(self, masks):
        self.masks = masks

    def close(self, gates):
        return self.masks


NAN = float("nan")
BAD = [
    (NAN, ValueError, "`thresholds` can't be used. .* must be finite"),
    (float("inf"), ValueError, "must be finite"),
    (-0.1, ValueError, "must be at least 0.* Received: -0.1"),
    (True, TypeError, "`thresholds` must be a number.*bool"),
    (None, TypeError, "`thresholds` must be a number.*NoneType"),
    ("0.1", TypeError, "`thresholds` must be a number.*str"),
    ([0.1], TypeError, "`thresholds` must be a number.*list"),
    (1 + 0j, TypeError, "`thresholds` must be a number.*complex"),
    (Quantile, TypeError, "`thresholds` must be a number.*type"),
    ({"filter": NAN}, ValueError, r"`thresholds\['filter'\]`"),
    ({"gate": -1}, ValueError, r"`thresholds\['gate'\]`"),
    ({"gate": False}, TypeError, r"`thresholds\['gate'\]`"),
    ({"gate": {"filter": 1}}, TypeError, r"`thresholds\['gate'\]`"),
    ({"filters": 1}, ValueError, "'filters'.*filter, head.*model: gate"),
    ({3: 1}, ValueError, "key 3"),
    (Wrong([[True]]), ValueError, r"Wrong.close\(\).*shape \(1,\)"),
    (Wrong([[0.0] * 7]), ValueError, "float64.*'gate'"),
    (Wrong([]), ValueError, r"Wrong.close\(\).*0 for 1 gates"),
]


@pytest.mark.parametrize("thresholds, error, match", BAD)
def test_bad_thresholds_are_refused(thresholds, error, match):
    with pytest.raises(error, match=match):
        resolve(thresholds, [gate()])


@pytest.mark.parametrize(
    "floor, error, match",
    [
        (-1, ValueError, "`keep_at_least` must be at least 0"),
        (-0.5, ValueError, "`keep_at_least` must be at least 0"),
        (1.0, TypeError, "`keep_at_least` must be a whole.*share.*float"),
        (NAN, TypeError, "`keep_at_least` must be a whole.*share.*float"),
        (True, TypeError, "`keep_at_least` must be a whole.*bool"),
        ("1", TypeError, "`keep_at_least` must be a whole.*str"),
        (None, TypeError, "`keep_at_least` must be a whole.*NoneType"),
        ({"gate": -1}, ValueError, r"`keep_at_least\['gate'\]`"),
        ({"gate": 1.5}, TypeError, r"`keep_at_least\['gate'\]`"),
        ({"gate": "2"}, TypeError, r"`keep_at_least\['gate'\]`"),
        ({"other": 1}, ValueError, "'other'.*Filter gates.*gate"),
        ({"one": 1}, ValueError, "'one'.*not the name of a filter gate"),
    ],
)
def test_bad_floors_are_refused(floor, error, match):
    gates = [gate(), scalar("one", "layer", 1)]
    with pytest.raises(error, match=match):
        resolve(0.5, gates, keep_at_least=floor)


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ((-0.1,), ValueError, r"in \[0, 1\].*q=-0.1"),
        ((1.1,), ValueError, r"in \[0, 1\].*q=1.1"),
        ((NAN,), ValueError, "must be finite"),
        ((True,), TypeError, "must be a number"),
        (("0.5",), TypeError, "must be a number"),
        ((0.5, "layer"), ValueError, '"global" or "gate".*layer'),
    ],
)
def test_bad_quantiles_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        Quantile(*arguments)


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({}, ValueError, "one of macs, params or latency.*none of them"),
        ({"macs": 0.5, "params": 9}, ValueError, "Received: macs, params"),
        ({"macs": 0}, ValueError, "macs of a Budget must be more than 0"),
        ({"params": -3}, ValueError, "params of a Budget must be more.*-3"),
        ({"latency": NAN}, ValueError, "latency of a budget must be finite"),
        ({"macs": True}, TypeError, "macs of a budget must be a number"),
        ({"macs": "0.5"}, TypeError, "macs of a budget must be a number.*str"),
        ({"macs": 0.5, "keep_essential": -1}, ValueError, "`keep_essential`"),
        ({"macs": 0.5, "keep_essential": None}, TypeError, "`keep_essential`"),
        ({"macs": 0.5, "keep_at_least": 1}, TypeError, "Pass `keep_essential`"),
        ({"macs": 0.5, "normalize": "mean"}, TypeError, "True or False.*mean"),
        ({"latency": 0.5, "batch_size": 0}, ValueError, "at least 1.*0"),
        ({"latency": 0.5, "batch_size": 1.5}, TypeError, "must be an int.*1.5"),
    ],
)
def test_bad_budgets_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        Budget(**arguments)


@pytest.mark.parametrize(
    "arguments, of, limit",
    [
        ({"macs": 0.5}, "macs", 100),
        ({"params": 1}, "params", 200),
        ({"params": 50}, "params", 50),
        ({"latency": 2.5}, "latency", 2.5),
    ],
)
def test_a_budget_is_a_share_or_a_number(arguments, of, limit):
    budget = Budget(**arguments)
    assert (budget.resource, budget.limit(200)) == (of, limit)


def test_a_budget_needs_a_model():
    with pytest.raises(TypeError, match="counted on a pruned model.*plan"):
        resolve(Budget(macs=0.5), [gate()])


@pytest.mark.parametrize(
    "thresholds, fixed, members",
    [
        (Budget(macs=3), {}, ["conv/gate", "layer", "branch", "block"]),
        (
            {"filter": Budget(macs=3), "branch": 0.3},
            {"filter": 0, "branch": 0.3},
            ["conv/gate"],
        ),
        (
            {"filter": 0.1, "conv/gate": Budget(macs=3), "block": Budget(3)},
            {"filter": 0.1, "conv/gate": 0, "block": 0},
            ["conv/gate", "block"],
        ),
    ],
)
def test_a_budget_is_parted_from_other_thresholds(thresholds, fixed, members):
    found = part_budget(thresholds, four_gates())
    assert (found[0], found[1]) == (fixed, Budget(macs=3))
    assert [g.name for g in found[2]] == members
    assert part_budget(fixed, four_gates()) == (fixed, None, [])


def test_kinds_are_those_of_the_gates():
    import keras_gates as kg

    channels = (kg.FilterGate, kg.GatedAttention)
    gates = (*channels, kg.LayerGate, kg.BranchGate, kg.BlockGate)
    # The others are no gate layers: gammas, stripes, coupled channels.
    others = ("batch_norm", "stripe", "group")
    assert (*(gate.kind for gate in gates), *others) == KINDS
