"""What can be gated in a model, and why the rest can't."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates import _tables
from keras_gates.graphs.shapes import shapes_of
from keras_gates.surgeon.gates import see_through
from keras_gates.transforms.finding.chains import POSITIONS
from keras_gates.transforms.finding.channels import Channels
from keras_gates.transforms.finding.channels import behind
from keras_gates.transforms.finding.channels import find_channels
from keras_gates.transforms.finding.heads import Heads
from keras_gates.transforms.finding.heads import find_heads
from keras_gates.transforms.finding.pieces import MISMATCH
from keras_gates.transforms.finding.pieces import Finder
from keras_gates.transforms.gating.attention_heads import StockHeads
from keras_gates.transforms.gating.attention_heads import find_stock_heads
from keras_gates.transforms.gating.spec import check_one_of

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.transforms.finding.pieces import Piece
    from keras_gates.transforms.gating.weighing import Shapes

# Two values for unknown input sizes: a shortcut must fit both.
_TRIED = (96, 160)


@dataclasses.dataclass(frozen=True)
class Structure:
    """The result of `find_structure`; `print` shows it as a table.

    Attributes:
        model: name of the model.
        filters: a `Channels` for each set that stays or goes together.
        layers: a `Piece` for each layer with a kernel.
        branches: a `Piece` for each branch between a fork and a join.
        blocks: a `Piece` for each fork and join, with everything between them.
        heads: a `Heads` for each set that stays or goes together, and a
            `StockHeads` for each attention layer of Keras.
    """

    model: str
    filters: list[Channels]
    layers: list[Piece]
    branches: list[Piece]
    blocks: list[Piece]
    heads: list[Heads | StockHeads] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            (kind, x.name, *_described(x))
            for kind in ("filters", "layers", "branches", "blocks", "heads")
            for x in getattr(self, kind)
        ]
        head = ("kind", "name", "where the gate goes", "not gated because")
        return f"Model '{self.model}'\n\n{_tables.text(head, rows)}"


def find_structure(
    model: keras.Model, mismatch: str = "project", position: str = "activation"
) -> Structure:
    """Find the filters, layers, branches, blocks and heads that can get gates.

    The search uses only the graph: a branch lies between a fork and a join (an
    addition or a concatenation) and is not read elsewhere; a block is a fork
    and a join with all branches between them. The side of an addition with
    fewer kernels is the shortcut.

    Args:
        model: A built functional or Sequential model.
        mismatch: As in `insert_gates`.
        position: As in `GateSpec`, for filters and layers.

    Returns:
        A `Structure`.

    Raises:
        TypeError, ValueError: As `insert_gates`.

    Example:
    >>> import keras_gates as kg
    >>> found = kg.transforms.find_structure(kg.zoo.resnet(8))
    >>> [branch.name for branch in found.branches]
    ['stage1_block1_conv1', 'stage2_block1_conv1', 'stage3_block1_conv1']
    """
    check_one_of(mismatch, MISMATCH, "mismatch")
    check_one_of(position, POSITIONS, "position")
    graph = see_through.read_to_write(model)
    finder = Finder(graph, tried_shapes(graph), mismatch)
    return Structure(
        model.name,
        find_channels(graph, position=position),
        finder.layers(position),
        finder.branches(),
        finder.blocks(),
        [*find_heads(graph), *find_stock_heads(graph)],
    )


def tried_shapes(graph: Graph, given: Any = None) -> list[Shapes]:
    """The shape of each tensor, for some sizes of the inputs.

    For unknown sizes, two values are tried; if these do not fit the model, the
    sizes stay unknown. If sizes are given, only these are used.
    """
    if given is not None:
        return [shapes_of(graph, given)]
    recorded = shapes_of(graph)
    if not any(None in tensor.shape[1:] for tensor in graph.inputs):
        return [recorded]
    try:
        return [
            shapes_of(graph, [_filled(t.shape, size) for t in graph.inputs])
            for size in _TRIED
        ]
    except ValueError:
        return [recorded]


def _filled(shape: Shape, size: int) -> tuple[int, ...]:
    return tuple(size if s is None else s for s in shape[1:])


def _path_in(call: Call) -> str:
    return f"in the loop of {call.path}"


def _path_behind(call: Call) -> str:
    """The path of the call that the gate follows, or of its layer."""
    site = behind(call)
    if site is call.site:
        return call.path
    names = [scope.site.name for scope in call.scopes]
    depth = [scope.site for scope in call.scopes].index(site)
    return "/".join(names[: depth + 1])


def _described(found: Channels | Piece | StockHeads) -> tuple[str, str]:
    """The columns of the table for one row."""
    if isinstance(found, StockHeads):
        return f"round {found.name}", found.reason
    if isinstance(found, Channels):
        ends = [place[-1] for place in found.places]
        path = _path_in if found.looped else _path_behind
        where = ", ".join(dict.fromkeys(path(call) for call in ends))
    elif found.last is None:
        joins = dict.fromkeys(call.path for call, _ in found.operands)
        where = f"before {', '.join(joins)}"
    else:
        shortcut = f", with a shortcut: {found.shortcut}"
        where = found.last.path + shortcut * (found.shortcut is not None)
    approximate = found.approximate if isinstance(found, Channels) else ""
    return where, found.reason or approximate
