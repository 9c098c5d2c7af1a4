"""Producers and readers of each tensor of a recorded model."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site


class Wiring:
    """The neighbors of the recorded calls of one `Graph`, nested or not.

    Args:
        graph: the `Graph`; models inside it are single calls.
        shared: ids of the layers that are called several times.
    """

    def __init__(self, graph: Graph, shared: set[int]) -> None:
        self.shared = shared
        self._outputs = {id(kt) for kt in graph.functional.outputs}
        self._makers: dict[int, Site] = {}
        self._readers: dict[int, list[Site]] = collections.defaultdict(list)
        for site in graph.sites:
            for kt in site.node.outputs:
                self._makers[id(kt)] = site
            for kt in site.node.input_tensors:
                self._readers[id(kt)].append(site)

    def maker(self, kt: keras.KerasTensor) -> Site | None:
        """The call that produces a tensor; None for an input of the model."""
        return self._makers.get(id(kt))

    def readers(self, kt: keras.KerasTensor) -> list[Site]:
        """The calls that read a tensor."""
        return self._readers[id(kt)]

    def before(self, site: Site) -> Site | None:
        """The preceding call, if only this one reads its output."""
        return self.sole_maker(site.node.input_tensors[0])

    def sole_maker(self, kt: keras.KerasTensor) -> Site | None:
        """The unshared call that produces `kt`, if it is read once."""
        found = self.maker(kt)
        once = len(self._readers[id(kt)]) == 1 and id(kt) not in self._outputs
        return found if once and self._is_own(found) else None

    def after(self, site: Site) -> Site | None:
        """The following call, if it is the only reader."""
        kt = site.node.outputs[0]
        readers = self._readers[id(kt)]
        alone = len(readers) == 1 and id(kt) not in self._outputs
        return readers[0] if alone and self._is_own(readers[0]) else None

    def _is_own(self, site: Site | None) -> bool:
        return (
            site is not None
            and site.child is None
            and id(site.op) not in self.shared
        )


def shared_layers(graphs: list[Graph]) -> set[int]:
    """The ids of the layers that are called several times."""
    counts = collections.Counter(
        id(site.op) for graph in graphs for site in graph.sites
    )
    return {key for key, count in counts.items() if count > 1}
