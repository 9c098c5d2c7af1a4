"""Which weights are the user's, in layers that were seen through.

The parts may hold more than the layer does: the ones that multiply a vector
which is added, say. And the layer may hold weights that its `call` never uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.solving.returns import How

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Scope
    from keras_gates.surgeon.solving.solve import Solution


class Parts:
    """The layers of a solution that were seen through.

    Args:
        solution: the `Solution`.
    """

    def __init__(self, solution: Solution) -> None:
        self.graph = solution.graph
        self._own = gr.own_variables(solution.graph)
        self._written_out = {
            each.path
            for each in solution.returns
            if each.how is How.WRITTEN_OUT
        }

    def constants(self, call: Call) -> list[str]:
        """The names of weights that hold none of the user's numbers."""
        if not isinstance(call.op, keras.Layer) or not _round(call):
            return []
        weights = call.op.weights
        return [w.name for w in weights if id(w) not in self._own]

    def written_out(self, call: Call) -> bool:
        """Whether a call is there itself in the smaller model."""
        scopes = _round(call)
        return not scopes or _path(call, scopes[-1]) in self._written_out

    def unused(self) -> Iterator[tuple[str, int, int]]:
        """Layers with weights that nothing uses: path, and entries.

        Those before the cut and after it: what is written out has none.
        """
        seen: set[int] = set()
        for call in self.graph.calls:
            for weight in gr.own_weights(call.op):
                seen.add(id(self._own.get(id(weight), weight)))
        for call in self.graph.calls:
            for scope in _round(call)[:1]:
                weights = scope.site.own.weights
                rest = [w for w in weights if id(w) not in seen]
                seen.update(map(id, rest))
                size = costs.parameters([(w.name, w.shape) for w in rest])
                path = _path(call, scope)
                if size:
                    yield path, size, 0 if path in self._written_out else size


def _round(call: Call) -> list[Scope]:
    """The layers that were seen through and have a call in them."""
    return [scope for scope in call.scopes if scope.site.opened is not None]


def _path(call: Call, scope: Scope) -> str:
    names = [each.site.name for each in call.scopes]
    return "/".join(names[: call.scopes.index(scope) + 1])
