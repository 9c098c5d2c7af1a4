"""Gates that all paths from an input to an output lead through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from keras_gates.surgeon.passes import influence

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

# Paths are counted modulo this: a DenseNet has more than any number holds.
_PRIME = 2**61 - 1


def bottlenecks(labelling: Labelling) -> list[Step]:
    """The gates whose closing alone cuts an output off from an input.

    If `n` paths lead from an input to a gate, and `m` from there to an output,
    then `n * m` of the paths between the two lead through it. As the numbers
    are remainders, a gate may be named by mistake, with a chance of next to
    nothing, and gates that multiply each other are not looked at.

    Args:
        labelling: a `Labelling` of the model.
    """
    graph = labelling.graph
    edges = [(step, influence.carried(step)) for step in labelling.steps]
    gates = [step for step in labelling.steps if step.is_gate]
    before = [_ways(edges, source) for source in graph.inputs]
    after = {target: _ways_back(edges, target) for target in graph.outputs}

    def is_passed(gate: Step) -> bool:
        tensor = gate.outputs[0]
        return any(
            ways.get(target)
            and ways.get(tensor, 0) * back.get(tensor, 0) % _PRIME
            == ways[target]
            for ways in before
            for target, back in after.items()
        )

    return [gate for gate in gates if is_passed(gate)]


def _ways(
    edges: Iterable[tuple[Step, list[Tensor]]], source: Tensor
) -> dict[Tensor, int]:
    """How many paths lead from a tensor to each of the others."""
    ways = {source: 1}
    for step, given in edges:
        number = sum(ways.get(tensor, 0) for tensor in given) % _PRIME
        if number:
            for tensor in step.outputs:
                ways[tensor] = number
    return ways


def _ways_back(
    edges: list[tuple[Step, list[Tensor]]], target: Tensor
) -> dict[Tensor, int]:
    """How many paths lead from each tensor to a certain one."""
    ways = {target: 1}
    for step, given in reversed(edges):
        number = sum(ways.get(tensor, 0) for tensor in step.outputs) % _PRIME
        if number:
            for tensor in given:
                ways[tensor] = (ways.get(tensor, 0) + number) % _PRIME
    return ways
