"""Moves the calls of nested models into the model around them.

Keras can save a model in which a layer is called both in the model itself and
in a model nested in it, or in two nested models. It can't load the file, since
the calls of each model are numbered apart from those of the others. And
`clone_model` and `from_config` make one layer for each model. So a layer that
is added in several places must have all of its calls in one model.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from collections.abc import Iterable
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.names import Names
from keras_gates.graphs.reading import read
from keras_gates.graphs.rewrite import Inlining
from keras_gates.graphs.rewrite import rewrite

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.calls import Site


def inlined(model: keras.Model, before: Collection[str]) -> keras.Model:
    """A model in which all calls of each layer are in one functional model.

    Nested models that share a layer with others are dissolved: their layers
    are called in the model around them, and have the name of the nested model
    in front of their own. What can't be dissolved stays nested.

    Args:
        model: a functional model.
        before: the names of layers that were there before others were
            added, whose names have numbers to tell them apart.

    Returns:
        A new model; `model` itself if no layer is shared by several models.
    """
    graph = read(model)
    homes: IdentityDict[keras.Operation, set[Graph]] = IdentityDict()
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            homes.setdefault(site.op, set()).add(each)
    nesting = _Nesting(graph)
    found: set[Graph] = set()
    for home in homes.values():
        dissolved = nesting.dissolved(home)
        if not nesting.why_not(dissolved):
            found |= dissolved
    if not found:
        return model
    return rewrite(graph, inlining=nesting.inlining(found, before))


def why_not(graph: Graph, sites: Iterable[Site]) -> str:
    """Why the calls of a layer at some sites can't be in one model.

    Args:
        graph: the `Graph` of a model.
        sites: where the layer is called, or is to be called.

    Returns:
        A clause; "" if they can.
    """
    wanted = set(sites)
    graphs = [graph, *graph.nested()]
    home = {g for g in graphs if not wanted.isdisjoint(g.sites)}
    if len(home) < 2:
        return ""
    nesting = _Nesting(graph)
    return nesting.why_not(nesting.dissolved(home))


_COUNT = re.compile(r"_\d+$")


class _Nesting:
    """Which models of a graph are nested in which.

    Args:
        graph: the `Graph` of the outermost model.
    """

    def __init__(self, graph: Graph) -> None:
        self._graphs = [graph, *graph.nested()]
        self._around: dict[Graph, list[tuple[Graph, Site]]] = {}
        for each in self._graphs:
            for site in each.sites:
                if site.child is not None:
                    around = self._around.setdefault(site.child, [])
                    around.append((each, site))
        self._depths = dict.fromkeys(self._graphs, 0)
        for _ in self._graphs:
            for inner, around in self._around.items():
                deepest = max(self._depths[outer] for outer, _ in around)
                self._depths[inner] = deepest + 1

    def dissolved(self, home: Collection[Graph]) -> set[Graph]:
        """The models to dissolve for some to become one."""
        left = set(home)
        found: set[Graph] = set()
        while len(left) > 1:
            inner = max(left, key=self._depths.__getitem__)
            found.add(inner)
            left.remove(inner)
            left |= {outer for outer, _ in self._around[inner]}
        return found

    def why_not(self, graphs: Collection[Graph]) -> str:
        """Why one of some models can't be dissolved; "" if all can."""
        for inner in self._graphs:
            for _, site in self._around[inner] if inner in graphs else ():
                if site.folds:
                    return f"'{site.name}' calls its model step by step"
                deaf = _deaf(inner) if _is_told(site) else None
                if deaf is not None:
                    return (
                        f"'{site.name}' is called with `training`, which "
                        f"'{deaf.name}' in it does not take"
                    )
        return ""

    def inlining(
        self, graphs: Collection[Graph], before: Collection[str]
    ) -> Inlining:
        """What becomes of the operations of models that are dissolved."""
        paths: dict[Graph, tuple[str, ...]] = {}
        homes: dict[Graph, Graph] = {}
        for inner in sorted(graphs, key=self._depths.__getitem__):
            outer, site = self._around[inner][0]
            paths[inner] = (*paths.get(outer, ()), site.name)
            homes[inner] = homes.get(outer, outer)
        names, stay = Names(), [g for g in self._graphs if g not in paths]
        for each in stay:
            names.update(kt.name for kt in each.functional.inputs)
            names.update(site.name for site in each.sites)
        own = IdentityDict((s.op, None) for g in stay for s in g.sites)
        new: IdentityDict[keras.Operation, str] = IdentityDict()
        parts: dict[Graph, dict[str, tuple[str, ...]]] = {}
        for op, inside in self._moved(graphs).items():
            if op in own:
                continue
            added = op.name not in before
            name = _COUNT.sub("", op.name) if added else op.name
            if len(inside) == 1:
                name = "_".join((*paths[inside[0]], name))
            new[op] = names.free(name)
            path = (*paths[inside[0]], op.name)
            parts.setdefault(homes[inside[0]], {})[new[op]] = path
        return Inlining(frozenset(paths), new, parts)

    def _moved(
        self, graphs: Collection[Graph]
    ) -> IdentityDict[keras.Operation, list[Graph]]:
        """Each operation in some models, and those of them that it is in."""
        found: IdentityDict[keras.Operation, list[Graph]] = IdentityDict()
        for inner in self._graphs:
            for site in inner.sites if inner in graphs else ():
                inside = found.setdefault(site.op, [])
                if site.child in graphs:
                    del found[site.op]
                elif inner not in inside:
                    inside.append(inner)
        return found


def _is_told(site: Site) -> bool:
    """Whether a nested model is called with `training`."""
    told = site.node.arguments.kwargs.get("training") is not None
    return told and site.opened is None


def _deaf(graph: Graph) -> keras.Layer | None:
    """A layer that can't be told of training, though layers in it may ask."""
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            whole = site.child is None or site.opened is not None
            asks = whole and private.has_sublayers(site.op)
            if asks and not private.takes_training(site.op):
                return site.op
    return None
