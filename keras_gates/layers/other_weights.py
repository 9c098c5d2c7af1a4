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
    """What a layer returns if some of its weights had other values.

    Gradients pass through the values. What the call changes of the other
    variables (a state, a seed) is changed as by a call of its own.

    Args:
        layer: a built layer.
        values: pairs of one of its variables and a tensor of its shape.
        *args: positional arguments of the call.
        **kwargs: keyword arguments of the call.
    """
    other = {id(variable): value for variable, value in values}
    # All variables are told, not those alone: an outer stateless scope, as
    # JAX trains in, is not asked where an inner one is open.
    mapping = [(v, other.get(id(v), v.value)) for v in layer.variables]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        outputs = layer(*args, **kwargs)
    for variable, before in mapping:
        after = scope.get_current_value(variable)
        if id(variable) not in other and after is not before:
            variable.assign(after)
    return outputs
