"""A model with real layers where a graph has virtual gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.rewrite import rewrite

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.rules.virtual import VirtualGate


def with_gates(
    graph: Graph,
    gated: Callable[[VirtualGate, keras.KerasTensor], keras.KerasTensor],
    edit: Callable[[Recall], Any] | None = None,
) -> keras.Model:
    """A copy of a graph's model with something at each virtual gate.

    Args:
        graph: the `Graph` with its virtual gates.
        gated: `(virtual gate, tensor) -> tensor`.
        edit: as in `rewrite`, for the calls themselves.
    """

    def both(recall: Recall) -> Any:
        outputs = None if edit is None else edit(recall)
        behind = recall.site.behind
        if not behind:
            return outputs
        outputs = recall() if outputs is None else outputs
        flat = keras.tree.flatten(outputs)
        for number, site in behind.items():
            flat[number] = gated(site.op, flat[number])
        return keras.tree.pack_sequence_as(outputs, flat)

    return rewrite(graph, both, stock=True)
