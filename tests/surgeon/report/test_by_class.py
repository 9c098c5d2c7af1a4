"""A search by classes finds the same as a search of all."""

import numpy as np
import pytest

from keras_gates.surgeon.report.by_class import ByClass


@pytest.mark.parametrize("seed", range(5))
def test_those_with_any_of_the_classes_in_order(seed):
    random = np.random.default_rng(seed)
    pairs = [
        (name, random.integers(0, 30, random.integers(0, 4, size=2)))
        for name in "abcdefgh"
    ]
    found = ByClass(pairs)
    for _ in range(20):
        classes = random.integers(0, 30, random.integers(0, 6))
        expected = [n for n, own in pairs if np.isin(own, classes).any()]
        assert found.of(classes) == expected


def test_nothing_is_found_among_nothing():
    assert ByClass([]).of(np.arange(3)) == []
