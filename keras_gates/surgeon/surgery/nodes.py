"""Which calls of a layer are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import private

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site


def sites_of(
    graph: Graph,
    layer: keras.Layer | str,
    node_indices: Sequence[int] | None = None,
) -> list[Site]:
    """The recorded calls of a layer in a model, or some of them.

    Args:
        graph: the `Graph` of the model.
        layer: a layer of it, or of a model nested in it; or its name or
            path.
        node_indices: which of the layer's calls, counted over all models
            that it was ever called in; all in this model by default.

    Returns:
        A list of `Site`s.

    Raises:
        ValueError: the layer is not in the model, or an index is repeated
            or is that of no call in it.
    """
    every = [s for g in [graph, *graph.nested()] for s in g.sites]
    found = [s for s in every if s.own is layer or _is_called(s, layer)]
    if not found:
        raise ValueError(
            f"Layer {_name(layer)} is not a layer of '{graph.model.name}' "
            "that is called on something. Pass one of this model's own, as "
            "model.get_layer(name) returns it."
        )
    if found[0].child is not None and found[0].opened is None:
        what = "holds" if found[0].folds else "is"
        raise ValueError(
            f"'{found[0].name}' {what} a model in '{graph.model.name}'. "
            "Surgery is on layers: pass one of those inside."
        )
    if node_indices is None or len(node_indices) == 0:
        return found
    every_call = private.calls_of(found[0].op)
    places = {id(n): i for i, n in enumerate(every_call)}
    sites = {places[id(site.node)]: site for site in found}
    if len(node_indices) != len(set(node_indices)):
        raise ValueError(
            f"`node_indices` of layer '{found[0].name}' has duplicates. "
            f"Received: {list(node_indices)}."
        )
    if not set(node_indices) <= set(sites):
        raise ValueError(
            f"`node_indices` of layer '{found[0].name}' must be among those "
            f"of its calls in '{graph.model.name}', {sorted(sites)}. "
            f"Received: {list(node_indices)}."
        )
    return [sites[index] for index in node_indices]


def _is_called(site: Site, name: keras.Layer | str) -> bool:
    return name in (site.name, *(call.path for call in site.calls))


def _name(layer: keras.Layer | str) -> str:
    return repr(layer.name if isinstance(layer, keras.Layer) else layer)
