"""What the surgeon knows of activation functions.

A constant is carried through them in NumPy (a backend may compile for each
shape), and a factor passes where the function is homogeneous.
"""

import dataclasses
import math
from collections.abc import Callable

import keras
import numpy as np

from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import run


@dataclasses.dataclass(frozen=True)
class Activation:
    """One row: how a factor passes, and a NumPy twin where that is cheap."""

    passes: str | None
    twin: Callable | None = None
    mixes: bool = False


def _sigmoid(x):
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

ACTIVATIONS = {
    getattr(keras.activations, name): row
    for name, row in _ROWS.items()
    if hasattr(keras.activations, name)
}


def known_activation(function):
    """The row of a function; None if it is a stranger."""
    if function is None:
        return _ROWS["linear"]
    return ACTIVATIONS.get(function)


def apply(function, values):
    """`function` on known values, NaN staying NaN."""
    row = known_activation(function)
    if row.twin is not None:
        result = row.twin(values)
    else:
        result = run(function, np.where(np.isnan(values), 0.0, values))
    return np.where(np.isnan(values), np.nan, result)


def why_not(function):
    """Why the channels behind `function` are kept, or None."""
    row = known_activation(function)
    name = getattr(function, "__name__", repr(function))
    if row is None:
        return (
            f"the activation {name} is not one of keras.activations, so it "
            "may mix channels; use an Activation layer with a registered "
            "class instead"
        )
    return f"{name} over the channels reads them all" if row.mixes else None
