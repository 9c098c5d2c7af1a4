"""Layers of Keras that join tensors by their masks of time steps.

`Multiply` treats masked values as 1, and returns 0 where all operands are
masked; `Maximum` and `Minimum` ignore masked values.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.graph import finds_mask
from keras_gates.graphs.graph import masked_outputs
from keras_gates.graphs.private import calls_of
from keras_gates.graphs.private import mask_of
from keras_gates.graphs.private import origin_of
from keras_gates.graphs.private import returns_its_input
from keras_gates.surgeon.rules import merge as mg

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.rules.rule import Rule

UNKNOWN = "a mask that is known only when the model runs"
# A plan asks for the same calls again and again; what is recorded stays.
_FOUND: weakref.WeakKeyDictionary[Call, list[Any]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class ByMask(mg.Merge):
    """One of three rules, by the masks that the operands carry.

    Attributes:
        plain: for operands without masks.
        alike: for operands that all carry the same mask.
        apart: for any others.
    """

    plain: mg.Merge = mg.Merge("merge")
    alike: mg.Merge = mg.Merge("merge")
    apart: mg.Merge = mg.Merge("merge")

    def pick(self, call: Call) -> Rule:
        masks = carried(call)
        if all(mask is None for mask in masks):
            return self.plain
        same = all(mask is masks[0] for mask in masks)
        return self.alike if same and masks[0] is not UNKNOWN else self.apart


def carried(call: Call) -> list[Any]:
    """For each input of a call its mask, None, or UNKNOWN if it may have one.

    Outputs of a nested model have masks that are not recorded.
    """
    if call not in _FOUND:
        _FOUND[call] = [
            UNKNOWN if mask is None and _may_carry(kt, call.scopes) else mask
            for kt in call.site.node.input_tensors
            for mask in [mask_of(kt)]
        ]
    return _FOUND[call]


def joins_by_masks(call: Call) -> bool:
    """Whether the masks of its operands determine what a call computes."""
    layers = keras.layers.Multiply, keras.layers.Maximum, keras.layers.Minimum
    if not isinstance(call.op, layers):
        return False
    return any(mask is not None for mask in carried(call))


def is_near(call: Call) -> bool:
    """Whether what a call reads or puts out may carry a mask."""
    masks = [*carried(call), *map(mask_of, call.site.node.outputs)]
    return any(mask is not None for mask in masks)


def finder(call: Call) -> str:
    """What finds the mask that a call passes on with its output.

    A mask that is an argument in the record is found in any case. One that
    goes along with a tensor is lost where other operations make that tensor.

    Returns:
        A path, or "the loss of the model" for a mask that an output has; ""
        for nobody.
    """
    todo, seen = list(call.outputs), set()
    while todo:
        tensor = todo.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor.put_out:
            return "the loss of the model"
        for reader in tensor.consumers:
            node = reader.site.node
            pairs = zip(reader.inputs, node.input_tensors, strict=False)
            own = [kt for each, kt in pairs if each is tensor]
            found = any(finds_mask(node, kt) for kt in own)
            if found or joins_by_masks(reader):
                return f"'{reader.path}'"
            for kt in own:
                hands_on = masked_outputs(node, kt)
                todo += itertools.compress(reader.outputs, hands_on)
    return ""


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


def _takes_masks(node: Any) -> bool:
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


def _of_equals(arrays: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Known where all agree, whichever of them is taken."""
    first, *rest = np.broadcast_arrays(*arrays)
    same = np.all([first == x for x in rest], axis=0)
    return np.where(same, first, np.nan)


def _either(name: str, plain: mg.Merge) -> ByMask:
    rule = mg.Merge(name, function=_of_equals)
    return ByMask(name, plain=plain, alike=rule, apart=rule)


# What comes of constants depends on the masks, so that nothing is known.
MULTIPLY = ByMask(
    "multiply",
    plain=mg.MULTIPLY,
    alike=mg.Merge("multiply", absorbing=0.0),
    apart=mg.Merge("multiply"),
)
MAXIMUM = _either("maximum", mg.MAXIMUM)
MINIMUM = _either("minimum", mg.MINIMUM)
