"""The rows: operations of Keras 3 that are layers in tf_keras.

The tools of tensorflow-model-optimization know layers, not functions. The table
has only those that its quantization supports; it refuses other layers, but
skips an `Operation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

from keras_gates.graphs.graph import operation

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call


class Stock(NamedTuple):
    """A layer of tf_keras: the name of its class, and its config."""

    name: str
    config: dict[str, Any]


def _activation(name: str) -> Callable[[Call], Stock]:
    return lambda call: Stock("Activation", {"activation": name})


def _add(call: Call) -> Stock | None:
    """No layer takes a number or an array."""
    ranks = {len(t.shape) for t in call.inputs}
    plain = len(call.inputs) == 2 and len(ranks) == 1
    return Stock("Add", {}) if plain else None


def _reshape(call: Call) -> Stock | None:
    """Not if the batch axis is involved."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    whole = None not in before[1:] and None not in after[1:]
    batch = before[0] == after[0] and call.op.newshape[0] in (-1, after[0])
    if not (whole and batch):
        return None
    return Stock("Reshape", {"target_shape": after[1:]})


_ROWS: dict[str, Callable[[Call], Stock | None]] = {
    "nn.Relu": lambda c: Stock("ReLU", {}),
    "nn.Relu6": lambda c: Stock("ReLU", {"max_value": 6.0}),
    "nn.LeakyRelu": lambda c: Stock(
        "LeakyReLU", {"alpha": c.op.negative_slope}
    ),
    "nn.Elu": lambda c: Stock("ELU", {"alpha": c.op.alpha}),
    "nn.Softmax": lambda c: Stock("Softmax", {"axis": c.op.axis}),
    "nn.Sigmoid": _activation("sigmoid"),
    "nn.Silu": _activation("swish"),
    "numpy.Tanh": _activation("tanh"),
    "numpy.Add": _add,
    "numpy.Concatenate": lambda c: Stock("Concatenate", {"axis": c.op.axis}),
    "numpy.Reshape": _reshape,
}


def as_layer(call: Call) -> Stock | None:
    """The layer for a call, or None."""
    for name, row in _ROWS.items():
        if type(call.op) is operation(name):
            return row(call)
    return None
