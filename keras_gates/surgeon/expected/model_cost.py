"""The cost of a model as a function of how far its gates are open."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.expected import prices
from keras_gates.surgeon.expected.circuit import Circuit

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.expected.prices import Price
    from keras_gates.surgeon.passes.label import StepKey


class ModelCost:
    """The remaining multiply-adds and parameters.

    Attributes:
        circuit: the `Circuit` of the gathers that paid where it was last asked
            at a corner.
    """

    def __init__(
        self, graph: Graph, names: Sequence[str], sizes: Any = None
    ) -> None:
        """Read a graph.

        Args:
            graph: the `Graph` of a model, as `expand.read` returns it.
            names: those of the gates that may close.
            sizes: as in `Budget`.
        """
        self._graph = graph
        self._names = list(names)
        self._shapes = shapes_of(graph, sizes)
        self._known: dict[frozenset[StepKey], Circuit] = {}
        self._priced: dict[frozenset[StepKey], dict[str, list[Price]]] = {}
        self.circuit = self._circuit(frozenset())

    def _circuit(self, uncut: frozenset[StepKey]) -> Circuit:
        if uncut not in self._known:
            circuit = Circuit(self._graph, self._names, uncut)
            self._known[uncut] = circuit
            self._priced[uncut] = {
                "macs": prices.multiply_adds(circuit, self._shapes),
                "params": prices.parameters(circuit),
            }
        return self._known[uncut]

    def of(self, xp: Any, factors: Any, resource: str) -> Any:
        """The cost for partly open factors.

        Args:
            xp: `numpy` or `keras.ops`.
            factors: from 0 to 1, `(..., factors)`, gate after gate.
            resource: "macs" or "params".
        """
        kept = self.circuit.kept(xp, factors)
        found = factors[..., 0] * 0
        for price in self._priced[self.circuit.uncut][resource]:
            found = found + price.of(xp, kept)
        return found

    def settle(self, closed: Mapping[str, NDArray[np.bool_]]) -> None:
        """Find the gathers that pay off when these gates are closed."""
        factors = self.flat(closed)
        poor: set[StepKey] | None = None
        while poor is None or poor:
            uncut = frozenset() if poor is None else self.circuit.uncut | poor
            self.circuit = self._circuit(uncut)
            self.circuit.settle(closed)
            poor = self.circuit.poor(self.circuit.kept(np, factors))

    def at(
        self, closed: Mapping[str, NDArray[np.bool_]], resource: str
    ) -> float:
        """The cost when these gates are closed, as `plan` counts it."""
        self.settle(closed)
        return float(self.of(np, self.flat(closed), resource))

    def flat(
        self, closed: Mapping[str, NDArray[np.bool_]]
    ) -> NDArray[np.float64]:
        """Masks of closed factors as how far each is open."""
        each = [1.0 - closed[name].ravel() for name in self._names]
        return np.concatenate([np.zeros(0), *each])
