"""Inserts gates on heads of stock attention layers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates import regularizers
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers import GatedAttention
from keras_gates.layers.around_attention import ATTENTION
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.passes.label import label
from keras_gates.transforms.finding.channels import keeps_class
from keras_gates.transforms.gating.weighing import COSTS
from keras_gates.transforms.gating.weighing import Shares

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.transforms.gating.spec import GateSpec
    from keras_gates.transforms.gating.weighing import Shapes


@dataclasses.dataclass
class StockHeads:
    """The heads of a stock attention layer.

    Attributes:
        name: the path of the layer.
        calls: its calls.
        reason: why its heads get no gate; "" if they do.
    """

    name: str
    calls: list[Call]
    reason: str = ""

    @property
    def op(self) -> keras.Layer:
        return self.calls[0].op


def find_stock_heads(
    graph: Graph, written_out: bool = True
) -> list[StockHeads]:
    """The attention layers of a model whose heads can get gates.

    Args:
        graph: the `Graph` of a model.
        written_out: as in `insert_gates`.
    """
    found: IdentityDict[keras.Operation, StockHeads] = IdentityDict()
    for call in graph.calls:
        if type(call.op) in ATTENTION:
            one = found.setdefault(call.op, StockHeads(call.path, []))
            one.calls.append(call)
    kept = groups.find(graph).kept if len(found) else {}
    for heads in found.values():
        heads.reason = kept.get(f"{heads.name}/heads", "")
        if not written_out:
            heads.reason = heads.reason or keeps_class(heads.calls)
    return [*found.values()]


def insert_stock_heads(
    graph: Graph, chosen: list[StockHeads], spec: GateSpec, shapes: Shapes
) -> keras.Model:
    """A new model with gates on the heads of some attention layers.

    A gate replaces its layer, under the layer's name.

    Args:
        graph: the `Graph` of a model.
        chosen: what to gate.
        spec: the `GateSpec`.
        shapes: `{Tensor: shape}`; used only for `spec.weigh`.
    """
    costs = _costs(graph, chosen, spec, shapes)
    wanted: IdentityDict[keras.Operation, NDArray[np.float64] | None]
    wanted = IdentityDict((heads.op, costs.get(heads.op)) for heads in chosen)
    gates: IdentityDict[keras.Operation, GatedAttention] = IdentityDict()

    def edit(recall: Recall) -> Any:
        if recall.op not in wanted:
            return None
        recall()  # builds the copy
        if recall.op not in gates:
            arguments = _arguments(spec, wanted[recall.op])
            layer = recall.copy()
            gates[recall.op] = GatedAttention(layer, **arguments)
        return gates[recall.op](*recall.args, **recall.kwargs)

    return rewrite(graph, edit)


def _costs(
    graph: Graph, chosen: list[StockHeads], spec: GateSpec, shapes: Shapes
) -> IdentityDict[keras.Operation, NDArray[np.float64]]:
    """The share of the model that is removed with each head, by layer."""
    found: IdentityDict[keras.Operation, NDArray[np.float64]] = IdentityDict()
    if spec.weigh not in COSTS:
        return found
    labelling = label(graph)
    shares = Shares(graph.calls, shapes, spec.weigh)
    each = shares.of_classes(labelling)
    wanted: IdentityDict[keras.Operation, None]
    wanted = IdentityDict((heads.op, None) for heads in chosen)
    for step in labelling.steps:
        if step.call.op in wanted and not step.is_selection:
            ids = step.flow.roles["head"]
            found[step.call.op] = each[labelling.classes[ids]]
    shares.warn_of([(heads.name, found[heads.op]) for heads in chosen])
    return found


def _arguments(
    spec: GateSpec, cost: NDArray[np.float64] | None
) -> dict[str, Any]:
    """The keyword arguments of one gate."""

    def penalty(strength: float) -> keras.regularizers.Regularizer:
        if spec.weigh is None:
            return regularizers.L1(strength)
        if cost is None:
            return regularizers.MeanL1(strength)
        return regularizers.CostL1(strength, cost.tolist())

    return spec.arguments(penalty)
