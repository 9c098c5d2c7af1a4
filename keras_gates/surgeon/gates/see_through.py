"""Sees through the layers of a model, each once.

Tracing a layer takes about as long as building it, so code that reads a model
several times in one public call uses the same `Seeing`. It is not kept
afterwards, since the parts of a layer hold copies of its weights.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs import time_axis
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.trace import trace
from keras_gates.graphs.trace import way
from keras_gates.layers.gate import Gate
from keras_gates.layers.gated_recurrent import GatedRecurrent
from keras_gates.surgeon.rules.registry import rule_of_class
from keras_gates.surgeon.rules.registry import rule_of_model
from keras_gates.surgeon.rules.registry import why_none

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.private import Node

_MOST_WAYS = 16
_DIFFERENT = f"it is called in more than {_MOST_WAYS} different ways"
_SEVERAL = "it is called in several ways, which have different parts"


def read(
    model: keras.Model,
    like: Graph | None = None,
    refused: Mapping[keras.Layer, str] | None = None,
) -> Graph:
    """The `Graph` of a model, layers without a rule seen through.

    Args:
        model: a built model.
        like: a graph of it, or of a model made of it in the same public call,
            which has asked what layers are made of.
        refused: layer -> why it is not to be seen through.

    Raises:
        TypeError, ValueError: as `graph.read`.
    """
    known = None if like is None else like.see_through
    seeing = known or Seeing()
    return gr.read(model, _refusing(seeing, refused) if refused else seeing)


def _refusing(
    seeing: gr.SeeThrough, refused: Mapping[keras.Layer, str]
) -> gr.SeeThrough:
    """The same, but for some layers."""

    def see(node: Node, owned: bool) -> gr.Opened | gr.Opaque | gr.Whole | None:
        why = refused.get(node.operation)
        return seeing(node, owned) if why is None else gr.Opaque(why)

    return see


def read_to_write(model: keras.Model) -> Graph:
    """As `read`; layers whose parts can't stand in their place are closed.

    For what puts something inside a layer, which is written out then.
    """
    return gr.read(model, Seeing(writing=True))


class Seeing:
    """Sees through layers that have no rule.

    Each is traced once for each way in which it is called, and at all of its
    calls or at none: what is Opaque at one is so at all from then on. Where it
    is called in several ways, no one model can stand in its place.

    Args:
        writing: whether only what can be written out is seen through.
    """

    def __init__(self, writing: bool = False) -> None:
        self._writing = writing
        self._opaque: IdentityDict[keras.Layer, gr.Opaque] = IdentityDict()
        self._opened: IdentityDict[keras.Layer, dict[str, gr.Opened]]
        self._opened = IdentityDict()

    def __call__(
        self, node: Node, owned: bool
    ) -> gr.Opened | gr.Opaque | gr.Whole | None:
        """What the layer of a recorded call is made of; None for most."""
        layer = node.operation
        if gr.is_functional(layer):
            return gr.Whole() if rule_of_model(layer) is not None else None
        if not is_unknown(layer):
            return None
        if layer in self._opaque:
            return self._opaque[layer]
        ways = self._opened.setdefault(layer, {})
        this = way(node)
        if this not in ways:
            found = self._traced(node, owned, [*ways.values()])
            if isinstance(found, gr.Opaque):
                self._opaque[layer] = found
                return found
            ways[this] = found
            if len(ways) > 1:
                # From now on at all of its calls.
                self._opened[layer] = ways = {
                    each: dataclasses.replace(x, fixed=x.fixed or _SEVERAL)
                    for each, x in ways.items()
                }
        return ways[this]

    def _traced(
        self, node: Node, owned: bool, others: list[gr.Opened]
    ) -> gr.Opened | gr.Opaque:
        if len(others) >= _MOST_WAYS:
            return gr.Opaque(_DIFFERENT)
        if others and self._writing:
            return gr.Opaque(_SEVERAL)
        found = trace(node, new_copies(), owned, others)
        if isinstance(found, gr.Opened) and not found.fixed:
            found = _as_one(found)
        if self._writing and isinstance(found, gr.Opened) and found.fixed:
            return gr.Opaque(found.fixed)
        return found


def _as_one(opened: gr.Opened) -> gr.Opened:
    """The same; where all of it has one rule, the model of one part."""
    if rule_of_model(opened.model) is None:
        return opened
    x = keras.Input(
        batch_shape=opened.model.inputs[0].shape,
        dtype=opened.model.inputs[0].dtype,
    )
    model = keras.Model(x, opened.model(x), name=opened.model.name)
    return dataclasses.replace(opened, model=model)


def is_unknown(op: keras.Operation) -> bool:
    """Whether an operation is a layer that no rule speaks of, or would see."""
    if not isinstance(op, keras.Layer) or gr.has_own_call(op):
        return False
    if isinstance(op, (Gate, GatedRecurrent)):
        return False  # of the user's class: what it closes isn't known
    if time_axis.distributes(op):
        return not gr.is_functional(op.layer) and is_unknown(op.layer)
    cls = type(op)
    rule = rule_of_class(cls)
    if rule is not None:
        return rule.opens
    return why_none(cls) is None
