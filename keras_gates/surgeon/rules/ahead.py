"""The axis of a tensor that its readers use as channels.

Of a tensor whose channels are along several axes one can be cut. Heads are one
thing, and what they hold another: a product of tensors tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.registry import rule_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.rules.moves import Numbers
    from keras_gates.surgeon.rules.rule import Rule

    # For each axis, the numbers of its positions in a tensor.
    Places = dict[int, Numbers]


def axis_ahead(tensor: Tensor, sizes: Mapping[int, int]) -> int | None:
    """Which of some axes the first that reads a tensor takes for channels.

    A kernel reads one axis, and a gate closes one. Of a product of tensors it
    is the axis that both and the outcome have, as of heads, unless a gate on
    the outcome, or on what it is multiplied with, is for another; else the one
    of these that it has.

    Args:
        tensor: the tensor.
        sizes: of each axis in question its size.

    Returns:
        The axis, or None: nothing of the kind is in sight, or it reads
        several at once.
    """
    return ahead(tensor, sizes).axis


class Ahead(NamedTuple):
    """What is in sight of a tensor.

    Attributes:
        axis: as `axis_ahead` says.
        positions: the axes that are compared first, as by a softmax over
            keys: they hold no channels.
    """

    axis: int | None
    positions: frozenset[int]


def ahead(tensor: Tensor, sizes: Mapping[int, int]) -> Ahead:
    """The same, and which axes are out of the question.

    Args:
        tensor: as in `axis_ahead`.
        sizes: as in `axis_ahead`.
    """
    rank = len(tensor.shape)
    positions: set[int] = set()
    places = {
        axis: lb.vector(np.arange(size), rank, axis)
        for axis, size in sizes.items()
    }
    todo, seen = [(tensor, places)], set()
    while todo:
        tensor, places = todo.pop(0)
        for call in tensor.consumers:
            if call in seen:
                continue
            seen.add(call)
            rule = rule_of(call)
            read = _read(call, rule, tensor, weights=bool(positions))
            if read is not None:
                axis = _sole(places, read, within=rule.multiplies)
                return Ahead(axis, frozenset(positions))
            compared = _compared(call, rule, tensor, places)
            positions |= compared
            left = {a: x for a, x in places.items() if a not in compared}
            todo += _behind(call, rule, tensor, left)
    return Ahead(None, frozenset(positions))


def _compared(
    call: Call, rule: Rule, tensor: Tensor, places: Places
) -> set[int]:
    """The axes whose positions a call compares with each other."""
    if call.inputs[0] is not tensor:
        return set()
    axes = set(rule.compared_axes(call))
    return {a for a, x in places.items() if axes & set(lb.varying(x))}


def _read(
    call: Call, rule: Rule, tensor: Tensor, weights: bool
) -> list[int] | None:
    """The axes of a tensor that a call takes for channels, None for any.

    The first of them that holds what is asked for is meant.

    Args:
        call: the call.
        rule: its rule.
        tensor: one of its inputs.
        weights: whether it holds weights of attention, of a query for each
            key: neither of these are channels.
    """
    rank = len(tensor.shape)
    if rule.linear and call.inputs[0] is tensor:
        return rule.axes_read(call)
    if rule.is_gate and rule.along_axis(call):
        return [rule.axis(call) % rank]
    if rule.multiplies:
        index = call.inputs.index(tensor)
        first = [
            *_gated(call, rule, index),
            *_met_gated(call, rule, index),
            *rule.shared_axes(call, index),
        ]
        if weights:
            return first
        after = rule.carried_axes(call, index)
        # What is summed over before what the outcome has.
        rest = sorted(range(1, rank), key=after.__contains__)
        return [*first, *(a for a in rest if a not in first)]
    return None


def _gated(call: Call, rule: Rule, index: int) -> list[int]:
    """The axes of an input of a product that a gate after it closes."""
    after = rule.carried_axes(call, index)
    output = call.outputs[0]
    gates = {
        rule_of(reader).axis(reader) % len(output.shape)
        for reader in output.consumers
        if rule_of(reader).is_gate and rule_of(reader).along_axis(reader)
    }
    return [axis for axis, own in after.items() if own in gates]


def _met_gated(call: Call, rule: Rule, index: int) -> list[int]:
    """The axes of an input of a product that a gate on another one closes.

    A gate on the queries is for the keys as well.
    """
    found: list[int] = []
    for other, tensor in enumerate(call.inputs):
        if other == index or tensor is call.inputs[index]:
            continue
        gated = [
            a for array in _gates_before(tensor) for a in lb.varying(array)
        ]
        met = rule.met_axes(call, index, other)
        found += [own for own, theirs in met.items() if theirs in gated]
    return found


def _gates_before(tensor: Tensor) -> list[Numbers]:
    """What gates before a tensor close, where that is in the tensor.

    Up to what makes its channels, or ties them to others.
    """
    call = tensor.producer
    if call is None or len(call.inputs) != 1:
        return []
    rule, (source,) = rule_of(call), call.inputs
    if rule.linear or rule.multiplies:
        return []
    before = _gates_before(source)
    moved = [
        places[0]
        for array in before
        for output, places in _behind(call, rule, source, {0: array})
        if output is tensor
    ]
    rank = len(tensor.shape)
    if rule.is_gate and rule.along_axis(call):
        axis = rule.axis(call) % rank
        size = tensor.shape[axis]
        if size:
            moved.append(lb.vector(np.arange(size), rank, axis))
    return moved


def _sole(places: Places, read: list[int], within: bool) -> int | None:
    """The axis whose positions are along the first of some axes there.

    Args:
        places: where the positions of each axis are.
        read: the axes there.
        within: whether they may be along others as well, as query heads are
            that are apart by the head of keys that they share.
    """
    for axis in read:
        found = [
            before
            for before, array in places.items()
            if axis % array.ndim in (along := lb.varying(array))
            and (within or len(along) == 1)
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _behind(
    call: Call, rule: Rule, tensor: Tensor, places: Places
) -> list[tuple[Tensor, Places]]:
    """`(output, places)` of a call that moves them, or treats each alone."""
    if rule.moves:
        outputs: list[Places] = [{} for _ in call.outputs]
        for axis, array in places.items():
            try:
                moved = _moved(call, rule, tensor, array)
            except Exception:  # what can't be followed is not in sight
                continue
            for output, numbers in zip(outputs, moved, strict=True):
                output[axis] = numbers
        pairs = zip(call.outputs, outputs, strict=True)
        return [(output, places) for output, places in pairs if places]
    lost = rule.axes_lost(call)
    if lost and call.inputs[0] is tensor:
        return [(t, _without(places, lost)) for t in call.outputs]
    alike = [t for t in call.outputs if places and _same(t, tensor, places)]
    return [(t, places) for t in alike]


def _without(places: Places, lost: list[int]) -> Places:
    """Places in a tensor without some axes."""
    found = {}
    for axis, array in places.items():
        array = lb.collapse(array)
        if all(array.shape[gone] == 1 for gone in lost):
            found[axis] = array.squeeze(tuple(lost))
    return found


def _moved(
    call: Call, rule: Rule, tensor: Tensor, array: Numbers
) -> list[Numbers]:
    """Where the positions along an axis are after a move."""
    given = []
    for each in call.inputs:
        own = array if each is tensor else np.zeros((1,) * len(each.shape), int)
        given.append(lb.spread(own, each.shape, rule.looks_along(call)))
    return rule.moved(call, given)


def _same(output: Tensor, tensor: Tensor, places: Places) -> bool:
    """Whether an output is like a tensor where the positions are."""
    if len(output.shape) != len(tensor.shape):
        return False
    axes = {axis for array in places.values() for axis in lb.varying(array)}
    return all(output.shape[axis] == tensor.shape[axis] for axis in axes)
