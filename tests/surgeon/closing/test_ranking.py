"""Rankings of hand-made factors, and budgets with artificial costs."""

import dataclasses

import numpy as np
import pytest

import keras_gates as kg
from keras_gates.surgeon.closing import ranking as rk
from keras_gates.surgeon.closing.latency import Clock
from keras_gates.surgeon.closing.ranking import Ranking
from keras_gates.thresholds import Factors

GATES = [
    Factors("a", "filter", np.array([0.5, -0.1, 0.3])),
    Factors("b", "block", np.array(0.2)),
    Factors("c", "filter", np.array([4.0, 1.0])),
]


def masks(found):
    return {name: mask.astype(int).tolist() for name, mask in found.items()}


# The order ----------------------------------------------------------------


def test_the_smallest_come_first_by_absolute_value():
    found = Ranking.from_gates(GATES, {})
    np.testing.assert_allclose(found.sizes, [0.5, 0.1, 0.3, 0.2, 4, 1])
    assert found.order.tolist() == [1, 3, 2, 0, 5, 4]


def test_equal_ones_come_in_the_order_of_the_gates():
    same = [
        Factors("a", "filter", np.ones(2)),
        Factors("b", "filter", -np.ones(2)),
    ]
    assert Ranking.from_gates(same, {}).order.tolist() == [0, 1, 2, 3]


def test_what_is_held_open_is_not_in_the_order():
    held = {"a": np.array([False, True, False]), "b": np.array(True)}
    assert Ranking.from_gates(GATES, held).order.tolist() == [2, 0, 5, 4]


def test_normalized_factors_are_divided_by_the_mean_of_their_gate():
    """Gates of one factor share the mean of their kind."""
    gates = [*GATES, Factors("d", "block", np.array(0.6))]
    found = Ranking.from_gates(gates, {}, normalize=True)
    means = [0.3, 0.3, 0.3, 0.4, 2.5, 2.5, 0.4]
    plain = [0.5, 0.1, 0.3, 0.2, 4, 1, 0.6]
    np.testing.assert_allclose(found.sizes, np.divide(plain, means))


def test_a_gate_of_zeros_has_no_mean_to_be_divided_by():
    zeros = [Factors("a", "filter", np.zeros(3))]
    found = Ranking.from_gates(zeros, {}, normalize=True)
    assert found.sizes.tolist() == [0, 0, 0]


def test_a_ranking_of_nothing():
    found = Ranking.from_gates([], {})
    assert [found.order.size, found.units.size, found.families.size] == [0] * 3
    assert found.closing(found.order) == {}


# What goes together -------------------------------------------------------


def test_without_ties_each_factor_is_a_unit_and_each_gate_a_family():
    found = Ranking.from_gates(GATES, {})
    assert len(set(found.units.tolist())) == 6
    assert found.families.tolist() == [0, 0, 0, 1, 2, 2]


def test_factors_on_the_same_channel_are_one_unit():
    """The channels 7 and 8 have both gates, 9 the first one alone."""
    ties = {"a": np.array([7, 8, 9]), "c": np.array([8, 7])}
    found = Ranking.from_gates(GATES, {}, ties=ties)
    units = found.units.tolist()
    assert units[0] == units[5]
    assert units[1] == units[4]
    assert len({units[0], units[1], units[2], units[3]}) == 4
    families = found.families.tolist()
    assert families[0] == families[1] == families[4] == families[5]
    assert len({families[0], families[2], families[3]}) == 3


# From places to masks -----------------------------------------------------


def test_closing_splits_the_row_by_gate():
    found = Ranking.from_gates(GATES, {}).closing(np.array([1, 3, 5]))
    assert masks(found) == {"a": [0, 1, 0], "b": 1, "c": [0, 1]}
    assert found["b"].shape == ()


def test_reached_is_all_that_is_as_small_although_it_was_held():
    held = {"a": np.array([False, True, False])}
    ranking = Ranking.from_gates(GATES, held)
    found = ranking.reached(np.array([3, 2]))
    assert masks(found) == {"a": [0, 1, 1], "b": 1, "c": [0, 0]}
    nothing = ranking.reached(ranking.order[:0])
    assert masks(nothing) == {"a": [0, 0, 0], "b": 0, "c": [0, 0]}


# A budget of what is counted ----------------------------------------------


def tens(count=10):
    """One gate whose factors cost 10 each."""
    values = np.linspace(0.1, 1, count)
    return Ranking.from_gates([Factors("g", "filter", values)], {})


def counted(closed):
    return sum(10 * np.count_nonzero(~mask) for mask in closed.values())


@pytest.mark.parametrize(
    "amount, closed", [(1.0, 0), (0.9, 1), (0.5, 5), (70.0, 3), (0.1, 9)]
)
def test_as_many_as_it_takes(amount, closed):
    budget = kg.Budget(params=amount)
    found = rk.meet(budget, tens(), 100, counted, 60)
    assert found.tolist() == list(range(closed))


def test_a_budget_out_of_reach_tells_the_least_there_is():
    def dear(closed):
        return 40 + counted(closed)

    with pytest.raises(ValueError, match=r"allows 35 parameters \(25.0%\).*40"):
        rk.meet(kg.Budget(params=0.25), tens(), 140, dear, 60)


def test_a_choice_far_below_the_limit_warns():
    two = tens(2)
    with pytest.warns(UserWarning, match=r"leaves 10 parameters \(50.0%\)"):
        found = rk.meet(kg.Budget(params=0.9), two, 20, counted, 60)
    assert found.tolist() == [0]


# A budget of time ---------------------------------------------------------


def clock(noise=0.0):
    return Clock(None, None, whole=100.0, noise=noise, pairs=1)


def ratio(closed):
    return counted(closed) / 100


@pytest.mark.parametrize(
    "amount, closed", [(1.0, 0), (0.95, 1), (0.5, 5), (62.0, 4)]
)
def test_so_many_of_the_first(amount, closed):
    budget = kg.Budget(latency=amount)
    found = rk.meet_time(budget, tens(), clock(), ratio)
    assert found.tolist() == list(range(closed))


def test_a_time_that_was_luck_is_measured_again():
    """The first time that a choice seems fast enough may be chance."""
    times = []

    def lucky(closed):
        times.append(closed)
        # Less than there is at the first measurement of five closed ones.
        first = sum(masks(c)["g"] == masks(closed)["g"] for c in times) == 1
        share = ratio(closed)
        return 0.4 if share == 0.5 and first else share + 0.01

    found = rk.meet_time(kg.Budget(latency=0.45), tens(), clock(0.02), lucky)
    assert found.tolist() == list(range(6))


def test_what_noise_hides_is_refused():
    with pytest.raises(ValueError, match="varies by 10.0%"):
        rk.check_noise(kg.Budget(latency=0.95), clock(noise=0.1))
    rk.check_noise(kg.Budget(latency=0.85), clock(noise=0.1))
    rk.check_noise(kg.Budget(latency=200.0), clock(noise=0.1))


def test_a_ranking_is_not_to_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tens().order = np.arange(3)
