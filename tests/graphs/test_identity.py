"""A dict by identity, regardless of equality and hashes of keys."""

import dataclasses

import keras
import pytest

from keras_gates.graphs.identity import IdentityDict


@dataclasses.dataclass
class Equal:
    """All are equal, and none has a hash."""

    value: int = 1


def test_equal_keys_without_a_hash_are_two():
    first, second = Equal(), Equal()
    found = IdentityDict([(first, "a")])
    assert first == second and second not in found
    found[second] = "b"
    assert [found[first], found[second]] == ["a", "b"]
    assert all(a is b for a, b in zip(found, (first, second), strict=True))
    assert len(found) == 2


def test_what_is_missing():
    found, key = IdentityDict(), Equal()
    assert found.get(key) is None and found.get(key, default=3) == 3
    with pytest.raises(KeyError):
        found[key]
    assert found.setdefault(key, 4) == 4 and found.setdefault(key, 5) == 4
    del found[key]
    assert key not in found


def test_a_value_of_none_is_there():
    key = Equal()
    found = IdentityDict([(key, None)])
    assert key in found and found.get(key, default=3) is None


def test_an_update_replaces_and_adds():
    first, second = Equal(), Equal()
    found = IdentityDict([(first, 1)])
    found.update(IdentityDict([(first, 2), (second, 3)]))
    assert list(found.values()) == [2, 3]


def test_its_keys_are_held():
    """Else another layer could get the id of one that is gone."""
    found = IdentityDict(
        [(keras.layers.Dense(2, name=str(n)), n) for n in range(9)]
    )
    assert [layer.name for layer in found] == [str(n) for n in range(9)]
