"""The layers, branches and blocks of a graph that can get a gate."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING
from typing import Any

from keras import layers

from keras_gates.graphs import graph as gr
from keras_gates.layers import Gate
from keras_gates.surgeon.gates.added_shortcuts import added_calls
from keras_gates.surgeon.rules.rule import common_channel_axis
from keras_gates.transforms.finding import chains
from keras_gates.transforms.finding import regions
from keras_gates.transforms.gating import shortcuts

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.transforms.gating.shortcuts import Shortcut
    from keras_gates.transforms.gating.weighing import Shapes

MISMATCH = ("project", "skip")
# Why a piece gets no gate with mismatch="skip".
SKIPPED = "its shortcut would need"


@dataclasses.dataclass(eq=False)
class Piece:
    """A layer, branch or block, and the place of its gate.

    Attributes:
        kind: "layer", "branch" or "block".
        calls: its calls, in order.
        last: the call whose output is gated; None if `operands` are.
        operands: pairs of a call and the index of an input, to be gated.
        entry: such a pair, which reads the input of the piece.
        shortcut: the `Shortcut` to add; None if there is one.
        reason: why it gets no gate; "" if it gets one.
        whole: its layer, if the class is seen through; the gate goes next to
            it, and the layer does not change.
    """

    kind: str
    calls: list[Call]
    last: gr.Call | None = None
    operands: list[tuple[gr.Call, int]] = dataclasses.field(
        default_factory=list
    )
    entry: tuple[gr.Call, int] | None = None
    shortcut: shortcuts.Shortcut | None = None
    reason: str = ""
    whole: gr.Scope | None = None

    @property
    def name(self) -> str:
        """The path of its first layer, or of the last one for a block."""
        if self.whole is not None:
            return self.path
        if self.kind == "block":
            return self.end.path
        kernels = [c for c in self.calls if regions.has_kernel(c)]
        return (kernels or self.calls)[0].path

    @property
    def path(self) -> str:
        """The path of its layer, or of the layer where it ends."""
        call, scope = self.calls[0], self.whole
        if scope is None:
            return self.end.path
        names = [each.site.name for each in call.scopes]
        return "/".join(names[: call.scopes.index(scope) + 1])

    @property
    def end(self) -> Call:
        """The call where it ends: the join, or its last call."""
        return self.last or self.operands[0][0]

    @property
    def gate_name(self) -> str:
        if self.whole is not None:
            return f"{self.whole.site.name}_{self.kind}_gate"
        own = self.end if self.kind == "block" else None
        kernels = [c for c in self.calls if regions.has_kernel(c)]
        call = own or (kernels or self.calls)[0]
        return f"{call.op.name}_{self.kind}_gate"


class Finder:
    """Finds the pieces of a graph.

    Args:
        graph: the `Graph`.
        shapes: `{Tensor: shape}` for each tried size of the inputs.
        mismatch: one of `MISMATCH`: what to do if a shortcut needs a pooling or
            a 1x1 convolution.
    """

    def __init__(
        self, graph: Graph, shapes: list[Shapes], mismatch: str = "project"
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.mismatch = mismatch
        self.order = {call: n for n, call in enumerate(graph.calls)}
        # What transforms add is neither a layer nor a join to gate.
        self._added = added_calls(graph)
        self.joins = [
            join
            for join in regions.find_joins(graph)
            if join.call not in self._added
        ]

    def layers(self, position: str = "activation") -> list[Piece]:
        """Each layer with a kernel, and a shortcut around it."""
        found = {}
        for call in self.graph.calls:
            if call.site not in found and self._is_layer(call):
                found[call.site] = self._layer(call, position)
        return list(found.values())

    def _is_layer(self, call: Call) -> Any:
        own = call not in self._added
        single = len(call.inputs) == len(call.outputs) == 1
        return own and single and regions.has_kernel(call)

    def _layer(self, call: Call, position: str) -> Piece:
        chain = chains.chain(self.graph, call, position)
        start = chains.entry_of(self.graph, call)
        calls = chain if start is call else [start, *chain]
        piece = Piece("layer", calls, chain[-1], entry=(start, 0))
        self.add_shortcut(piece)
        if not piece.reason and _costs_as_much(call, piece.shortcut):
            piece.reason = "its shortcut would cost as much as it does"
        return piece

    def branches(self) -> list[Piece]:
        """What can be closed on the way to a join."""
        found = []
        for join in self.joins:
            for operand in join.branches:
                place = [(join.call, operand.index)]
                calls = sorted(operand.calls, key=self.order.__getitem__)
                piece = Piece("branch", calls, operands=place)
                piece.reason = _why_not(join, operand)
                found.append(self.checked(piece))
        return found

    def blocks(self) -> list[Piece]:
        """The pieces from a fork to a join, with all their branches.

        A block inside another one gets no shortcut, since there is a path
        around its branch.
        """
        found = [self._block(join) for join in self.joins if join.branches]
        for block in found:
            inside = any(
                other is not block and set(block.calls) < set(other.calls)
                for other in found
            )
            if block.shortcut is not None and inside and not block.reason:
                block.reason = "it is inside another block"
        return found

    def whole(self, kind: str = "block") -> list[Piece]:
        """Each layer that is seen through and could be left out.

        Its output has the shape of its input.
        """
        pieces = [
            Piece(kind, [call], call.outputs[0].producer, entry=(call, 0))
            for call in self.graph.calls
            if call.site.opaque and len(call.outputs) == 1
        ]
        calls: dict[gr.Site, list[Call]] = {}
        scopes: dict[gr.Site, gr.Scope] = {}
        for call in self.graph.calls:
            opened = (s for s in call.scopes if s.site.opened is not None)
            scope = next(opened, None)
            if scope is not None:
                first = scopes.setdefault(scope.site, scope)
                calls.setdefault(scope.site, []).extend(
                    [call] * (first is scope)
                )
        pieces += [
            Piece(kind, calls[site], scope.outputs[0].producer, whole=scope)
            for site, scope in scopes.items()
            if len(scope.outputs) == 1
            and scope.outputs[0].producer in calls[site]
        ]
        return [p for p in pieces if self._goes_round(p)]

    def _goes_round(self, piece: Piece) -> bool:
        """Find the path around a layer; returns whether there is one."""
        scope, output = piece.whole, piece.end.outputs[0]
        inputs = piece.calls[0].inputs if scope is None else scope.inputs
        alike = [
            n
            for n, x in enumerate(inputs)
            if x.dtype == output.dtype
            and all(shapes[x] == shapes[output] for shapes in self.shapes)
        ]
        if not alike:
            return False
        piece.entry = (piece.calls[0], alike[0])
        piece.shortcut = shortcuts.Shortcut(-1, len(output.shape))
        readers = output.consumers
        if output in self.graph.outputs:
            piece.reason = "it produces an output of the model"
        elif any(self._is_gate(c, piece.kind) for c in readers):
            piece.reason = "it has a gate already"
        return True

    def _block(self, join: regions.Join) -> Piece:
        calls = regions.calls_from(join.fork, join.call.outputs[0])
        calls.sort(key=self.order.__getitem__)
        piece = Piece("block", calls)
        if join.shortcut is None and not join.adds:
            first = next(c for c in calls if join.fork in c.inputs)
            piece.last = join.call
            piece.entry = (first, first.inputs.index(join.fork))
            return self.add_shortcut(piece)
        piece.operands = [(join.call, o.index) for o in join.branches]
        why = [_why_not(join, o) for o in join.branches]
        piece.reason = next(filter(None, why), "")
        return self.checked(piece)

    def add_shortcut(self, piece: Piece) -> Piece:
        """Find the shortcut from the entry of a piece to its output."""
        if piece.entry is None or piece.last is None:
            raise ValueError(
                f"A {piece.kind} of no known end needs no shortcut."
            )
        (call, index), last = piece.entry, piece.last
        first, second = call.inputs[index], last.outputs[0]
        pairs = [(shapes[first], shapes[second]) for shapes in self.shapes]
        axis = _channels(piece, (first, second))
        try:
            piece.shortcut = shortcuts.shape(pairs, axis)
        except shortcuts.CannotShape as error:
            piece.reason = str(error)
            return piece
        if self.mismatch == "skip" and str(piece.shortcut) != "identity":
            piece.reason = f"{SKIPPED} {piece.shortcut}"
        if call.scopes != last.scopes:
            piece.reason = "it begins and ends in different models"
        return self.checked(piece)

    def checked(self, piece: Piece) -> Piece:
        """Set the reason why a piece gets no gate."""
        if piece.last is not None:
            tensor = piece.last.outputs[0]
            outside = regions.leak(self.graph, piece.calls, tensor)
            if tensor in self.graph.outputs:
                piece.reason = "it produces an output of the model"
            elif outside is not None:
                piece.reason = _leaks(outside)
            gated = any(self._is_gate(c, piece.kind) for c in tensor.consumers)
        else:
            tensors = [call.inputs[i] for call, i in piece.operands]
            gated = any(self._is_gate(t.producer, piece.kind) for t in tensors)
        if gated:
            piece.reason = "it has a gate already"
        return piece

    def _is_gate(self, call: Call | None, kind: str) -> bool:
        """Whether a call is a gate, or an added subtraction before one."""
        if call is None:
            return False
        if call in self._added and isinstance(call.op, layers.Subtract):
            readers = call.outputs[0].consumers
            return any(self._is_gate(c, kind) for c in readers)
        return isinstance(call.op, Gate) and call.op.kind == kind


def _why_not(join: regions.Join, operand: regions.Operand) -> str:
    """Why an operand of a join can't be closed, or ""."""
    if join.adds and join.shortcut is None:
        return (
            "its sides can't be told apart: they have as many kernels; name "
            "one in `pieces`"
        )
    tensor = join.call.inputs[operand.index]
    return "" if operand.closed else _leaks(tensor)


def _leaks(tensor: Any) -> Any:
    return f"the output of '{tensor.producer.path}' is read elsewhere, too"


def _channels(piece: Any, ends: Any) -> Any:
    """The channel axis of the input and the output."""
    if isinstance(piece.last.op, layers.Concatenate):
        return piece.last.op.axis
    return common_channel_axis(piece.calls, len(ends[0].shape))


def _costs_as_much(call: Call, shortcut: Shortcut | None) -> bool:
    """Whether a 1x1 convolution would have as large a kernel as the layer."""
    if shortcut is None or not shortcut.width:
        return False
    kernels = [w.shape for w in gr.own_weights(call.op) if len(w.shape) > 1]
    # A shortcut to another width needs a known width.
    before = call.inputs[0].shape[shortcut.axis] or 0
    return sum(map(math.prod, kernels)) <= before * shortcut.width
