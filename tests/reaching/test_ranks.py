"""What factors are ranked by, by hand."""

import numpy as np

from keras_gates.reaching.ranks import Ranks


def ranked(sizes, families, inside=None, closed=()):
    sizes = np.array(sizes, float)
    mask = np.isin(np.arange(sizes.size), closed)
    return Ranks(np.array(families), inside or {})(sizes, mask)


def test_each_is_divided_by_the_larger_ones_of_its_gate():
    found = ranked([1.0, 2.0, 1.0], [0, 0, 1])
    np.testing.assert_allclose(
        found, [2 * 1 / (4 + 0.1), 2 * 4 / (0.1 * 4), 1 / 0.1]
    )


def test_what_all_factors_of_a_gate_share_says_nothing():
    sizes = np.random.default_rng(0).uniform(0.5, 1.5, 12)
    families = np.repeat([0, 1], 6)
    scaled = np.where(families == 0, 1e-3, 1.0) * sizes
    np.testing.assert_allclose(
        ranked(scaled, families), ranked(sizes, families)
    )


def test_no_gate_is_closed_wholly_while_others_are_open():
    # Four heads a little smaller than a hundred neurons.
    sizes = np.concatenate([np.full(4, 0.9), np.full(100, 1.0)])
    order = np.argsort(ranked(sizes, np.repeat([0, 1], [4, 100])))
    last_head = np.flatnonzero(order < 4).max()
    assert last_head > 90
    # The first ones go as early as neurons of their size.
    assert np.flatnonzero(order < 4).min() < 25


def test_a_branch_is_worth_what_is_open_in_it():
    families, inside = [0, 0, 0, 1], {3: np.array([0, 1, 2])}
    whole = ranked([1.0, 1.0, 1.0, 1.0], families, inside)
    assert whole[3] == whole[:3].mean()
    left = ranked([1.0, 1.0, 1.0, 1.0], families, inside, closed=[0, 1])
    assert left[3] == whole[:3].max()
    # Nothing is lost with a branch that is empty.
    assert ranked([1.0] * 4, families, inside, closed=[0, 1, 2])[3] == 0


def test_zeros_are_the_smallest():
    found = ranked([0.0, 0.0, 1.0, 0.0], [0, 0, 0, 1])
    assert (found[[0, 1, 3]] == 0).all() and found[2] > 0
