"""Inserts gates on channels."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_gates import regularizers
from keras_gates.graphs.functional import input_layer
from keras_gates.graphs.names import Names
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.variables import copy_state
from keras_gates.layers import FilterGate
from keras_gates.layers import GatedRecurrent
from keras_gates.layers import HeadGate
from keras_gates.surgeon.passes.label import label
from keras_gates.surgeon.rules.rule import common_channel_axis
from keras_gates.surgeon.solving.bars import few
from keras_gates.transforms.finding.channels import find_channels
from keras_gates.transforms.finding.heads import find_heads
from keras_gates.transforms.gating.piece_gates import dtype_of
from keras_gates.transforms.gating.weighing import COSTS
from keras_gates.transforms.gating.weighing import Shares

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.transforms.finding.channels import Channels
    from keras_gates.transforms.finding.heads import Heads
    from keras_gates.transforms.gating.spec import GateSpec
    from keras_gates.transforms.gating.weighing import Shapes

_CLASSES: dict[str, type[FilterGate]] = {
    gate.kind: gate for gate in (FilterGate, HeadGate)
}


def chosen_channels(
    graph: Graph, spec: GateSpec, tied: str, written_out: bool
) -> tuple[list[Channels], list[Channels], Labelling]:
    """The channels that get filter gates.

    Args:
        graph: the `Graph` of a model.
        spec: the `GateSpec` of the filters.
        tied: as in `insert_gates`.
        written_out: likewise.

    Returns:
        `(all that was found, what is to be gated, labelling)`.
    """
    labelling = label(graph)
    found = find_channels(graph, labelling, spec.position)
    if tied == "skip":
        for channels in found:
            if channels.tied and not channels.reason:
                channels.reason = "its channels are tied to those of others"
    for channels in found:
        if channels.approximate and spec.include is None:
            channels.reason = channels.reason or channels.approximate
        if not written_out:
            channels.reason = channels.reason or channels.inside
    chosen = [c for c in found if not c.reason and spec.wants(c.calls)]
    return found, chosen, labelling


def chosen_heads(
    graph: Graph, spec: GateSpec, written_out: bool
) -> tuple[list[Heads], list[Heads], Labelling]:
    """The heads that get gates, as in `chosen_channels`."""
    labelling = label(graph)
    found = find_heads(graph, labelling)
    for heads in found:
        if heads.approximate and spec.include is None:
            heads.reason = heads.reason or heads.approximate
        if not written_out:
            heads.reason = heads.reason or heads.inside
    chosen = [h for h in found if not h.reason and spec.wants(h.calls)]
    return found, chosen, labelling


def insert_heads(
    graph: Graph, spec: GateSpec, written_out: bool, shapes: Shapes
) -> keras.Model:
    """A new model with gates on attention heads.

    Args:
        graph: the `Graph` of a model.
        spec: the `GateSpec`.
        written_out: as in `insert_gates`.
        shapes: `{Tensor: shape}`; used only for `spec.weigh`.
    """
    _, chosen, labelling = chosen_heads(graph, spec, written_out)
    names = Names.from_graph(graph)
    return _inserted(
        graph, _places(graph, chosen, labelling, spec, shapes, names), {}
    )


def insert_filters(
    graph: Graph,
    spec: GateSpec,
    tied: str,
    written_out: bool,
    shapes: Shapes,
) -> keras.Model:
    """A new model with gates on its channels.

    Args:
        graph: the `Graph` of a model.
        spec: the `GateSpec`.
        tied: as in `insert_gates`.
        written_out: likewise.
        shapes: `{Tensor: shape}`; used only for `spec.weigh`.
    """
    found, chosen, labelling = chosen_channels(graph, spec, tied, written_out)
    if not chosen and not spec.inputs:
        _warn_of_none(found)
    names = Names.from_graph(graph)
    places = _places(graph, chosen, labelling, spec, shapes, names)
    inputs = _input_gates(graph, spec, names, places)
    return _inserted(graph, places, inputs)


def _places(
    graph: Graph,
    chosen: Sequence[Channels],
    labelling: Labelling,
    spec: GateSpec,
    shapes: Shapes,
    names: Names,
) -> dict[Site, FilterGate | Round]:
    """The sites that gates follow or wrap."""
    places: dict[Site, FilterGate | Round] = {}
    cost = None
    if spec.weigh in COSTS:
        shares = Shares(graph.calls, shapes, spec.weigh)
        cost = shares.of_classes(labelling)
        shares.warn_of([(c.gate_name, cost[c.classes]) for c in chosen])
    for channels in chosen:
        gate = _gate(channels, spec, cost, names)
        places |= dict.fromkeys(channels.sites, gate)
    return places


def _inserted(
    graph: Graph,
    places: dict[Site, FilterGate | Round],
    inputs: dict[int, FilterGate],
) -> keras.Model:
    """A new model with gates at some sites, and on some inputs."""

    def edit(recall: Recall) -> keras.KerasTensor | None:
        gate = places.get(recall.site)
        if gate is None:
            return None
        if isinstance(gate, Round):
            return gate(recall)
        # Recurrent layers may return their states after the data.
        outputs = recall()
        flat = keras.tree.flatten(outputs)
        flat[0] = gate(flat[0])
        return keras.tree.pack_sequence_as(outputs, flat)

    def edit_input(
        new: keras.KerasTensor, old: keras.KerasTensor
    ) -> keras.KerasTensor:
        gate = inputs.get(id(old))
        return new if gate is None else gate(new)

    return rewrite(graph, edit, edit_input)


@dataclasses.dataclass(eq=False)
class Round:
    """A `GatedRecurrent` that wraps a layer in all of its calls.

    Attributes:
        arguments: those of the gate.
        made: the gate, once created.
    """

    arguments: dict[str, Any]
    made: GatedRecurrent | None = None

    def __call__(self, recall: Recall) -> Any:
        first = self.made is None
        if self.made is None:
            self.made = GatedRecurrent(recall.copy(), **self.arguments)
        outputs = self.made(*recall.args, **recall.kwargs)
        if first:
            copy_state(recall.op, self.made.layer)
        return outputs


def _warn_of_none(found: list[Channels]) -> None:
    """Added shortcuts tie channels, and those of an input can't be removed."""
    why = few([f"'{x.name}': {x.reason}" for x in found if x.reason], "; ")
    warnings.warn(
        "No filter gates were put in: with the shortcuts that the other gates "
        f"need, they would remove nothing. {why}.",
        stacklevel=4,
    )


