"""Multiply-adds other than those of a kernel at each position.

Each function is a `Rule.counts`: `(call, weights, inputs, outputs)`, where
`weights` are `[(name, shape)]`, before a cut or after it, and the others the
shapes of all tensors, with no size open. None where it can't be told.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon.rules.rule import channel_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights

# Up to so many operands, all orders in which they can be multiplied are tried.
_FEW = 5
# The layer that runs each cell, with the same weights.
LAYER_OF_CELL: dict[type[keras.Operation], type[keras.Layer]] = {
    keras.layers.SimpleRNNCell: keras.layers.SimpleRNN,
    keras.layers.GRUCell: keras.layers.GRU,
    keras.layers.LSTMCell: keras.layers.LSTM,
}
_OF_CELLS = ("kernel", "recurrent_kernel")


def multiply_adds(
    call: Call,
    rule: Rule,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """The multiply-adds of a call by its rule, None where it has no count.

    May raise TypeError: a size that matters is None.
    """
    if rule.counts is not None:
        return rule.counts(call, weights, inputs, outputs)
    if rule.costs is None:
        # What only compares multiplies nothing.
        tests = not weights and all(t.dtype == "bool" for t in call.outputs)
        return 0 if tests else None
    total = 0
    for name, shape in weights:
        over = rule.costs.get(name)
        if over is not None:
            inside = inputs[0] if inputs else ()
            places: Sizes = (*rule.positions(call, over, inside, outputs[0]),)
            total += math.prod(shape) * math.prod(places)
    return total


def _shape(call: Call, inputs: Sequence[Sizes], value: Any) -> Sizes:
    """The shape of an argument: a tensor of the graph, or an array."""
    if isinstance(value, Tensor):
        return inputs[call.inputs.index(value)]
    return tuple(np.shape(value) if isinstance(value, list) else value.shape)


# Attention ----------------------------------------------------------------


def multi_head(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """Projections of query, key, value and result, scores and their sum."""
    query = _shape(call, inputs, call.argument("query"))
    value = call.argument("value")
    key = _shape(call, inputs, call.argument("key") or value)
    value = _shape(call, inputs, value)
    kernels = [shape for name, shape in weights if name.endswith("kernel")]
    if len(kernels) < 4:
        return None
    by_query = [kernels[0], kernels[-1], *kernels[2:-2]]
    steps: int = math.prod(query[1:-1])
    total = sum(math.prod(kernel) for kernel in by_query) * steps
    total += math.prod(kernels[1]) * math.prod(key[1:-1])
    total += math.prod(kernels[-2]) * math.prod(value[1:-1])
    # A query attends along these; the rest of the axes are a further batch.
    axes = getattr(call.op, "attention_axes", None) or range(1, len(key) - 1)
    others: int = math.prod(key[axis] for axis in axes)
    heads, depth = kernels[0][-2:]
    return total + heads * steps * others * (depth + kernels[-2][-1])


def attention(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`Attention` and `AdditiveAttention`: scores and their weighted sum.

    Scores that add queries and keys take no products of the two.
    """
    query, value, *rest = inputs[: _operands(call)]
    key = rest[0] if rest else value
    pairs: int = math.prod(query[1:-1]) * key[-2]
    mode = getattr(call.op, "score_mode", "dot")
    added = isinstance(call.op, keras.layers.AdditiveAttention)
    scored = 0 if added or mode != "dot" else query[-1]
    return pairs * int(scored + value[-1])


def _operands(call: Call) -> int:
    """How many tensors the layer attends with; masks come behind."""
    return len(keras.tree.flatten(call.argument("inputs")))


