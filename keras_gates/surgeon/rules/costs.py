"""The multiply-adds of a call, from shapes.

One MAC is one multiply-add, for one sample. A weight that `Rule.costs` names
is used once at each position of a tensor, so it costs its size times the
number of positions. What has a `Rule.counts` (attention, products of tensors)
costs what that says. All else (biases, normalization, activations, pooling,
gates, look-ups, merges) counts as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import keras

from keras_gates.graphs import time_axis
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.rules.rule import Rule
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights


def weight_shapes(op: keras.Operation) -> Weights:
    """The `Weights` of a layer; empty for a bare operation."""
    if not isinstance(op, keras.Layer):
        return []
    return [(w.name, tuple(w.shape)) for w in op.weights]


def cut_weight_shapes(
    call: Call, rule: Rule, kept: Mapping[str, int]
) -> Weights:
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


def parameters(shapes: Weights) -> int:
    """The number of entries of weights given as `[(name, shape)]`."""
    return sum(math.prod(shape) for _, shape in shapes)


def call_macs(
    call: Call,
    rule: Rule,
    weights: Weights,
    shapes: Mapping[Tensor, tuple[int | None, ...]],
) -> int | None:
    """The MACs of one call at given shapes, before a cut or after it.

    Args:
        call: the `Call`; only the layout of its layer is read.
        rule: its `Rule`.
        weights: `[(name, shape)]` of the weights.
        shapes: `{Tensor: shape}`, as `shapes_of` gives them, of what goes in
            and comes out.

    Returns:
        An integer, or None if the rule does not know what the call costs.

    Raises:
        ValueError: A size that the count depends on is None.
    """
    inputs: list[Sizes] = [tuple(shapes[t]) for t in call.inputs]
    outputs: list[Sizes] = [tuple(shapes[t]) for t in call.outputs]
    steps: Sizes = tuple(
        shapes.get(t, t.shape)[time_axis.AXIS] for t in call.times
    )
    try:
        once = counts.multiply_adds(call, rule, weights, inputs, outputs)
        rows = outputs[0][0] if outputs and outputs[0] else None
        each: int = math.prod(steps) * (1 if rows is None else rows)
        return None if once is None else once * each
    except TypeError as error:
        if not any(None in s[1:] for s in (*inputs, *outputs, (0, *steps))):
            raise
        given = inputs[0] if len(inputs) == 1 else inputs
        raise ValueError(
            f"The MACs of layer '{call.path}' (of type "
            f"{type(call.op).__name__}) depend on sizes that are unknown: it "
            f"maps {given} to {outputs[0]}. Expected: known sizes on every "
            "axis but the batch's. Pass them, without the batch axis, as "
            "`input_shape=` to kg.stats, or as `sizes=` elsewhere."
        ) from error


def recorded(call: Call) -> dict[Tensor, tuple[int | None, ...]]:
    """`{Tensor: shape}` of a call, as the model has them, for one row."""
    tensors = (*call.inputs, *call.outputs)
    return {t: (None, *t.shape[1:]) for t in tensors}
