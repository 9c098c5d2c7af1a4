"""The results of operations on a layer's variables only.

That is known beforehand, and so is where each of its numbers stems from: the
operations are run once on the values, and once on `0, 1, 2, ...` in place of
these.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.several_sizes import alike
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.variables import values_of

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.stand_ins import StandIn

_SPREADING = frozenset(
    (
        private.operation("numpy.BroadcastTo"),
        private.operation("numpy.Repeat"),
        private.operation("numpy.Tile"),
    )
)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """What comes of a variable alone.

    Attributes:
        variable: the variable.
        label: what it is called.
        dtype: the type in which the layer reads it.
        value: the numbers.
        probe: what comes of `0, 1, 2, ...` in the variable's place.
        batched: whether its first axis is that of the samples.
    """

    variable: keras.Variable
    label: str
    dtype: str
    value: NDArray[Any]
    probe: NDArray[Any]
    batched: bool = False

    @property
    def derived(self) -> bool:
        """Whether it holds more than the variable's numbers in their order."""
        flat = self.probe.reshape(-1)
        return not np.array_equal(flat, _probe(self.variable).reshape(-1))

    @property
    def part(self) -> NDArray[np.intp] | None:
        """Where in the variable its numbers are, if it holds some of them.

        One may be there several times, as in a bias by distance.
        """
        if not self.derived:
            return None
        own = values_of(self.variable).reshape(-1)
        flat = self.probe.reshape(-1)
        places = flat.astype(np.intp)
        inside = (places == flat) & (places >= 0) & (places < own.size)
        if not inside.all():
            return None
        same = np.array_equal(own[places], self.value.reshape(-1))
        return places if same else None

    @property
    def is_buffer(self) -> bool:
        """Whether it holds whole numbers that no training changes."""
        trained = self.variable.trainable
        return not (trained or keras.backend.is_float_dtype(self.dtype))

    @property
    def is_matrix(self) -> bool:
        return self.value.ndim == 2 and not self.batched


def _probe(variable: keras.Variable) -> NDArray[Any]:
    shape = tuple(variable.shape)
    return np.arange(int(np.prod(shape)), dtype="float32").reshape(shape)


def read(stand_in: StandIn) -> Weight:
    """The weight that a stand-in is for."""
    variable = stand_in.variable
    return Weight(
        variable,
        stand_in.label,
        stand_in.dtype,
        values_of(variable),
        _probe(variable),
    )


def computed(
    node: Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    spread: set[int],
) -> list[Weight]:
    """The outputs of an operation on weights alone.

    Args:
        node: the recorded call.
        args: its positional arguments.
        kwargs: those by name.
        spread: as in `Revision`.

    Raises:
        SideEffect: it takes several variables.
    """
    flat = keras.tree.flatten((args, kwargs))
    weights = [x for x in flat if isinstance(x, Weight)]
    first, shape = weights[0], tuple(node.outputs[0].shape)
    varying = [x for x in weights if not x.is_buffer]
    first = varying[0] if varying else first
    if any(x.variable is not first.variable for x in varying):
        raise SideEffect(
            "its `call` combines the variables "
            + " and ".join(f"'{x.variable.name}'" for x in weights)
        )
    if shape[:1] == (None,) and not first.batched:
        return [_spread(node, first)]

    def run(part: str) -> list[NDArray[Any]]:
        def array(x: Any) -> Any:
            if not isinstance(x, Weight):
                return x
            kept = x.is_buffer and x.variable is not first.variable
            return x.value if kept else getattr(x, part)

        a, k = mapped(array, args, kwargs)
        a, k = mapped(_tensor, a, k)
        found = keras.tree.flatten(node.operation.call(*a, **k))
        return [np.asarray(keras.ops.convert_to_numpy(x)) for x in found]

    made = [
        dataclasses.replace(first, dtype=kt.dtype, value=value, probe=probe)
        for kt, value, probe in zip(
            node.outputs, run("value"), run("probe"), strict=True
        )
    ]
    if any(id(kt) in spread for kt in node.outputs):
        return [_one_row(node, weight) for weight in made]
    for kt, weight in zip(node.outputs, made, strict=True):
        wanted = tuple(1 if size is None else size for size in kt.shape)
        if weight.value.shape != wanted:
            raise _by_samples(node, first)
    return made


def _by_samples(node: Node, weight: Weight) -> SideEffect:
    return SideEffect(
        "its `call` makes a tensor with a batch axis from the variable "
        f"'{weight.variable.name}' by {type(node.operation).__name__}"
    )


def _one_row(node: Node, weight: Weight) -> Weight:
    """What holds the same for each of the samples, by one row."""
    if not (alike(weight.value) and alike(weight.probe)):
        raise _by_samples(node, weight)
    value, probe = weight.value[:1], weight.probe[:1]
    return dataclasses.replace(weight, value=value, probe=probe, batched=True)


def _spread(node: Node, weight: Weight) -> Weight:
    """A weight that is there for each sample: one row stands for all."""
    if type(node.operation) not in _SPREADING:
        raise _by_samples(node, weight)
    kt = node.outputs[0]
    wanted = (1, *kt.shape[1:])
    value, probe = (
        np.broadcast_to(x, wanted) for x in (weight.value, weight.probe)
    )
    return dataclasses.replace(
        weight, dtype=kt.dtype, value=value, probe=probe, batched=True
    )


def _tensor(x: Any) -> Any:
    return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x
