"""Finds and removes shortcuts that were added for gates.

`h = gate(f) + shortcut`, or `h = gate(f - shortcut) + shortcut`. The gate says
of itself that its shortcut was added, in its config, so that this survives
saving and cloning; where the shortcut is, the recorded calls say. Names say
it of models that were made before gates did.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
from keras import layers

from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers import FilterGate
from keras_gates.layers import Gate
from keras_gates.surgeon.gates import see_through

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.rewrite import Recall

# A layer that is added for the gate "g" is called "g" and one of these.
ADD = "_shortcut_add"
SUBTRACT = "_shortcut_subtract"

# What a shortcut may lead through. Filters of its projection may have gates.
_ON_THE_WAY = (
    *(layers.AveragePooling1D, layers.AveragePooling2D),
    *(layers.AveragePooling3D, layers.Dense, FilterGate),
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
)


class AddedShortcut(NamedTuple):
    """The calls round a gate whose shortcut was added.

    Attributes:
        add: the `Add` in which the shortcut ends.
        gate: the gate, whose output is the last operand.
        subtract: what takes the shortcut off before the gate, or None.
    """

    add: Call
    gate: Call
    subtract: Call | None


def added(graph: Graph) -> list[AddedShortcut]:
    """The added shortcuts of a graph, in its order.

    Of a nested model that is called more than once, those of the first call.
    """
    found: dict[Site, AddedShortcut] = {}
    for call in graph.calls:
        shortcut = _ending_in(call)
        if shortcut is not None:
            found.setdefault(call.site, shortcut)
    return list(found.values())


def added_calls(graph: Graph) -> set[Call]:
    """All calls that were added with a shortcut, the gate aside."""
    found: set[Call] = set()
    for call in graph.calls:
        shortcut = _ending_in(call)
        if shortcut is not None:
            ends = [c for c in (shortcut.add, shortcut.subtract) if c]
            found.update(ends, _way(shortcut.add.inputs[0], ends))
    return found


def _ending_in(call: Call) -> AddedShortcut | None:
    """The added shortcut that ends in a call, or None."""
    if not isinstance(call.op, layers.Add) or len(call.inputs) != 2:
        return None
    shortcut, gated = call.inputs
    gate = gated.producer
    if gate is None or not isinstance(gate.op, Gate):
        return None
    # Gates of older models do not say it.
    if not gate.op.added_shortcut and call.op.name != gate.op.name + ADD:
        return None
    before = gate.inputs[0].producer
    taken_off = (
        before is not None
        and isinstance(before.op, layers.Subtract)
        and before.inputs[1] is shortcut
    )
    return AddedShortcut(call, gate, before if taken_off else None)


def _way(tensor: Tensor, readers: list[Call]) -> list[Call]:
    """The pooling and projection that lead to the end of a shortcut.

    That is what nobody else reads: where the shortcut starts, the gated layer
    reads as well.
    """
    found: list[Call] = []
    call = tensor.producer
    while call is not None and len(call.inputs) == 1:
        fits = isinstance(call.op, _ON_THE_WAY)
        if not fits or not set(tensor.consumers) <= set(readers):
            break
        found.append(call)
        tensor, readers = call.inputs[0], [call]
        call = tensor.producer
    return found


def open_gates(model: keras.Model, closed: Collection[str]) -> list[str]:
    """The paths of the gates that stay open and have an added shortcut."""
    return [
        shortcut.gate.path
        for shortcut in added(see_through.read(model))
        if shortcut.gate.path not in closed
    ]


def without_open(model: keras.Model, closed: Collection[str]) -> keras.Model:
    """A new model without the added shortcuts of all but `closed` gates.

    Args:
        model: a functional model with gates.
        closed: the paths of the closed gates.
    """
    graph = see_through.read_to_write(model)
    # Recorded call -> the symbolic tensor that it passes on.
    handed_on: dict[Site, keras.KerasTensor] = {}
    bare: set[Site] = set()
    for add, gate, subtract in added(graph):
        if gate.path in closed:
            continue
        bare.add(gate.site)
        handed_on[add.site] = add.site.node.input_tensors[1]
        if subtract is not None:
            kept = subtract.site.node.input_tensors[0]
            handed_on[subtract.site] = kept

    def edit(recall: Recall) -> Any:
        if recall.site in bare:
            recall.copy().added_shortcut = False
        kept = handed_on.get(recall.site)
        return None if kept is None else recall.tensor(kept)

    return rewrite(graph, edit)
