"""Inserts gates at five granularities."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates import regularizers
from keras_gates.graphs.inlined import inlined
from keras_gates.graphs.names import Names
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import LayerGate
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving.bars import Cause
from keras_gates.transforms.finding.channels import keeps_class
from keras_gates.transforms.finding.named import named_piece
from keras_gates.transforms.finding.pieces import MISMATCH
from keras_gates.transforms.finding.pieces import SKIPPED
from keras_gates.transforms.finding.pieces import Finder
from keras_gates.transforms.finding.structure import tried_shapes
from keras_gates.transforms.gating.attention_heads import find_stock_heads
from keras_gates.transforms.gating.attention_heads import insert_stock_heads
from keras_gates.transforms.gating.filter_gates import chosen_channels
from keras_gates.transforms.gating.filter_gates import chosen_heads
from keras_gates.transforms.gating.filter_gates import insert_filters
from keras_gates.transforms.gating.filter_gates import insert_heads
from keras_gates.transforms.gating.piece_gates import insert_pieces
from keras_gates.transforms.gating.piece_gates import make_gate
from keras_gates.transforms.gating.spec import check_one_of
from keras_gates.transforms.gating.spec import parse
from keras_gates.transforms.gating.weighing import COSTS
from keras_gates.transforms.gating.weighing import Shares

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.layers import Gate
    from keras_gates.transforms.finding.channels import Channels
    from keras_gates.transforms.finding.pieces import Piece
    from keras_gates.transforms.gating.attention_heads import StockHeads
    from keras_gates.transforms.gating.spec import GateSpec
    from keras_gates.transforms.gating.weighing import Shapes

STARTS = ("same", "residual")
TIED = ("share", "skip")
# From the inside out: a branch may have one layer, a block one branch.
_PIECES = {"layers": LayerGate, "branches": BranchGate, "blocks": BlockGate}


def insert_gates(
    model: keras.Model,
    filters: Any = None,
    layers: Any = None,
    branches: Any = None,
    blocks: Any = None,
    *,
    heads: Any = None,
    mismatch: str = "project",
    start: str = "same",
    tied: str = "share",
    sizes: Any = None,
    written_out: bool = True,
) -> keras.Model:
    """Insert gates into a model, at any of five granularities.

    | argument | what gets a gate | equation |
    | --- | --- | --- |
    | `filters` | each channel of a layer | `h = gate(f(h_in))` |
    | `layers` | each layer, by a shortcut | 4: `h = gate(f(h_in)) + h_in` |
    | `branches` | each branch, before its join | 8 |
    | `blocks` | all branches between a fork and a join | 12 |
    | `heads` | each head of an attention | |

    A layer here is a layer with a kernel, together with the normalization and
    the activation after it. Gates on filters and layers go after these. A
    recurrent layer is wrapped in a `GatedRecurrent`, whose gate on the units is
    inside the loop.

    The weights and the function of the model are kept. Gates start at one, and
    a shortcut that has to be added around a layer or a block has no effect
    until its gate begins to close. With `start="residual"`, the shortcut is
    added as in the paper. This **changes the function**, and is meant for
    training from scratch. `print(find_structure(model))` shows beforehand what
    gets gates, and what does not and why.

    If the model writes its attention out, a `HeadGate` goes after the weighted
    sum of the values. An attention layer of Keras whose heads get gates is
    replaced by a `GatedAttention` of the same name. `filters` puts no gate on
    heads.

    Channels that an addition ties together (as in a residual stream) share one
    gate, so that closed ones can be removed. Keras can't load a model that
    shares a layer with a model inside it. A nested model or a written-out layer
    that shares a gate with others therefore becomes part of the model around
    it, and the names of its layers start with its own.

    Reference:

    - [Haider and Taj, 2020, Comprehensive Online Network Pruning via Learnable
      Scaling Factors](https://arxiv.org/abs/2010.02623), section 3

    Args:
        model: A built functional or Sequential model. It is not changed.
        filters: `None` for no such gates; a number, the strength of
            `regularizers.L1` on each gate; a regularizer, as in Keras layers;
            `True` for gates without a penalty; a `GateSpec` or a dict of its
            arguments; or a list of what to gate without a penalty: layer names
            (`*` stands for anything), layers and layer classes.
        layers: As `filters`.
        branches: As `filters`. A list of pairs, `[("first_layer", "join")]`,
            names the branches.
        blocks: As `branches`. The name of a custom layer twice, `[("block_1",
            "block_1")]`, stands for the whole layer.
        heads: As `filters`, for `MultiHeadAttention`, `GroupQueryAttention`,
            and attention that is written out.
        mismatch: What to do if the shapes at a shortcut differ. `"project"`: a
            1x1 convolution for another number of channels, an average pooling
            for another size, both for both. `"skip"`: no gate, as in the
            paper's experiments.
        start: `"same"`: an added shortcut is `h = gate(f - shortcut) +
            shortcut`, which is `f`, as in the original model, if the gate is
            one, and the shortcut if the gate is zero. `"residual"`, as in the
            paper: `h = gate(f) + shortcut`, for training from scratch.
        tied: `"share"`: tied channels share one gate. `"skip"`: they get none.
        sizes: Values for unknown sizes of the model's inputs, to shape
            shortcuts and to count multiply-adds, without the batch axis: a
            tuple, or for several inputs a list of tuples or a dict of them by
            name. Defaults to `None`: 96 for each; 160 must work as well.
        written_out: Whether gates are inserted inside custom layers, which are
            then written out: each becomes a functional model of its parts, with
            the same name, unless it shares a gate with others. With `False`,
            such layers keep their class, and gates are placed only around them:
            `blocks` finds those whose output has the shape of the input.

    Returns:
        A new model, not compiled.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If no kind is requested, nothing of a kind is found, a
            pattern or a name fits nothing, a named piece has more than one
            entry or exit, or no shortcut fits it.

    Example:
    >>> import keras_gates as kg
    >>> model = kg.zoo.resnet(8)
    >>> gated = kg.insert_gates(model, filters=1e-4, branches=1e-3)
    >>> gates = [x.name for x in gated.layers if hasattr(x, "kind")]
    >>> gates[:2]
    ['conv1_filter_gate', 'stage1_block1_conv1_filter_gate']
    """
    given = {
        "filters": filters,
        "layers": layers,
        "branches": branches,
        "blocks": blocks,
        "heads": heads,
    }
    specs = {
        kind: spec
        for kind, value in given.items()
        if (spec := parse(value, kind)) is not None
    }
    _check(specs, mismatch=mismatch, start=start, tied=tied)
    check_one_of(written_out, (True, False), "written_out")
    graph = see_through.read_to_write(model)
    before = Names.from_graph(graph)
    specs = {kind: spec.named(graph) for kind, spec in specs.items()}
    shapes = tried_shapes(graph, sizes)
    finder = Finder(graph, shapes, mismatch)
    chosen = _chosen(graph, finder, specs, tied, written_out)
    if chosen:
        names = Names.from_graph(graph)
        jobs = [
            (piece, gate)
            for kind, found in chosen.items()
            for piece, gate in _gates(
                kind, found, specs[kind], names, graph, shapes[0]
            )
        ]
        graph = see_through.read(insert_pieces(graph, jobs, start), graph)
        shapes = tried_shapes(graph, sizes)
    if "heads" in specs:
        gated = insert_heads(graph, specs["heads"], written_out, shapes[0])
        graph = see_through.read(gated, graph)
        shapes = tried_shapes(graph, sizes)
    if "filters" in specs:
        gated = insert_filters(
            graph, specs["filters"], tied, written_out, shapes[0]
        )
        graph = see_through.read(gated, graph)
        shapes = tried_shapes(graph, sizes)
    if "heads" in specs:
        _, stock = _stock_heads(graph, specs["heads"], written_out)
        gated = insert_stock_heads(graph, stock, specs["heads"], shapes[0])
        return inlined(gated, before)
    return inlined(graph.model, before)


def _check(specs: dict[str, GateSpec], **options: str) -> None:
    if not specs:
        raise ValueError(
            "insert_gates has nothing to do. Received: None for all of "
            "filters, layers, branches, blocks and heads. Pass a strength, "
            "such as filters=1e-4, or True, for one of them at least."
        )
    known = {"mismatch": MISMATCH, "start": STARTS, "tied": TIED}
    for argument, value in options.items():
        check_one_of(value, known[argument], argument)


def _chosen(
    graph: Graph,
    finder: Finder,
    specs: dict[str, GateSpec],
    tied: str,
    written_out: bool,
) -> dict[str, list[Piece]]:
    """The pieces to gate, by kind; all checks are made here."""
    chosen: dict[str, list[Piece]] = {}
    for kind in _PIECES:
        if kind in specs:
            chosen[kind] = _pieces(finder, kind, specs[kind], written_out)
    if "heads" in specs:
        spec = specs["heads"]
        every, some, _ = chosen_heads(graph, spec, written_out)
        stock, some_stock = _stock_heads(graph, spec, written_out)
        _check_found("heads", spec, [*every, *stock], [*some, *some_stock])
    if "filters" in specs:
        found, wanted, _ = chosen_channels(
            graph, specs["filters"], tied, written_out
        )
        barred = [] if wanted else _barred(graph, found)
        _check_found("filters", specs["filters"], found, wanted, barred)
    return chosen


def _stock_heads(
    graph: Graph, spec: GateSpec, written_out: bool
) -> tuple[list[StockHeads], list[StockHeads]]:
    """The attention layers of Keras, and those whose heads get gates."""
    found = find_stock_heads(graph, written_out)
    return found, [x for x in found if not x.reason and spec.wants(x.calls)]


def _pieces(
    finder: Finder, kind: str, spec: GateSpec, written_out: bool
) -> list[Piece]:
    """The pieces of one kind that get gates."""
    if spec.pieces is not None:
        one = {"branches": "branch", "blocks": "block"}[kind]
        _check_once(kind, spec.pieces)
        named = [named_piece(finder, one, pair) for pair in spec.pieces]
        for piece in named if not written_out else ():
            if inside := _inside(piece):
                raise ValueError(
                    f"`{kind}` names a piece that ends at '{piece.end.path}', "
                    f"but {inside}. Pass written_out=True, or leave it out."
                )
        return named
    find = {
        "layers": lambda: finder.layers(spec.position),
        "branches": finder.branches,
        "blocks": finder.blocks,
    }
    found = find[kind]()
    if kind == "blocks" and not written_out:
        found += finder.whole()
    for piece in found if not written_out else ():
        piece.reason = piece.reason or _inside(piece)
    wanted = [p for p in found if not p.reason and spec.wants(p.calls)]
    _check_found(kind, spec, found, wanted)
    return wanted


def _inside(piece: Piece) -> str:
    """Why a piece gets no gate if layers must keep their class, or ""."""
    if piece.whole is not None:
        return ""
    return keeps_class([piece.end], in_front=bool(piece.operands))


def _check_once(kind: str, pairs: Sequence[Any]) -> None:
    twice = [pair for n, pair in enumerate(pairs) if pair in pairs[:n]]
    if twice:
        raise ValueError(
            f"`{kind}` names {twice[0]!r} twice, but a piece has only one "
            "gate of a kind. Name it once."
        )


def _barred(graph: Graph, found: Sequence[Channels]) -> list[str]:
    """The layers that keep channels whole and are not named in `found`."""
    told = " ".join(f"'{x.name}' {x.reason}" for x in found)
    bars = removable.barriers(see_through.read(graph.model, graph))
    certain = [b for b in bars if b.cause in (Cause.PINNED, Cause.UNKNOWN)]
    return [str(b) for b in certain if f"'{b.layer}'" not in told]


def _check_found(
    kind: str,
    spec: GateSpec,
    found: Sequence[Channels | Piece | StockHeads],
    wanted: Sequence[Channels | Piece | StockHeads],
    barred: Sequence[str] = (),
) -> None:
    spec.check_used(kind, found)
    if wanted or spec.inputs:
        return
    reasons = [f"'{x.name}': {x.reason}" for x in found if x.reason]
    reasons = [*barred, *reasons]
    why = "; ".join(reasons[:5]) or "there are none"
    shaped = any(SKIPPED in reason for reason in reasons)
    remedy = 'Pass mismatch="project", l' if shaped else "L"
    raise ValueError(
        f"No {kind} of this model can get gates: {why}. {remedy}eave "
        f"`{kind}` out, or see "
        "print(keras_gates.transforms.find_structure(model))."
    )


def _gates(
    kind: str,
    found: list[Piece],
    spec: GateSpec,
    names: Names,
    graph: Graph,
    shapes: Shapes,
) -> Iterator[tuple[Piece, Gate]]:
    """Each piece with its gate."""
    weights = [1.0 if spec.weigh is None else 1 / len(found)] * len(found)
    if spec.weigh in COSTS:
        shares = Shares(graph.calls, shapes, spec.weigh)
        weights = [shares.share_of(piece.calls) for piece in found]
        named = [piece.name for piece in found]
        shares.warn_of(zip(named, weights, strict=True))
    for piece, weight in zip(found, weights, strict=True):
        arguments = spec.arguments(functools.partial(_weighed, weight))
        yield piece, make_gate(piece, _PIECES[kind], names, arguments)


def _weighed(weight: float, strength: float) -> regularizers.L1:
    return regularizers.L1(weight * strength)
