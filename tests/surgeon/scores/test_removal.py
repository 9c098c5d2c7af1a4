"""Removing inputs of a kernel in turn, against the covariance of the rest."""

import numpy as np
import pytest

from keras_gates.surgeon.scores.removal import Reading
from keras_gates.surgeon.scores.removal import Removal


def reading(units, outputs=5, seed=0):
    """A kernel, and the covariance of its correlated inputs."""
    rng = np.random.default_rng(seed)
    count = len(units)
    x = rng.normal(size=(4 * count, count)) @ rng.normal(size=(count, count))
    covariance = x.T @ x / len(x) + 0.1 * np.eye(count)
    kernel = rng.normal(size=(count, outputs))
    units = np.asarray(units)
    return covariance, Reading(np.linalg.inv(covariance), kernel, units)


def lost(covariance, kernel, left, goes):
    """By how much the error grows, the kernel fitted anew before and after."""

    def error(stays):
        # min_V tr (W - V)^T H (W - V), V with rows in `stays` only.
        target = covariance @ kernel
        inner = covariance[np.ix_(stays, stays)]
        fitted = np.zeros_like(kernel)
        fitted[stays] = np.linalg.solve(inner, target[stays])
        off = kernel - fitted
        return np.einsum("io,ij,jo->", off, covariance, off)

    rest = [i for i in left if i not in goes]
    return error(rest) - error(left)


UNITS = {
    "an input each": [3, 0, 2, 1, 4, 5, 6, 7],
    "kernel positions": [0, 1, 2, 3] * 3,
    "places of a map": [n // 4 for n in range(16)],
    "some of other groups": [0, 9, 1, 9, 2, 8, 3],
    "of several sizes": [0, 1, 1, 2, 2, 2, 3, 0, 0],
}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("each", [1, 2])
def test_costs_are_those_of_a_fit_to_what_is_left(name, each):
    covariance, read = reading(UNITS[name])
    units = np.unique([u for u in read.units if u < 8])
    removal = Removal(read, units)
    order = np.random.default_rng(1).permutation(len(units))
    left = list(range(len(read.units)))
    while len(order) > each:
        costs = removal.costs()
        for number in order:
            goes = np.flatnonzero(read.units == units[number])
            expected = lost(covariance, read.weights, left, goes)
            np.testing.assert_allclose(costs[number], expected, rtol=1e-8)
        gone, order = order[:each], order[each:]
        removal.remove(gone)
        assert not removal.costs()[gone].any()
        left = [i for i in left if read.units[i] not in units[gone]]


def test_units_that_a_kernel_does_not_read_cost_nothing():
    _, read = reading([0, 1, 2])
    kept = read.inverse.copy(), read.weights.copy()
    removal = Removal(read, np.array([7, 1, 9]))
    assert np.flatnonzero(removal.costs()).tolist() == [1]
    removal.remove(np.array([0, 2]))
    assert np.flatnonzero(removal.costs()).tolist() == [1]
    removal.remove(np.array([1]))
    assert not removal.costs().any()
    # The reading serves other groups as well.
    np.testing.assert_array_equal(read.inverse, kept[0])
    np.testing.assert_array_equal(read.weights, kept[1])