def dot_product_attention(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`ops.dot_product_attention`, heads on the axis before the last."""
    query, key, value = (
        _shape(call, inputs, call.argument(name))
        for name in ("query", "key", "value")
    )
    return int(query[1] * query[2] * key[1] * (query[3] + value[3]))


# Products of tensors ------------------------------------------------------


def product(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`matmul` and `dot`: the last axis of the first one is summed over."""
    first = _shape(call, inputs, call.argument("x1"))
    return _product(outputs[0][1:], first[-1:])


def convolution(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`ops.nn.conv`: each tap at each position of what comes out."""
    kernel = _shape(call, inputs, call.argument("kernel"))
    axis = channel_axis(call.op, len(inputs[0]))
    # After a cut the kernel reads as many channels as there are.
    read = min(kernel[-2], inputs[0][axis])
    return _product(kernel[:-2], (read,), outputs[0][1:])


def tensordot(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """The axes of the first operand that are summed over."""
    first = _shape(call, inputs, call.argument("x1"))
    axes = call.op.axes
    if isinstance(axes, int):
        summed = first[len(first) - axes :]
    else:
        summed = tuple(first[a] for a in np.atleast_1d(axes[0]))
    return _product(outputs[0][1:], summed)


def dot_layer(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """The layer `Dot`; its axes include that of the batch."""
    axes = call.op.axes
    axis = axes if isinstance(axes, int) else axes[0]
    return _product(outputs[0][1:], (inputs[0][axis],))


def _product(*shapes: Sizes) -> int:
    """The product of all sizes; a TypeError if one is unknown."""
    found: int = math.prod(size for shape in shapes for size in shape)
    return found


def einsum(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`ops.einsum` of any number of operands, of which some are arrays."""
    found = []
    for x in call.args:
        batched = isinstance(x, Tensor)
        shape = _shape(call, inputs, x)
        whole = x.shape if batched else shape
        found.append(_Operand(shape, whole, batched, exact=batched))
    return _contracted(call.op.subscripts, found)


def einsum_dense(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`EinsumDense` with any equation."""
    kernel = dict(weights)["kernel"]
    x = _Operand(inputs[0], call.inputs[0].shape, True, exact=False)
    whole = tuple(call.op.kernel.shape)
    # What it reads may have been selected from what there is.
    y = _Operand(kernel, whole, False, exact=True)
    return _contracted(call.op.equation, [x, y])


class _Operand(NamedTuple):
    """One of what an `einsum` multiplies.

    Attributes:
        shape: after a cut, or before it.
        whole: its shape before any cut.
        batched: whether its first axis is the batch's.
        exact: whether `shape` tells of a cut.
    """

    shape: Sizes
    whole: Sizes
    batched: bool
    exact: bool


def _contracted(equation: str, given: Sequence[_Operand]) -> int:
    """The products that are summed, for one sample.

    More than two operands are contracted pair by pair, in the order that
    costs least for one sample, as JAX does, and torch with opt_einsum.

    Args:
        equation: as `einsum` takes it.
        given: its operands.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        once = [x for x in sorted(left) if x.isalpha() and left.count(x) == 1]
        result = "".join(["..."] * ("..." in left) + once)
    operands = [
        _spelled(letters, len(operand.shape))
        for letters, operand in zip(left.split(","), given, strict=True)
    ]
    pairs = [*zip(operands, given, strict=True)]
    sizes = _sizes(pairs)
    wanted = {*result, *(x for x in sizes if not isinstance(x, str))}
    terms = [frozenset(letters) for letters in operands]
    total = 0
    for together in _order(f"{left}->{result}", operands, sizes):
        parts = [terms.pop(n) for n in sorted(together, reverse=True)]
        own = frozenset[str | int]().union(*parts)
        rest = own & wanted.union(*terms)
        if len(parts) > 1 and rest != own:  # else nothing is summed
            total += math.prod(sizes[letter] for letter in own)
        terms.append(rest)
    return total


def _sizes(
    operands: Sequence[tuple[list[str | int], _Operand]],
) -> dict[str | int, int]:
    """The size of each axis by its name; that of the batch is 1.

    Where operands differ, a size of 1 is spread, and a cut is told by some.
    """
    sizes: dict[str | int, int] = {
        names[0]: 1 for names, operand in operands if operand.batched
    }
    exact = [pair for pair in operands if pair[1].exact]
    rest = [pair for pair in operands if not pair[1].exact]
    spread: dict[str | int, int] = {}
    for names, operand in (*exact, *rest):
        triples = zip(names, operand.shape, operand.whole, strict=True)
        for name, size, whole in triples:
            (spread if whole == 1 else sizes).setdefault(name, size)
    return {**spread, **sizes}


def _order(
    equation: str, operands: list[list[str | int]], sizes: dict[str | int, int]
) -> list[tuple[int, ...]]:
    """Which operands are multiplied at each step, by their places then."""
    if len(operands) < 3:
        return [tuple(range(len(operands)))]
    arrays = [
        np.broadcast_to(np.float32(0), [sizes[letter] for letter in letters])
        for letters in operands
    ]
    way = "optimal" if len(operands) <= _FEW else "greedy"
    # However large what comes in between is.
    found = np.einsum_path(equation, *arrays, optimize=(way, sys.maxsize))
    _, *steps = found[0]
    return steps


def _spelled(letters: str, rank: int) -> list[str | int]:
    """A list of names of axes; those of an ellipsis are numbers from behind."""
    before, dots, behind = letters.partition("...")
    if not dots:
        return list(letters)
    count = rank - len(before) - len(behind)
    return [*before, *range(-count, 0), *behind]


# Recurrent layers --------------------------------------------------------


def cells_of(op: keras.Layer) -> list[keras.Operation]:
    """The cells of an `RNN`, one above the other."""
    stacked: list[keras.Operation] = getattr(op.cell, "cells", [op.cell])
    return stacked


def cells(
    call: Call,
    weights: Weights,
    inputs: Sequence[Sizes],
    outputs: Sequence[Sizes],
) -> int | None:
    """`RNN` with cells of Keras: each kernel once at each step."""
    if not all(type(each) in LAYER_OF_CELL for each in cells_of(call.op)):
        return None
    once = sum(math.prod(shape) for name, shape in weights if name in _OF_CELLS)
    return _product((inputs[0][1], once))
