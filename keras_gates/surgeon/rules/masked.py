"""Layers of Keras that join tensors by their masks of time steps.

`Multiply` takes what a mask hides for 1, and what all masks hide comes out
as 0; `Maximum` and `Minimum` leave out what a mask hides.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs.private import calls_of
from keras_gates.graphs.private import mask_of
from keras_gates.graphs.private import origin_of
from keras_gates.graphs.private import returns_its_input
from keras_gates.surgeon.rules import merge as mg

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Rule

UNKNOWN = "a mask that shows only when the model runs"
# A plan asks for the same calls again and again; what is recorded stays.
_FOUND = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class ByMask(mg.Merge):
    """One of three rules, by the masks that the operands carry.

    Attributes:
        plain: for operands without masks.
        alike: for operands that all carry the same mask.
        apart: for any others.
    """

    plain: mg.Merge = None
    alike: mg.Merge = None
    apart: mg.Merge = None

    def pick(self, call: Call) -> Rule:
        masks = carried(call)
        if all(mask is None for mask in masks):
            return self.plain
        same = all(mask is masks[0] for mask in masks)
        return self.alike if same and masks[0] is not UNKNOWN else self.apart


def carried(call: Call) -> list[None]:
    """For each input of a call its mask, None, or UNKNOWN if it may have one.

    What comes out of a nested model has masks that its record has not.
    """
    if call not in _FOUND:
        _FOUND[call] = [
            UNKNOWN if mask is None and _may_carry(kt, call.scopes) else mask
            for kt in call.site.node.input_tensors
            for mask in [mask_of(kt)]
        ]
    return _FOUND[call]


def joins_by_masks(call: Call) -> bool:
    """Whether masks that its operands carry decide what a call computes."""
    layers = keras.layers.Multiply, keras.layers.Maximum, keras.layers.Minimum
    if not isinstance(call.op, layers):
        return False
    return any(mask is not None for mask in carried(call))


def is_near(call: Call) -> Any:
    """Whether what a call reads or puts out may carry a mask."""
    masks = [*carried(call), *map(mask_of, call.site.node.outputs)]
    return any(mask is not None for mask in masks)


def _may_carry(kt: keras.KerasTensor, scopes: tuple[Any, ...]) -> bool:
    """Whether a tensor without a recorded mask may have one all the same."""
    todo, seen = [(kt, tuple(scopes))], set()
    while todo:
        kt, scopes = todo.pop()
        if (id(kt), len(scopes)) in seen:
            continue
        seen.add((id(kt), len(scopes)))
        op, index, _ = origin_of(kt)
        if isinstance(op, keras.layers.InputLayer):
            if not scopes:
                continue
            node, scopes = scopes[-1].site.node, scopes[:-1]
            if _takes_masks(node):
                return True
        else:
            node = calls_of(op)[index]
            if _makes_masks(op) or (_is_model(op) and _takes_masks(node)):
                return True
            if not _hands_on(op):
                continue
        todo += [(x, scopes) for x in node.input_tensors if mask_of(x) is None]
    return False


def _is_model(op: keras.Operation) -> bool:
    return isinstance(op, keras.Model)


def _takes_masks(node: Any) -> Any:
    """Whether a nested model is called on what carries masks."""
    given = keras.tree.flatten(node.arguments.kwargs.get("mask"))
    found = [*given, *map(mask_of, node.input_tensors)]
    return any(mask is not None for mask in found)


def _makes_masks(op: keras.Operation) -> bool:
    """Whether a mask comes about inside a nested model."""
    if not _is_model(op):
        return False
    if not hasattr(op, "operations"):
        return True
    return any(
        _makes_masks(inner)
        or any(
            mask_of(kt) is not None for n in calls_of(inner) for kt in n.outputs
        )
        for inner in op.operations
    )


def _hands_on(op: keras.Operation) -> bool:
    if isinstance(op, keras.Layer):
        return _is_model(op) or op.supports_masking
    return returns_its_input(op)


def _uncertain(arrays: Any) -> Any:
    """Nothing is known: the values depend on the masks."""
    shape = np.broadcast_shapes(*(x.shape for x in arrays))
    return np.full(shape, np.nan)


def _of_equals(arrays: Any) -> Any:
    """Known where all agree, whichever of them is taken."""
    first, *rest = np.broadcast_arrays(*arrays)
    same = np.all([first == x for x in rest], axis=0)
    return np.where(same, first, np.nan)


def _either(name: str, plain: Rule) -> Rule:
    rule = mg.Merge(name, function=_of_equals)
    return ByMask(name, plain=plain, alike=rule, apart=rule)


MULTIPLY = ByMask(
    "multiply",
    plain=mg.MULTIPLY,
    alike=mg.Merge("multiply", function=_uncertain, absorbing=0.0),
    apart=mg.Merge("multiply", function=_uncertain),
)
MAXIMUM = _either("maximum", mg.MAXIMUM)
MINIMUM = _either("minimum", mg.MINIMUM)
