"""Tensors that are multiplied with each other, and kept whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gates.surgeon.rules.reach import CHOICE
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import steady
from keras_gates.surgeon.rules.rule import Barrier

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.known import Known


@dataclasses.dataclass(frozen=True)
class Product(Barrier):
    """`matmul`, `einsum`, `Dot`: where one side is zero, all of it is."""

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        if any(x is not None and (x.values == 0).all() for x in known):
            return [NOTHING] * len(known)
        return super().reaches(call, known)


@dataclasses.dataclass(frozen=True)
class Attention(Barrier):
    """`Attention` of `[query, value, key]` that can't be seen through.

    Masks are beside them. Where all values are the same, nothing but a mask
    gets through.
    """

    opens = True

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        found = super().reaches(call, known)
        if not steady(known[1]):
            return found
        return [CHOICE if level == CHOICE else NOTHING for level in found]
