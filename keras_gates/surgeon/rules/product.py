"""Tensors that are multiplied with each other, and kept whole."""

import dataclasses

from keras_gates.surgeon.rules.reach import CHOICE
from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import steady
from keras_gates.surgeon.rules.rule import Barrier


@dataclasses.dataclass(frozen=True)
class Product(Barrier):
    """`matmul`, `einsum`, `Dot`: where one side is zero, all of it is."""

    def reaches(self, call, known):
        if any(x is not None and (x.values == 0).all() for x in known):
            return [NOTHING] * len(known)
        return super().reaches(call, known)


@dataclasses.dataclass(frozen=True)
class Attention(Barrier):
    """`Attention` of `[query, value, key]`, with masks beside them.

    Where all values are the same, nothing else but a mask gets through.
    """

    def reaches(self, call, known):
        found = super().reaches(call, known)
        if not steady(known[1]):
            return found
        return [CHOICE if level == CHOICE else NOTHING for level in found]
