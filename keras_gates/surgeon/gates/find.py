"""Finds the layers of a graph with factors that can be closed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.graphs.identity import IdentityDict
from keras_gates.layers.factor_layer import FactorLayer
from keras_gates.layers.gate import Gate
from keras_gates.layers.gated_recurrent import GatedRecurrent
from keras_gates.surgeon.rules import rule_of
from keras_gates.thresholds import Factors

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.rules.source import Source


def gates_of(graph: Graph) -> dict[str, Source]:
    """The `Source` of each gate and group, by path.

    Raises:
        ValueError: two gates have one path.
    """
    found: dict[str, Source] = {}
    seen: IdentityDict[keras.Operation, None] = IdentityDict()
    for call in graph.calls:
        if call.op in seen:
            continue
        seen[call.op] = None
        source = rule_of(call).source(call)
        if source is None:
            _check_no_gate_inside(call, graph)
            continue
        if call.path in found:
            raise ValueError(
                f"Two gates are called '{call.path}'. Rename one of them, so "
                "that thresholds and plans can distinguish them."
            )
        found[call.path] = source
    for name, values in graph.scores.items():
        found[name] = dataclasses.replace(found[name], scores=values)
    return found | graph.groups


def unknown_gates(graph: Graph) -> str:
    """A sentence on gates of classes without a rule, or ""."""
    found = {  # as keys, since a gate may be called twice
        f"'{call.path}' (of type {type(call.op).__name__})": None
        for call in graph.calls
        if isinstance(call.op, (Gate, GatedRecurrent))
        and rule_of(call).source(call) is None
    }
    if not found:
        return ""
    names = ", ".join(list(found)[:8])
    return (
        f" It has {names}, of a class derived from a gate's that "
        "computes its output or its factor in a way of its own, and is taken "
        "for no gate. Use the gate classes as they are, or register the class: "
        "keras_gates.surgeon.register(cls, "
        "keras_gates.surgeon.rules.Composite(expand=..., gate=...)), where "
        "`expand` writes it out with the gate that it stands for."
    )


def _check_no_gate_inside(call: Call, graph: Graph) -> None:
    """Refuse a layer with a gate inside that no plan could close."""
    layer = time_axis.layer_of(call.op)
    if layer in graph.whole:  # the plan says so
        return
    why = graph.unread.get(
        id(layer),
        "whose graph the surgeon can't read. Use the gate in a functional "
        "model, or call a functional model directly instead of wrapping it.",
    )
    for part in private.sublayers(call.op):
        if isinstance(part, FactorLayer):
            raise ValueError(
                f"Gate '{part.name}' is inside '{call.path}' (of type "
                f"{type(call.op).__name__}), {why}"
            )


def factors_of(graph: Graph) -> list[Factors]:
    """The `Factors` of everything that can be closed.

    Raises:
        ValueError: a gate holds a NaN or an infinity.
    """
    found = []
    for name, source in gates_of(graph).items():
        values = source.values()
        if not np.isfinite(values).all():
            raise ValueError(
                f"Gate '{name}' has factors that are not finite: training "
                "failed. Restore an earlier checkpoint."
            )
        found.append(Factors(name, source.kind, values))
    return found
