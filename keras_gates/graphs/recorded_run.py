"""The result of a run of a `call` on symbolic tensors, for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_gates.graphs import private

if TYPE_CHECKING:
    from keras_gates.graphs.stand_ins import StandIn

TRAINING = "training"


class Run(NamedTuple):
    """What a run of a `call` gave.

    Attributes:
        outputs: its outputs, flat.
        weights: what stood for its variables.
        training: what it was told.
        record: what was called on what; equal for runs that did the same.
    """

    outputs: list[Any]
    weights: list[StandIn]
    training: bool | None
    record: list[Any]

    def told(
        self, inputs: list[keras.KerasTensor], training: bool
    ) -> keras.Layer | None:
        """A layer that was told to train or not, by `training`; or None."""
        for node in private.recorded_before(self.outputs, inputs):
            op, given = node.operation, node.arguments.kwargs.get(TRAINING)
            asked = isinstance(op, keras.Layer) and private.takes_training(op)
            if asked and given is not None and bool(given) == training:
                return op
        return None


def recorded(outputs: list[Any], sources: list[Any]) -> list[Any]:
    """What was called on what between symbolic tensors, as plain data."""
    numbers = {id(x): n for n, x in enumerate(sources)}

    def told(x: Any) -> Any:
        return numbers[id(x)] if id(x) in numbers else _constant(x)

    found: list[Any] = []
    for node in private.recorded_before(outputs, sources):
        op, given = node.operation, node.arguments
        kwargs = {k: v for k, v in given.kwargs.items() if k != TRAINING}
        flat = keras.tree.flatten((given.args, kwargs))
        what = _layer(op) if isinstance(op, keras.Layer) else _operation(op)
        found.append((what, sorted(kwargs), [told(x) for x in flat]))
        for kt in node.outputs:
            numbers[id(kt)] = len(numbers)
    return [*found, [told(x) for x in outputs]]


def _layer(op: keras.Layer) -> Any:
    """A layer; one without weights may be rebuilt by each run."""
    if op.variables:
        return id(op)
    try:
        config = dict(op.get_config())
    except Exception:  # whatever a user's layer raises
        return id(op)
    config.pop("name", None)
    return type(op), repr(config)


def _operation(op: keras.Operation) -> tuple[Any, ...]:
    """An operation as its class and arguments; names count on."""
    skipped = private.operation_names()
    held = {k: _constant(v) for k, v in vars(op).items() if k not in skipped}
    return type(op), tuple(sorted(held.items(), key=lambda pair: pair[0]))


def _constant(x: Any) -> Any:
    """What a constant is, for comparison."""
    if isinstance(x, keras.KerasTensor):
        return "symbolic"
    if isinstance(x, keras.Variable):
        return id(x)
    if isinstance(x, np.ndarray) or keras.ops.is_tensor(x):
        array = np.asarray(keras.ops.convert_to_numpy(x))
        return array.shape, array.dtype.name, array.tobytes()
    if isinstance(x, (list, tuple, dict)):
        return type(x).__name__, [*map(_constant, keras.tree.flatten(x))]
    plain = isinstance(x, (bool, int, float, str, slice, type(None)))
    return repr(x) if plain else getattr(x, "__code__", type(x))