def _gate(
    channels: Channels,
    spec: GateSpec,
    cost: NDArray[np.float64] | None,
    names: Names,
) -> FilterGate | Round:
    """One gate for all places of some channels."""

    def penalty(strength: float) -> keras.regularizers.Regularizer:
        if spec.weigh is None:
            return regularizers.L1(strength)
        if cost is None:
            return regularizers.MeanL1(strength)
        own = cost[channels.classes].tolist()
        return regularizers.CostL1(strength, own)

    arguments = {
        "name": names.free(channels.gate_name),
        "dtype": dtype_of(channels.calls),
        **spec.arguments(penalty),
    }
    if channels.looped:
        return Round({**arguments, "gate_states": bool(channels.states)})
    return _CLASSES[channels.kind](axis=channels.axis, **arguments)


def _input_gates(
    graph: Graph,
    spec: GateSpec,
    names: Names,
    places: dict[Site, FilterGate | Round],
) -> dict[int, FilterGate]:
    """`{id of an input: its gate}`, if inputs get gates.

    Where an input is flattened first, its gate is after that, in `places`.
    """
    found: dict[int, FilterGate] = {}
    if not spec.inputs:
        return found
    of_inputs = regularizers.L1 if spec.weigh is None else regularizers.MeanL1
    for kt, tensor in zip(graph.functional.inputs, graph.inputs, strict=True):
        if not keras.backend.is_float_dtype(tensor.dtype):
            continue
        arguments = spec.arguments(of_inputs)
        name = names.free(f"{input_layer(kt).name}_filter_gate")
        readers = tensor.consumers
        flat = len(readers) == 1 and isinstance(readers[0].op, layers.Flatten)
        axis = common_channel_axis(readers, len(tensor.shape))
        axis = axis if axis == 1 and len(tensor.shape) > 2 else -1
        gate = FilterGate(axis=-1 if flat else axis, name=name, **arguments)
        if flat:
            places[readers[0].site] = gate
        else:
            found[id(kt)] = gate
    return found
