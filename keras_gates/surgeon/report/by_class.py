"""Which of many things have channels of some classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class ByClass(Generic[T]):
    """Finds things by classes, without a look at each of them.

    A plan of a deep model asks for many gates what else has their channels.

    Args:
        pairs: things, with the classes of their channels, of any shape.
    """

    def __init__(self, pairs: Sequence[tuple[T, NDArray[np.intp]]]) -> None:
        self._things = [thing for thing, _ in pairs]
        own = [np.zeros(0, np.intp), *(np.unique(x) for _, x in pairs)]
        classes = np.concatenate(own)
        numbers = np.repeat(np.arange(len(own)) - 1, [len(x) for x in own])
        order = np.argsort(classes, kind="stable")
        self._classes, self._numbers = classes[order], numbers[order]

    def of(self, classes: NDArray[np.intp]) -> list[T]:
        """Those that have any of some classes, in their order."""
        wanted = np.unique(classes)
        low = np.searchsorted(self._classes, wanted, "left")
        high = np.searchsorted(self._classes, wanted, "right")
        spans = zip(low.tolist(), high.tolist(), strict=True)
        found = {n for a, b in spans for n in self._numbers[a:b].tolist()}
        return [self._things[number] for number in sorted(found)]
