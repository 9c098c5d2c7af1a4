"""Moves the calls of nested models into the model around them.

Keras can save a model in which a layer is called both in the model itself and
in a model nested in it, or in two nested models. It can't load the file, since
the calls of each model are numbered apart from those of the others. And
`clone_model` and `from_config` make one layer for each model. So a layer that
is added in several places must have all of its calls in one model.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.nesting import Nesting
from keras_gates.graphs.reading import read
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
    nesting = Nesting(graph)
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
    nesting = Nesting(graph)
    return nesting.why_not(nesting.dissolved(home))
