"""Unused names for new layers of a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph


_COUNT = re.compile(r"_\d+$")


def without_count(name: str) -> str:
    """A name without the number that was added to tell it from others."""
    return _COUNT.sub("", name)


class Names(set[str]):
    """Names that are taken."""

    @classmethod
    def from_graph(cls, graph: Graph) -> Names:
        """Those in a graph and in the models nested in it."""
        graphs = [graph, *graph.nested()]
        inputs = [kt.name for g in graphs for kt in g.functional.inputs]
        return cls([*inputs, *(site.name for g in graphs for site in g.sites)])

    def free(self, name: str) -> str:
        """`name`, with a number after it if it is taken; taken from now on."""
        found, number = name, 0
        while found in self:
            number += 1
            found = f"{name}_{number}"
        self.add(found)
        return found
