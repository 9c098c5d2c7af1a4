"""A layer called with other values for some of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def call_with(
    layer: keras.Layer,
    values: Sequence[tuple[keras.Variable, Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The output of a layer if some of its weights had other values.

    Gradients pass through the values. Changes to other variables (a state, a
    seed) take effect as in a normal call.

    Args:
        layer: a built layer.
        values: pairs of one of its variables and a tensor of its shape.
        *args: positional arguments of the call.
        **kwargs: keyword arguments of the call.
    """
    other = {id(variable): value for variable, value in values}
    # All variables are passed, not only these: an outer stateless scope, as in
    # training on JAX, is ignored inside an inner one.
    mapping = [(v, other.get(id(v), v.value)) for v in layer.variables]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        outputs = layer(*args, **kwargs)
    for variable, before in mapping:
        after = scope.get_current_value(variable)
        if id(variable) not in other and after is not before:
            variable.assign(after)
    return outputs
