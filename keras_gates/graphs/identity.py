"""A dict whose keys are compared by identity."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import MutableMapping
from typing import TypeVar
from typing import overload

Key = TypeVar("Key")
Value = TypeVar("Value")
Default = TypeVar("Default")


class IdentityDict(MutableMapping[Key, Value]):
    """A dict by identity: for layers and operations.

    The class of a layer is the user's. If it defines `__eq__`, as a dataclass
    does, its layers have no hash, or two of equal settings are one key. What
    the package defines (calls, steps, tensors) hashes by identity and needs no
    such dict. The keys are held, so no other object gets the id of one.

    Args:
        items: pairs of key and value.
    """

    def __init__(self, items: Iterable[tuple[Key, Value]] = ()) -> None:
        self._items = {id(key): (key, value) for key, value in items}

    def __getitem__(self, key: Key) -> Value:
        return self._items[id(key)][1]

    def __setitem__(self, key: Key, value: Value) -> None:
        self._items[id(key)] = (key, value)

    def __delitem__(self, key: Key) -> None:
        del self._items[id(key)]

    def __iter__(self) -> Iterator[Key]:
        return (key for key, _ in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    # The two below are there for speed: those of the base class raise and
    # catch an exception for each key that is missing.

    def __contains__(self, key: object) -> bool:
        return id(key) in self._items

    @overload
    def get(self, key: Key, /) -> Value | None: ...

    @overload
    def get(self, key: Key, /, default: Value | Default) -> Value | Default: ...

    def get(
        self, key: Key, /, default: Value | Default | None = None
    ) -> Value | Default | None:
        item = self._items.get(id(key))
        return default if item is None else item[1]
