"""Positive scales, moved behind what they pass; ReLUs behind ReLUs."""

import functools

import keras
import numpy as np
from keras import layers

from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.transforms.fusing import edits as ed

_POOLS = (
    *(layers.MaxPooling1D, layers.MaxPooling2D),
    *(layers.AveragePooling1D, layers.AveragePooling2D),
)


def find(graph, wiring, edits, batch_norm):
    """Add the edits that move scales towards the layers that take them."""
    for site in graph.sites:
        if id(site) in edits:
            continue
        if _is_relu(site):
            if _is_nonnegative(site.node.input_tensors[0], wiring):
                edits[id(site)] = ed.passed
        elif _is_scale(site) and id(site.op) not in wiring.shared:
            after = wiring.after(site)
            if after is None or id(after) in edits or not _lets_pass(after):
                continue
            edits[id(site)] = ed.passed
            edits[id(after)] = functools.partial(_scaled_behind, site.op)


def _scaled_behind(scale, recall):
    outputs = recall()
    return type(scale).from_config(scale.get_config())(outputs)


def _is_scale(site):
    op = site.op
    if type(op) is not layers.Rescaling:
        return False
    plain = np.ndim(op.scale) == 0 and np.all(np.asarray(op.offset) == 0)
    dtype = site.node.input_tensors[0].dtype
    # A scale of 0 would have nothing left to fold into.
    return plain and op.scale > 0 and keras.backend.is_float_dtype(dtype)


def _is_relu(site):
    op = site.op
    if type(op) is layers.ReLU:
        return (op.max_value, op.negative_slope, op.threshold) == (None, 0, 0)
    return (
        type(op) is layers.Activation
        and op.activation is keras.activations.relu
    )


def _is_nonnegative(kt, wiring):
    """Whether a tensor comes from a ReLU, by no more than pooling."""
    maker = wiring.maker(kt)
    while maker is not None and type(maker.op) in _POOLS:
        maker = wiring.maker(maker.node.input_tensors[0])
    return maker is not None and _is_relu(maker)


def _lets_pass(site):
    """Whether a call has one tensor in and out, and a factor passes it."""
    tensors = [*site.node.input_tensors, *site.node.outputs]
    op = site.op
    if len(tensors) != 2 or not site.calls or type(op) is layers.Rescaling:
        return False
    if isinstance(op, keras.Layer) and op.weights:
        return False
    call = site.calls[0]
    return rule_of(call).scaling(call) in (LINEAR, POSITIVE)
