"""Merges scales, moves them past other layers, and drops repeated ReLUs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.transforms.fusing import edits as ed

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.transforms.fusing.edits import Edits
    from keras_gates.transforms.fusing.wiring import Wiring

_ADD = (layers.Add, gr.operation("numpy.Add"))
_POOLS = (
    *(layers.MaxPooling1D, layers.MaxPooling2D),
    *(layers.AveragePooling1D, layers.AveragePooling2D),
)


def find(graph: Graph, wiring: Wiring, edits: Edits, batch_norm: bool) -> None:
    """Add the edits that move scales towards layers that absorb them."""
    for site in graph.sites:
        if id(site) in edits:
            continue
        if _is_relu(site):
            if _is_nonnegative(site.node.input_tensors[0], wiring):
                edits[id(site)] = ed.passed
        elif id(site.op) in wiring.shared:
            continue
        elif type(site.op) in _ADD:
            _sum(site, wiring, edits)
        elif _is_scale(site):
            _move(site, wiring.after(site), edits)


def _move(site: Site, after: Site | None, edits: Edits) -> None:
    """Merge with the next scale, or move past the next layer."""
    if after is None or id(after) in edits:
        return
    scale = site.op.scale
    if _is_scale(after):
        edit = functools.partial(_scaled, after.op, scale * after.op.scale)
    # A scale of 0 would leave nothing to fold into.
    elif scale > 0 and _lets_pass(after):
        edit = functools.partial(_scaled_behind, site.op)
    else:
        return
    edits[id(site)] = ed.passed
    edits[id(after)] = edit


def _sum(site: Site, wiring: Wiring, edits: Edits) -> None:
    """Merge `a x + b x` into one scale, as for a block without layers."""
    ways = [_scale_of(kt, wiring, edits) for kt in site.node.input_tensors]
    source = ways[0][0]
    alike = len({id(kt) for kt, _, _ in ways}) == 1 and len(ways) > 1
    if not alike or not keras.backend.is_float_dtype(source.dtype):
        return
    for _, _, sites in ways:
        edits.update({id(s): ed.passed for s in sites})
    total = sum(scale for _, scale, _ in ways)
    edits[id(site)] = functools.partial(_summed, total, source)


def _scale_of(
    kt: keras.KerasTensor, wiring: Wiring, edits: Edits
) -> tuple[keras.KerasTensor, float, list[Site]]:
    """`(source, scale, sites)`: of which a tensor is a multiple."""
    scale = 1.0
    sites: list[Site] = []
    while (site := wiring.sole_maker(kt)) is not None:
        if not _is_scale(site) or id(site) in edits:
            break
        kt, scale = site.node.input_tensors[0], scale * site.op.scale
        sites.append(site)
    return kt, scale, sites


def _summed(total: float, source: keras.KerasTensor, recall: Recall) -> Any:
    # An operation has no dtype policy, so the tensor tells.
    policy = getattr(recall.op, "dtype_policy", source.dtype)
    scale = layers.Rescaling(total, dtype=policy, name=recall.op.name)
    return scale(recall.tensor(source))


def _scaled(layer: keras.Layer, scale: float, recall: Recall) -> Any:
    config = {**layer.get_config(), "scale": scale}
    return layers.Rescaling.from_config(config)(*recall.args)


def _scaled_behind(scale: keras.Layer, recall: Recall) -> Any:
    outputs = recall()
    return type(scale).from_config(scale.get_config())(outputs)


def _is_scale(site: Site) -> bool:
    op = site.op
    if type(op) is not layers.Rescaling or gr.has_own_call(op):
        return False
    plain = np.ndim(op.scale) == 0 and not np.any(op.offset)
    dtype = site.node.input_tensors[0].dtype
    return plain and bool(keras.backend.is_float_dtype(dtype))


def _is_relu(site: Site) -> bool:
    op = site.op
    if gr.has_own_call(op):
        return False
    if type(op) is layers.ReLU:
        return (op.max_value, op.negative_slope, op.threshold) == (None, 0, 0)
    return (
        type(op) is layers.Activation
        and op.activation is keras.activations.relu
    )


def _is_nonnegative(kt: keras.KerasTensor, wiring: Wiring) -> bool:
    """Whether a tensor comes from a ReLU, with at most pooling after it."""
    maker = wiring.maker(kt)
    while maker is not None and type(maker.op) in _POOLS:
        maker = wiring.maker(maker.node.input_tensors[0])
    return maker is not None and _is_relu(maker)


def _lets_pass(site: Site) -> bool:
    """Whether a call has one input and output, and passes a factor."""
    tensors = [*site.node.input_tensors, *site.node.outputs]
    op = site.op
    if len(tensors) != 2 or not site.calls or type(op) is layers.Rescaling:
        return False
    if isinstance(op, keras.Layer) and op.weights:
        return False
    call = site.calls[0]
    return rule_of(call).scaling(call) in (LINEAR, POSITIVE)
