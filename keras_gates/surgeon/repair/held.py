"""Whose values the variables in a graph are.

A layer that is seen through stands in a graph as what it is made of, with a
copy of each of its weights. What is fitted there has to become the layer's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs.identity import IdentityDict

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.opened import Opened

    Pair = tuple[keras.Variable, keras.Variable]


class Held:
    """For each variable in a graph, the one of the user's layer.

    Args:
        graph: a `Graph`.
    """

    def __init__(self, graph: Graph) -> None:
        self._of: IdentityDict[keras.Variable, keras.Variable]
        self._of = IdentityDict()
        for each in [graph, *graph.nested()]:
            for site in each.sites:
                if site.opened is not None:
                    for copy, variable in _pairs(site.opened):
                        # A layer in a copy may be its own, without a further.
                        if copy is not variable:
                            self._of[copy] = variable
        self._copies: IdentityDict[keras.Variable, list[keras.Variable]]
        self._copies = IdentityDict()
        for copy in self._of:
            self._copies.setdefault(self.original(copy), []).append(copy)

    def original(self, variable: keras.Variable) -> keras.Variable:
        """The variable of the user's layer that one stands for; or itself."""
        # A layer inside a layer that is seen through is one of a copy.
        while variable in self._of:
            variable = self._of[variable]
        return variable

    def spread(self, variables: Iterable[keras.Variable | None]) -> None:
        """Give the values of some to all that hold the same weight."""
        for variable in variables:
            if variable is None:
                continue
            original = self.original(variable)
            for other in [original, *self._copies.get(original, [])]:
                if other is not variable:
                    values = keras.ops.reshape(variable.value, other.shape)
                    other.assign(values)


def _pairs(opened: Opened) -> list[Pair]:
    """Copies that hold all numbers of a weight, each with the weight."""
    changed = {
        id(getattr(place.layer, place.name))
        for _, place in opened.bare
        if place.derived or place.part is not None
    }
    return [(c, v) for c, v in opened.variables() if id(c) not in changed]
