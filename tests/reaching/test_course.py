"""The course of a training to a budget."""

import numpy as np
import pytest

from keras_gates.reaching.course import Course


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.04])
def test_the_cost_falls_by_equal_ratios(ratio):
    course = Course()
    moments = np.linspace(course.warm_up, course.arrival, 9)
    goals = np.array([course.goal(moment, 1.0, ratio) for moment in moments])
    left = ratio + goals * (1 - ratio)
    np.testing.assert_allclose(left[1:] / left[:-1], ratio ** (1 / 8))
    assert course.goal(0.0, 1.0, ratio) == 1
    assert course.goal(1.0, 1.0, ratio) == pytest.approx(0)


def test_what_is_closed_at_the_start_is_no_way_to_go():
    course = Course()
    goals = [course.goal(p, 0.3, 0.5) for p in (0.0, 0.2, 0.4, 0.5)]
    assert goals[0] == 0.3
    assert goals == sorted(goals, reverse=True)
    assert goals[-1] == pytest.approx(0)


def test_closed_factors_come_back_less_and_less():
    course = Course()
    opened = [course.openness(p) for p in (0.0, 0.1, 0.3, 0.5, 0.6, 0.9)]
    assert opened[:2] == [1, 1]
    assert opened == sorted(opened, reverse=True)
    assert opened[3] > 0
    assert opened[4:] == [0, 0]
