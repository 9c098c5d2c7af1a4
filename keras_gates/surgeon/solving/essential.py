"""What a search must leave open so that no input is cut off."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon.passes import influence
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.rules.virtual import VirtualGate
from keras_gates.surgeon.solving.bottlenecks import bottlenecks
from keras_gates.surgeon.solving.trials import Trials
from keras_gates.thresholds.floor import channels

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.thresholds.rule import Factors

_EVERY: frozenset[StepKey] = frozenset()


class Severing:
    """Says whether closed gates cut an input off.

    An output must go on to depend on each input whose values it computes
    with, by values: a mask, a condition or an index that still gets there does
    not make up for the data. An output that depends on nothing but choices
    must go on to depend on each of these.

    The graph is labeled once, so that a call costs a few milliseconds.
    """

    def __init__(
        self,
        graph: Graph,
        exact: bool = True,
        closed: Mapping[str, NDArray[np.bool_]] | None = None,
        trials: Trials | None = None,
    ) -> None:
        """Find what depends on what.

        Args:
            graph: the `Graph` of a model.
            exact: as in `solve`.
            closed: `{gate name: boolean array}` of gates that are closed
                anyway; what they cut off is not missed.
            trials: what remembers other trials of the graph, for a search.
        """
        self._search = Trials(graph) if trials is None else trials
        self._labelling = self._search.labelling(_EVERY)
        self._exact = exact
        levels = self._levels(closed or {})
        self._needed = influence.main(levels, graph.outputs)

    def __call__(self, closed: Mapping[str, NDArray[np.bool_]]) -> bool:
        return influence.lost(self._levels(closed), self._needed)

    def alone(self) -> list[str]:
        """Gates that presumably cut an input off by themselves."""
        graph = self._search.graph
        layers = IdentityDict(
            (step.call.op, None) for step in bottlenecks(self._labelling)
        )
        found = [
            name
            for name, source in self._search.gates.items()
            if name not in graph.groups and source.layer in layers
        ]
        for op in layers:
            if isinstance(op, VirtualGate):
                first, last = op.units.min(), op.units.max()
                found += [
                    name
                    for name, group in graph.groups.items()
                    if group.start <= first and last < group.stop
                ]
        return list(dict.fromkeys(found))

    def _levels(
        self, closed: Mapping[str, NDArray[np.bool_]]
    ) -> dict[Tensor, NDArray[np.intp]]:
        by_layer = self._search.by_layer(closed)
        values = self._search.constants(_EVERY, by_layer, self._exact)
        return influence.levels(self._labelling, values)


def held_open(
    gates: Sequence[Factors],
    closed: Mapping[str, NDArray[np.bool_]],
    keep_at_least: float,
    severs: Severing,
) -> dict[str, NDArray[np.bool_]]:
    """Find the gates that nothing leads around, and what of them stays open.

    Gates are closed altogether, those of small factors first. The one with
    which the model falls apart is held open in part, and so on until all
    others can close.

    Args:
        gates: the `Factors` that may be closed.
        closed: `{name: mask}` of gates that are closed anyway, as for
            `Severing`.
        keep_at_least: the floor of each gate that is held; at least one of
            its factors is.
        severs: what says whether closed gates cut an input off.

    Returns:
        `{name: mask}` of the factors that must stay open.
    """
    order = sorted(gates, key=lambda gate: np.abs(gate.values).max())
    held: dict[str, NDArray[np.bool_]] = {}

    def hold(gate: Factors) -> None:
        # Held already, and yet the model falls apart: other gates close the
        # very channels that it leaves open.
        size = gate.values.size
        floor = size if gate.name in held else channels(keep_at_least, size)
        held[gate.name] = largest(gate.values, max(1, floor))

    # The search would find these one after the other.
    alone = set(severs.alone())
    for gate in gates:
        shut = np.ones(gate.values.shape, bool)
        if gate.name in alone and severs({**closed, gate.name: shut}):
            hold(gate)

    def falls_apart(count: int) -> bool:
        shut = {
            g.name: ~held.get(g.name, np.zeros(g.values.shape, bool))
            for g in order[:count]
        }
        return severs({**closed, **shut})

    count = 1
    while falls_apart(len(order)):
        # With fewer closed, and more held open, it did not fall apart before.
        count = _first(falls_apart, count, len(order))
        hold(order[count - 1])
    return held


def _first(is_enough: Callable[[int], bool], start: int, last: int) -> int:
    """The first number from `start` on that is enough, as `last` is.

    It is looked for in steps that grow, since it is seldom far.
    """
    step = 1
    while start < last:
        end = min(start + step, last) - 1
        if is_enough(end):
            return start + bisect.bisect_left(
                range(start, end), True, key=is_enough
            )
        start, step = end + 1, 2 * step
    return last


def largest(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.bool_]:
    """Marks the `count` largest sizes, the first of equal ones first."""
    mask = np.zeros(values.size, bool)
    order = np.argsort(-np.abs(values).reshape(-1), kind="stable")
    mask[order[:count]] = True
    return mask.reshape(values.shape)
