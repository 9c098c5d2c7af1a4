"""What the surgeon knows about activation functions.

A constant is carried through them in NumPy (a backend may compile for each
shape), and a factor passes where the function is homogeneous.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable
from collections.abc import Hashable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.surgeon.rules.registry import rule_of_class
from keras_gates.surgeon.rules.registry import rule_of_function
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import run

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Rule

    Twin = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class Activation:
    """One row: how a factor passes, and a NumPy twin where that is cheap."""

    passes: Scaling | None
    twin: Twin | None = None
    mixes: bool = False


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


_erf = np.vectorize(math.erf, otypes=[float])

_ROWS = {
    "linear": Activation(LINEAR, lambda x: x),
    "relu": Activation(POSITIVE, lambda x: np.maximum(x, 0.0)),
    "leaky_relu": Activation(POSITIVE),
    "relu6": Activation(PRESERVES_ZERO, lambda x: np.clip(x, 0.0, 6.0)),
    "elu": Activation(PRESERVES_ZERO),
    "selu": Activation(PRESERVES_ZERO),
    "celu": Activation(PRESERVES_ZERO),
    "gelu": Activation(
        PRESERVES_ZERO, lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    ),
    "silu": Activation(PRESERVES_ZERO, lambda x: x * _sigmoid(x)),
    "hard_silu": Activation(
        PRESERVES_ZERO, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)
    ),
    "tanh": Activation(PRESERVES_ZERO, np.tanh),
    "hard_tanh": Activation(PRESERVES_ZERO),
    "tanh_shrink": Activation(PRESERVES_ZERO),
    "soft_shrink": Activation(PRESERVES_ZERO),
    "hard_shrink": Activation(PRESERVES_ZERO),
    "softsign": Activation(PRESERVES_ZERO),
    "squareplus": Activation(None),
    "sigmoid": Activation(None, _sigmoid),
    "hard_sigmoid": Activation(None, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "log_sigmoid": Activation(None),
    "softplus": Activation(None),
    "exponential": Activation(None, np.exp),
    "sparse_plus": Activation(None),
    "sparse_sigmoid": Activation(None),
    "threshold": Activation(None),
    "mish": Activation(PRESERVES_ZERO),
    "softmax": Activation(None, mixes=True),
    "log_softmax": Activation(None, mixes=True),
    "sparsemax": Activation(None, mixes=True),
    "glu": Activation(None, mixes=True),
}

# What an argument of a partial function may be: it cannot tell channels apart.
_NUMBERS = (type(None), bool, int, float, str, np.number, np.bool_)

# Of two numbers at the same place.
_PAIRWISE = frozenset(
    gr.operation(f"numpy.{name}")
    for name in (
        *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Power"),
        *("Maximum", "Minimum", "Where", "Greater", "Less"),
    )
)
ACTIVATIONS = {
    getattr(keras.activations, name): row
    for name, row in _ROWS.items()
    if hasattr(keras.activations, name)
}


def known_activation(
    function: Callable[..., Any] | None,
) -> Activation | None:
    """The row of an activation; None if it is a stranger.

    By identity, never by name: a function of `keras.activations` or of
    `keras.ops`, one that was registered, one of these with some of its
    arguments set by `functools.partial`, a layer that treats each number
    alone, or a function made of operations that do.
    """
    if function is None:
        return _ROWS["linear"]
    if isinstance(function, functools.partial):
        return _of_partial(function)
    if isinstance(function, keras.Layer):
        if function.weights:
            return None
        return _row_of(rule_of_class(type(function)), function)
    if not isinstance(function, Hashable):
        return None
    if function in ACTIVATIONS:
        return ACTIVATIONS[function]
    rule = rule_of_function(function)
    operation = gr.operation_of(function)
    if rule is None and operation is not None:
        rule = rule_of_class(operation)
    if rule is None and isinstance(function, types.FunctionType):
        return _of_parts(function)
    return _row_of(rule, None)


@functools.lru_cache(maxsize=64)
def _of_parts(function: Callable[..., Any]) -> Activation | None:
    """The row of a function whose operations treat each number alone."""
    x = keras.KerasTensor((None, 2, 3))
    try:
        y = function(x)
        alone = tuple(y.shape) == tuple(x.shape) and all(
            _treats_alone(node) for node in gr.recorded_before([y], [x])
        )
        if not alone:
            return None
        zero = run(function, np.zeros(1))
    except Exception:  # whatever it says to symbols
        return None
    return Activation(None if zero.any() else PRESERVES_ZERO)


def _treats_alone(node: Node) -> bool:
    """Whether a call takes each number of its inputs by itself."""
    flat = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    constants = [x for x in flat if not isinstance(x, keras.KerasTensor)]
    if any(math.prod(getattr(x, "shape", ())) > 1 for x in constants):
        return False
    op = node.operation
    if isinstance(op, keras.Layer):
        return False
    if type(op) in _PAIRWISE:
        return True
    row = _row_of(rule_of_class(type(op)), op)
    return row is not None and not row.mixes


def _row_of(rule: Rule | None, op: keras.Layer | None) -> Activation | None:
    """The row of a function that a rule describes."""
    known = None if rule is None else rule.as_function(op)
    return None if known is None else Activation(known[0], mixes=known[1])


def _of_partial(partial: functools.partial[Any]) -> Activation | None:
    """The row of a function with some of its arguments set to numbers."""
    row = known_activation(partial.func)
    plain = all(isinstance(x, _NUMBERS) for x in partial.keywords.values())
    if row is None or partial.args or not plain:
        return None
    if row.mixes or partial.func not in ACTIVATIONS:
        # A rule of an operation holds whatever its arguments are.
        return Activation(row.passes, mixes=row.mixes)
    if row.passes == POSITIVE and set(partial.keywords) <= {"negative_slope"}:
        return Activation(POSITIVE)
    zero = run(partial, np.zeros(1))
    return Activation(None if zero.any() else PRESERVES_ZERO)


def apply(
    function: Callable[..., Any] | None, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`function` on known values, NaN staying NaN.

    Nothing is known of what a stranger puts out, or one that mixes channels.
    """
    if function is None:
        return values
    row = known_activation(function)
    if row is None or row.mixes:
        return np.full_like(values, np.nan)
    if row.twin is not None:
        result = row.twin(values)
    else:
        result = run(function, np.where(np.isnan(values), 0.0, values))
    return np.where(np.isnan(values), np.nan, result)


def why_not(function: Callable[..., Any] | None) -> str | None:
    """Why the channels behind `function` are kept, or None."""
    row = known_activation(function)
    name = _name(function)
    if row is None:
        is_layer = isinstance(function, keras.Layer)
        asked = type(function).__name__ if is_layer else "function"
        return (
            f"the activation {name} is not from keras.activations or "
            "keras.ops, so it may mix channels; if it does not, register it: "
            f"keras_gates.surgeon.register({asked}, "
            "keras_gates.surgeon.rules.Elementwise())"
        )
    return f"{name} over the channels reads all of them" if row.mixes else None


def _name(function: Callable[..., Any] | None) -> str:
    """What to call an activation in a message."""
    if isinstance(function, functools.partial):
        return f"partial of {_name(function.func)}"
    if isinstance(function, keras.Layer):
        return f"'{function.name}' ({type(function).__name__})"
    return str(getattr(function, "__name__", repr(function)))
