"""Which weights are the user's, in layers that were seen through.

The parts may hold more than the layer does: the ones that multiply a vector
which is added, say, a table of which rows were picked, or a copy of a weight
that another layer holds as well. And the layer may hold weights that its `call`
never uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.solving.returns import How

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Scope
    from keras_gates.surgeon.rules.rule import Weights
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

        self._first = self._first_holders()

    def _first_holders(self) -> dict[int, keras.Operation]:
        """By the id of a user's variable, the first operation that holds it."""
        found: dict[int, keras.Operation] = {}
        for call in self.graph.calls:
            for weight in gr.own_weights(call.op):
                found.setdefault(id(self._own.get(id(weight), weight)), call.op)
        return found

    def before(self, call: Call, shapes: Weights) -> int:
        """The entries of the user's variables that are counted at a call.

        Args:
            call: the call.
            shapes: those of the weights of its operation.
        """
        sizes = self._sizes(call)
        return sum(sizes.get(n, math.prod(shape)) for n, shape in shapes)

    def after(self, call: Call, shapes: Weights) -> int:
        """Those that are left of them.

        Args:
            call: the call.
            shapes: those of the weights of its operation after the cut.
        """
        if self.written_out(call):
            return costs.parameters(shapes)
        sizes = self._sizes(call)
        wholes = {w.name: math.prod(w.shape) for w in gr.own_weights(call.op)}
        return sum(
            # What was made of a variable is cut as the variable is.
            math.prod(shape) * sizes[name] // max(1, wholes[name])
            if name in sizes
            else math.prod(shape)
            for name, shape in shapes
        )

    def _sizes(self, call: Call) -> dict[str, int]:
        """The entries of the variables that are not those of the weights.

        A weight that holds none of the user's numbers has none, and one that
        is counted at an earlier call has none here.
        """
        if not _round(call):
            return {}
        found = {}
        for weight in gr.own_weights(call.op):
            own = self._own.get(id(weight))
            if own is None or self._first[id(own)] is not call.op:
                found[weight.name] = 0
            else:
                found[weight.name] = math.prod(own.shape)
        return found

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
