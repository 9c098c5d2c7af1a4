"""The places of gates on heads of attention that is written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_gates.layers import HeadGate
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules import rule_of
from keras_gates.transforms.finding.channels import Channels
from keras_gates.transforms.finding.channels import along_one_axis
from keras_gates.transforms.finding.channels import bar_apart
from keras_gates.transforms.finding.channels import mark_futile
from keras_gates.transforms.finding.channels import pinned_classes
from keras_gates.transforms.finding.channels import shared

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling


@dataclasses.dataclass(eq=False)
class Heads(Channels):
    """Heads that stay or go together, for one gate.

    A place is the call that first produces them, and the call that the gate
    follows: the weighted sum of the values or, if several query heads share a
    head of values, the call that produces these.
    """

    kind = "head"


def find_heads(graph: Graph, labelling: Labelling | None = None) -> list[Heads]:
    """The `Heads` of a graph, in order.

    Args:
        graph: the `Graph` of a model.
        labelling: its `Labelling`, if available.
    """
    labelling = labelling or label(graph)
    pinned = pinned_classes(labelling)
    makers = _makers(labelling)
    found: list[Channels] = []
    for step in labelling.steps:
        if not step.rule.multiplies or _meets_product(step.outputs[0]):
            continue
        if step.rule.head_axis(step.call, step.flow) is not None:
            found.append(_heads(labelling, step.call, pinned, makers))
        elif why := _why_none(labelling, step.call):
            found.append(Heads([[step.call]], reason=why))
    heads = [one for one in shared(found) if isinstance(one, Heads)]
    bar_apart(graph, heads)
    mark_futile(graph, [one for one in heads if not one.reason])
    return heads


def _heads(
    labelling: Labelling,
    call: Call,
    pinned: dict[int, str],
    makers: dict[int, Call],
) -> Heads:
    """The heads in the output of a product of tensors."""
    place = _with_each_once(labelling, call)
    if place is None:
        return Heads([[call]], reason="no tensor has each of its heads once")
    tensor = place.outputs[0]
    axis, classes = along_one_axis(labelling, tensor) or (-1, np.zeros(0, int))
    maker = makers.get(int(classes[0]), place)
    one = Heads([[maker, place]], axis, classes)
    reasons = [pinned.get(int(c)) for c in classes]
    if None not in reasons:
        one.reason = reasons[0] or ""
    elif any(isinstance(c.op, HeadGate) for c in tensor.consumers):
        one.reason = "it has a gate already"
    return one


def _why_none(labelling: Labelling, call: Call) -> str:
    """Why possible heads must stay; "" for other products."""
    rule = rule_of(call)
    axes = rule.shared_axes(call, 0)
    if not any(axis and call.inputs[0].shape[axis] != 1 for axis in axes):
        return ""
    return next((p.reason for p in labelling.pinned if p.call is call), "")


def _makers(labelling: Labelling) -> dict[int, Call]:
    """Class -> the first call of a layer that produces its units."""
    found: dict[int, Call] = {}
    for step in labelling.steps:
        ids = step.flow.roles.get("out")
        if ids is not None:
            for one in np.unique(labelling.classes[ids]).tolist():
                found.setdefault(one, step.call)
    return found


def _meets_product(tensor: Tensor) -> bool:
    """Whether another product of tensors reads it before a kernel does.

    As for the scores of attention.
    """
    todo, seen = [tensor], set()
    while todo:
        for call in todo.pop().consumers:
            if call in seen:
                continue
            seen.add(call)
            rule = rule_of(call)
            if rule.multiplies:
                return True
            if not rule.linear and not rule.keeps_whole:
                todo += call.outputs
    return False


def _with_each_once(labelling: Labelling, call: Call) -> Call | None:
    """A call that returns each head once: this one, or one before it.

    A head of values is repeated for the query heads that share it.
    """
    for one in _backwards(call):
        along = along_one_axis(labelling, one.outputs[0])
        if along is not None and len(np.unique(along[1])) == len(along[1]):
            return one
    return None


def _backwards(call: Call) -> Iterator[Call]:
    """A product of tensors, and the moves that produce its values."""
    yield call
    rule = rule_of(call)
    for index, tensor in enumerate(call.inputs):
        if rule.carries(call, index) is None:
            continue
        maker, moves = tensor.producer, []
        while (
            maker is not None
            and rule_of(maker).moves
            and len(maker.inputs) == 1
        ):
            moves.append(maker)
            maker = maker.inputs[0].producer
        # Weights come from a softmax, and are not values.
        if maker is not None and rule_of(maker).linear:
            yield from [*moves, maker]
