"""Forks, joins, and the pieces of a graph between two tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import layer_table as lt
from keras_gates.surgeon.rules import merge as mg
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor

# Rules of the operations at which branches meet.
SUMS = (mg.ADD, mg.AVERAGE, mg.SCALED_ADD)
JOINS = (*SUMS, lt.CONCATENATE)


def has_kernel(call: Call) -> bool:
    """Whether a call multiplies by weights, or may do so."""
    costs = rule_of(call).costs
    if costs is None:
        return bool(gr.own_weights(call.op))
    return bool(costs)


def is_join(call: Call) -> bool:
    """Whether a call joins several tensors, each as its own operand."""
    return len(set(call.inputs)) > 1 and rule_of(call) in JOINS


class Dominators:
    """For each tensor, the last one that all paths to it go through.

    None stands for the source of the model's inputs.
    """

    def __init__(self, graph: Graph) -> None:
        self._above: dict[Tensor, Tensor | None] = dict.fromkeys(graph.inputs)
        self._depth: dict[Tensor | None, int] = {None: 0}
        self._depth |= dict.fromkeys(graph.inputs, 1)
        for call in graph.calls:
            above = self.common(call.inputs)
            for tensor in call.outputs:
                self._above[tensor] = above
                self._depth[tensor] = self._depth[above] + 1

    def common(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """The last tensor on all paths to all of `tensors`, or None."""
        if not tensors:
            return None
        found: Tensor | None = tensors[0]
        for tensor in tensors[1:]:
            other: Tensor | None = tensor
            while found is not other:
                # None is above all others: the lower one moves up.
                if (
                    other is not None
                    and self._depth[found] < self._depth[other]
                ):
                    other = self._above[other]
                elif found is not None:
                    found = self._above[found]
        return found

    def between(self, top: Tensor, tensor: Tensor) -> list[Tensor]:
        """Tensors on all paths from `top` to `tensor`, `top` the first."""
        found: list[Tensor] = []
        here: Tensor | None = tensor
        while here is not None and here is not top:
            here = self._above[here]
            if here is not None:
                found.append(here)
        return found[::-1]


def calls_between(
    entry: Tensor, tensor: Tensor
) -> tuple[list[Call], list[Tensor]]:
    """The calls on paths from `entry` to `tensor`, in no order.

    Returns:
        `(calls, strays)`: the strays are other tensors without a producer from
        which paths to `tensor` start.
    """
    calls: dict[Call, None] = {}
    strays: list[Tensor] = []
    todo = [tensor]
    while todo:
        here = todo.pop()
        if here is entry:
            continue
        call = here.producer
        if call is None:
            strays.append(here)
        elif call not in calls:
            calls[call] = None
            todo.extend(call.inputs)
    return list(calls), strays


def calls_from(fork: Tensor, tensor: Tensor) -> list[Call]:
    """The calls on paths to `tensor` that depend on `fork`, in no order."""
    calls, _ = calls_between(fork, tensor)
    between, found = set(calls), dict[gr.Call, None]()
    todo = [fork]
    while todo:
        for call in todo.pop().consumers:
            if call in between and call not in found:
                found[call] = None
                todo.extend(call.outputs)
    return list(found)


def leak(
    graph: Graph,
    calls: Sequence[Call],
    exit: Tensor,
    join: Call | None = None,
) -> Tensor | None:
    """A tensor inside that is read outside, or None.

    Args:
        graph: the `Graph`.
        calls: the calls of the piece.
        exit: its last tensor.
        join: the only call that may read `exit`; by default, any may.
    """
    inside, outputs = set(calls), set(graph.outputs)
    for call in calls:
        for tensor in call.outputs:
            readers = set(tensor.consumers) - inside
            if tensor is exit:
                if join is None:
                    continue
                readers.discard(join)
            if readers or tensor in outputs:
                return tensor
    return None


@dataclasses.dataclass(eq=False)
class Operand:
    """An operand of a join.

    Attributes:
        index: its index among the inputs of the join.
        entry: where its piece starts: the fork, or below it.
        calls: the calls of the piece.
        weight: the number of kernels on the way from the fork.
        closed: whether nothing in the piece is read elsewhere.
    """

    index: int
    entry: Tensor
    calls: list[Call]
    weight: int
    closed: bool


@dataclasses.dataclass(eq=False)
class Join:
    """A call that joins branches from one tensor."""

    call: gr.Call
    fork: gr.Tensor
    operands: list[Operand]
    rule: Rule

    @property
    def adds(self) -> bool:
        """Whether it adds; otherwise it concatenates channels."""
        return self.rule in SUMS

    @property
    def shortcut(self) -> Operand | None:
        """The operand that remains if the others are zero, or None.

        In a sum, it is the only one with the fewest kernels; in a
        concatenation, there is none.
        """
        first, second = sorted(self.operands, key=lambda o: o.weight)[:2]
        if self.adds:
            return first if first.weight < second.weight else None
        return first if first.weight == 0 else None

    @property
    def branches(self) -> list[Operand]:
        """The operands that are not a shortcut."""
        return [o for o in self.operands if o.weight and o != self.shortcut]


def find_joins(graph: Graph) -> list[Join]:
    """The `Join`s of a graph, in order; one per site."""
    dominators = Dominators(graph)
    found: dict[Site, Join] = {}
    for call in graph.calls:
        if not is_join(call) or call.site in found:
            continue
        if len(set(call.inputs)) < len(call.inputs):
            continue
        fork = dominators.common(call.inputs)
        if fork is not None:
            operands = [
                _operand(graph, dominators, fork, call, index)
                for index in range(len(call.inputs))
            ]
        else:
            fork = _fork_past_masks(call)
            if fork is None:
                continue
            operands = [
                _operand_past_masks(graph, fork, call, index)
                for index in range(len(call.inputs))
            ]
        found[call.site] = Join(call, fork, operands, rule_of(call))
    return list(found.values())


def _fork_past_masks(join: Call) -> Tensor | None:
    """The operand from which all others start, if they have further inputs.

    For example, attention gets its mask from elsewhere.
    """
    for fork in join.inputs:
        rest = [tensor for tensor in join.inputs if tensor is not fork]
        if all(calls_from(fork, tensor) for tensor in rest):
            return fork
    return None


def _operand_past_masks(
    graph: Graph, fork: Tensor, join: Call, index: int
) -> Operand:
    """The part of an operand that depends on the fork."""
    tensor = join.inputs[index]
    calls = calls_from(fork, tensor)
    weight = sum(map(has_kernel, calls))
    closed = leak(graph, calls, tensor, join) is None
    return Operand(index, fork, calls, weight, closed)


def _operand(
    graph: Graph, dominators: Dominators, fork: Tensor, join: Call, index: int
) -> Operand:
    """The longest closed piece that ends at this operand."""
    tensor = join.inputs[index]
    calls, _ = calls_between(fork, tensor)
    weight = sum(map(has_kernel, calls))
    for entry in dominators.between(fork, tensor):
        inside, _ = calls_between(entry, tensor)
        if leak(graph, inside, tensor, join) is None:
            return Operand(index, entry, inside, weight, True)
    return Operand(index, fork, calls, weight, False)
