"""`ops.dot_product_attention`: heads on the axis before the last."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.graph import Tensor
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules.contraction import Contraction
from keras_gates.surgeon.rules.letters import Terms
from keras_gates.surgeon.rules.reach import by_argument

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

# Batch, query, key, head, size of a key, size of a value.
_TERMS = {
    "query": "bqhd",
    "key": "bkhd",
    "value": "bkhe",
    "bias": "bhqk",
    "mask": "bhqk",
}
_HEADS = 2
_ALIKE = (
    "keys and values must have the same size, and not all of their channels "
    "can be removed"
)


def _names(call: Call) -> list[str]:
    """What each input is.

    Raises:
        ValueError: a tensor is something else.
    """
    positional = [*inspect.signature(call.op.call).parameters]
    given = [*zip(positional, call.args, strict=False), *call.kwargs.items()]
    found = [name for name, x in given if isinstance(x, Tensor)]
    if len(found) != len(call.inputs) or not {*found} <= _TERMS.keys():
        raise ValueError("it is called on other tensors")
    return found


def _terms(call: Call) -> Terms:
    names = _names(call)
    if not {"query", "key", "value"} <= {*names}:
        raise ValueError("it attends to constants")
    for name in ("bias", "mask"):
        other = call.argument(name)
        if other is None or isinstance(other, Tensor):
            continue
        shape = np.shape(other)
        if len(shape) > 2 and shape[-3] != 1:
            raise ValueError("it has a constant for each head")
    heads = {call.argument(n).shape[_HEADS] for n in ("key", "value")}
    if len(heads) > 1:
        raise ValueError("it has more heads of keys than of values")
    return Terms(tuple(_TERMS[name] for name in names), "bqhe")


@dataclasses.dataclass(frozen=True)
class DotProductAttention(Contraction):
    """`softmax(query . key) . value` for each head.

    Where several query heads share a head of keys, all of these go together.
    """

    kind: str = "dot product attention"
    terms: Callable[[Call], Terms] = _terms

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        flow = super().flow(call, inputs, units)
        # JAX wants values of the size of keys: one goes with the other.
        at = dict(zip(_names(call), inputs, strict=True))
        sizes = [
            lb.along(lb.collapse(at[name]), -1) for name in ("key", "value")
        ]
        key, value = (
            x if x is not None and x.size > 1 else None for x in sizes
        )
        if key is not None and value is not None and key.size == value.size:
            units.tie(key, value)
        else:
            for ids in (key, value):
                if ids is not None:
                    units.pin(ids, _ALIKE)
        return flow

    def repeats(self, call: Call, index: int) -> tuple[int, int]:
        heads = call.argument("query").shape[_HEADS]
        own = call.argument("key").shape[_HEADS]
        shared = _names(call)[index] in ("key", "value")
        if not shared or heads is None or own is None or own == 1:
            return _HEADS, 1
        return _HEADS, heads // own

    def zeroing(self, call: Call) -> Sequence[int]:
        return [_names(call).index("value")]

    def _tensors(self, call: Call) -> list[Tensor]:
        return list(call.inputs)

    def reaches(self, call: Call, known: Sequence[Known | None]) -> list[int]:
        value = known[_names(call).index("value")]
        if value is not None and (value.values == 0).all():
            return super().reaches(call, known)
        return by_argument(call, known)

    def sized(self, call: Call) -> bool:
        return True

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        """The scale stays what it was where the sizes of a key shrink."""
        kwargs = dict(call.kwargs)
        if flow.multiplied and call.argument("scale") is None:
            width = call.argument("query").shape[-1]
            return {}, *_scaled(call, 1 / math.sqrt(width))
        return {}, call.args, kwargs


def _scaled(call: Call, scale: float) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with a scale among them."""
    names = inspect.signature(call.op.call).parameters
    at = list(names).index("scale")
    if len(call.args) > at:
        return (*call.args[:at], scale, *call.args[at + 1 :]), call.kwargs
    return call.args, {**call.kwargs, "scale": scale}
