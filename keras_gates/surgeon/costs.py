"""What a call costs in multiply-adds, told from shapes alone.

One MAC is one multiply-add, for one sample. A weight that `Rule.costs` names
is used once at each position of a tensor, so it costs its size times the
number of positions. All else (biases, normalization, activations, pooling,
gates, look-ups, merges) counts as nothing.
"""

import math

import keras

from keras_gates.surgeon import time_axis
from keras_gates.surgeon.rules.rule import named_weights


def weight_shapes(op):
    """`[(name, shape)]` of a layer's weights; empty for a bare operation.

    Pairs, and no dictionary: a layer made of layers (Bidirectional) has
    several weights of one name.
    """
    if not isinstance(op, keras.Layer):
        return []
    return [(w.name, tuple(w.shape)) for w in op.weights]


def cut_weight_shapes(call, rule, kept):
    """`weight_shapes` of a layer after a cut.

    Args:
        call: the `Call` of the layer.
        rule: its `Rule`.
        kept: role -> how many positions are left along it; roles that it
            does not name keep their size.
    """
    if not isinstance(call.op, keras.Layer):
        return []
    axes = rule.axes_of(call)
    found = []
    for part in rule.parts(call.op):
        for name, weight in named_weights(part, axes):
            sizes, roles = list(weight.shape), axes.get(name, ())
            for axis, role in enumerate(roles, len(sizes) - len(roles)):
                if role is not None:
                    sizes[axis] = kept.get(role, sizes[axis])
            found.append((name, tuple(sizes)))
    return found


def parameters(shapes):
    """The number of entries of weights given as `[(name, shape)]`."""
    return sum(math.prod(shape) for _, shape in shapes)


def layer_macs(call, rule, shapes, in_shape, out_shape, tensor_shapes=None):
    """The MACs of one call at given shapes, before a cut or after it.

    Args:
        call: the `Call`; only the layout of its layer is read.
        rule: its `Rule`.
        shapes: `[(name, shape)]` of the weights.
        in_shape: shape of the first input, batch axis included.
        out_shape: shape of the first output, batch axis included.
        tensor_shapes: `{Tensor: shape}`, if others than those of the graph.

    Returns:
        An integer, or None if the rule does not know what the call costs.

    Raises:
        ValueError: A size that the count depends on is None.
    """
    if rule.costs is None:
        return None
    steps = [x.shape[time_axis.AXIS] for x in call.times]
    if tensor_shapes is not None:
        steps = [tensor_shapes[x][time_axis.AXIS] for x in call.times]
    total = 0
    for name, shape in shapes:
        over = rule.costs.get(name)
        if over is not None:
            places = _places(call, rule, over, steps, in_shape, out_shape)
            total += math.prod(shape) * places
    return total


def _places(call, rule, over, steps, in_shape, out_shape):
    """At how many positions a weight is used."""
    sizes = [*steps, *rule.positions(call, over, in_shape, out_shape)]
    if None in sizes:
        raise ValueError(
            f"The MACs of layer '{call.path}' (of type "
            f"{type(call.op).__name__}) depend on sizes that are unknown: it "
            f"maps {tuple(in_shape)} to {tuple(out_shape)}. Expected: known "
            "sizes on every axis but the batch's. Pass them as "
            "`input_shape=`, without the batch axis."
        )
    return math.prod(sizes)
