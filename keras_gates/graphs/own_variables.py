"""Maps variables in layers that are seen through to the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph


def own_variables(graph: Graph) -> dict[int, keras.Variable]:
    """The user's variable that each one in layers seen through is for.

    What is in such a layer and is not in the dict holds constants, such as
    the ones that multiply a vector which is added.

    Args:
        graph: the `Graph` of a model.

    Returns:
        `{id of a variable of a part: the user's variable}`.
    """
    found: dict[int, keras.Variable] = {}
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            if site.opened is not None:
                for part, own in site.opened.variables():
                    found[id(part)] = found.get(id(own), own)
    return found
