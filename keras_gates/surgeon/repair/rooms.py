"""How many samples there is room for, around each layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from typing import NamedTuple

from keras_gates.surgeon.repair.readers import Reader
from keras_gates.surgeon.repair.readers import readers_of
from keras_gates.surgeon.repair.walk import Walk

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.repair.pairs import Pairs
    from keras_gates.surgeon.repair.samples import Batch

    Shapes = dict[Tensor, tuple[int, ...]]

# What the tensors around a layer may take, over all samples, in float32.
_BYTES = 2**29
# About how many tensors of a size are held at a time, of both models.
_HELD = 3


class Match(NamedTuple):
    """A kernel in a call, and what it was in the original.

    Attributes:
        new: the reader in the smaller model.
        old: that in the original.
    """

    new: Reader
    old: Reader


class Rooms:
    """How many samples to look at, for each layer.

    A layer has no more than the layers after it: samples that are left out
    somewhere would have to begin again from their inputs.

    Args:
        pairs: the `Pairs` of the original and the smaller model.
        batch: some samples, for the sizes that models leave open.
    """

    def __init__(self, pairs: Pairs, batch: Batch) -> None:
        self._new = _shapes(pairs.new, batch)
        self._old = _shapes(pairs.old, batch)
        self._samples = batch.size
        self._most: dict[int, float] = {}
        most = math.inf
        for call in reversed(pairs.new.calls):
            for reader in readers_of(call):
                before = pairs.calls.get(call)
                sources = [] if before is None else readers_of(before)
                each = self._bytes(self._new, reader) + max(
                    (self._bytes(self._old, old) for old in sources), default=0
                )
                most = min(most, _BYTES / (_HELD * max(each, 1)))
                self._most[id(reader.kernel)] = most

    def of(self, matches: list[Match], rows: int) -> float:
        """How many samples there is room for, or the fit can't do without.

        Args:
            matches: the calls of one kernel.
            rows: how many rows are wanted.
        """
        reader = matches[0].new
        if reader.inner:
            sizes = self._new[reader.call.outputs[0]][1:-1]
        else:
            sizes = reader.sizes(self._new[reader.source])
        room = self._most[id(reader.kernel)]
        return max(room, 2 * rows // max(math.prod(sizes), 1))

    def _bytes(self, shapes: Shapes, reader: Reader) -> float:
        # What no output needs has no shape, and takes no room.
        return 4 * math.prod(shapes.get(reader.source, ())) / self._samples


def _shapes(graph: Graph, batch: Batch) -> Shapes:
    """The shapes of all tensors of a graph, for these samples."""
    walk = Walk(graph, batch.x)
    for tensor in graph.outputs:
        walk.value(tensor)
    return walk.shapes
