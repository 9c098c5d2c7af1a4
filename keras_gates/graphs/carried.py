"""Masks of time steps that tensors carry while a model runs.

Keras notes a mask with a tensor, and a layer that takes one finds it there.
In the record of a model all of these masks are arguments; what is called
inside a nested model finds more, those of the tensors that the model is
called on. Here a mask is anything that stands for it: a tensor of the graph,
`UNKNOWN` for one that the graph has no tensor for, or None for no mask.

`surgeon/rules/masked.py` asks another question, whether a tensor may carry a
mask at all, and whether two carry the same. It goes by the record alone, in
which masks have identities that the graph has no tensors for.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import private

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Tensor
    from keras_gates.graphs.private import Node


class Unknown(enum.Enum):
    """Its one member is a mask that the graph has no tensor for."""

    MASK = enum.auto()


UNKNOWN = Unknown.MASK
Mask: TypeAlias = "Tensor | Unknown | None"
# From a symbolic tensor that is an argument to what stands for it.
Known: TypeAlias = "Callable[[keras.KerasTensor], Mask]"
# By the id of a symbolic tensor, the mask that it carries.
Masks: TypeAlias = "Mapping[int, Mask]"


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of a recorded call of a layer by name, with defaults."""
    signature = inspect.signature(node.operation.call)
    kinds = {p.kind for p in signature.parameters.values()}
    kwargs = node.arguments.kwargs
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        # Keras takes `training` for any layer.
        kwargs = {k: v for k, v in kwargs.items() if k in signature.parameters}
    bound = signature.bind(*node.arguments.args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def data(node: Node) -> list[keras.KerasTensor]:
    """The tensors that a recorded call of a model is on, without masks."""
    first = next(iter(arguments(node).values()))
    return [x for x in keras.tree.flatten(first) if _is_tensor(x)]


def found(node: Node, masks: Masks) -> dict[str, Any]:
    """Masks that a layer finds on its inputs, and that are in no argument.

    Args:
        node: the recorded call.
        masks: those that its inputs carry.

    Returns:
        `{name of an argument: mask, or structure of masks}`.
    """
    is_layer = isinstance(node.operation, keras.Layer)
    if not is_layer or not any(masks.get(id(x)) for x in node.input_tensors):
        return {}
    given = arguments(node)
    tensors = {k: v for k, v in given.items() if _holds_tensors(v)}
    names = private.mask_arguments(list(tensors))
    wanted = {
        name: keras.tree.map_structure(lambda x: masks.get(id(x)), value)
        for name, value in zip(names, tensors.values(), strict=True)
        if name in given and given[name] is None
    }
    return {k: v for k, v in wanted.items() if any(keras.tree.flatten(v))}


def found_again(
    node: Node, tensors: Mapping[int, keras.KerasTensor]
) -> dict[str, Any]:
    """The masks that a layer finds on others than the recorded inputs.

    Args:
        node: the recorded call.
        tensors: `{id of a symbolic tensor: the one in its place}`.

    Returns:
        As `found`, with symbolic masks.
    """
    masks = [
        (id(x), mask)
        for x in node.input_tensors
        if (mask := private.mask_of(tensors[id(x)])) is not None
    ]
    # By numbers from 1, since a symbolic tensor is neither true nor false.
    numbers: Any = {key: number for number, (key, _) in enumerate(masks, 1)}
    again: dict[str, Any] = keras.tree.map_structure(
        lambda number: number and masks[number - 1][1], found(node, numbers)
    )
    return again


def within(node: Node, masks: Masks, known: Known) -> list[Mask]:
    """The masks of the inputs of a nested model, where it is called.

    Args:
        node: the recorded call.
        masks: those that its inputs carry.
        known: from a symbolic tensor that is an argument to the mask.
    """
    before = keras.tree.flatten(_before(node, masks, known))
    own = [masks.get(id(x)) for x in data(node)]
    before += [None] * (len(own) - len(before))
    return [a or b for a, b in zip(before, own, strict=False)]


def behind(
    node: Node,
    masks: Masks,
    known: Known,
    inner: list[Mask] | None = None,
) -> list[Mask]:
    """The masks of the outputs of a recorded call.

    Args:
        node: the recorded call.
        masks: those that its inputs carry.
        known: as in `within`.
        inner: those that the outputs of a nested model carry already.
    """
    op, count = node.operation, len(node.outputs)
    if not isinstance(op, keras.Layer):
        carry = any(masks.get(id(x)) for x in node.input_tensors)
        returned = carry and private.returns_its_input(op)
        return [UNKNOWN if returned else None] * count
    inner = inner or [None] * count
    if all(inner):
        return inner
    before = None if _bare(node, masks) else _before(node, masks, known)
    after: list[Mask] = [None] * count
    if not any(keras.tree.flatten(before)):
        after = [_recorded(kt, known) for kt in node.outputs]
    elif op.supports_masking:
        after = keras.tree.flatten(_computed(node, before))
        after += [None] * (count - len(after))
    return [a or b for a, b in zip(inner, after, strict=False)]


def _recorded(kt: keras.KerasTensor, known: Known) -> Mask:
    mask = private.mask_of(kt)
    return None if mask is None else known(mask)


def _bare(node: Node, masks: Masks) -> bool:
    """Whether a layer is called on one argument, which carries no mask.

    So are most, and to bind arguments by name takes long.
    """
    given = node.arguments
    alone = len(given.args) == 1 and given.kwargs.get("mask") is None
    return alone and not any(masks.get(id(x)) for x in node.input_tensors)


def _before(node: Node, masks: Masks, known: Known) -> Any:
    """The mask that a layer is called with, in the structure of its input."""

    def argument(x: Any) -> Mask:
        if x is None:
            return None
        return known(x) if _is_tensor(x) else UNKNOWN

    given = arguments(node)
    if given.get("mask") is not None:
        return keras.tree.map_structure(argument, given["mask"])
    first = next(iter(given.values()))
    return keras.tree.map_structure(lambda x: masks.get(id(x)), first)


def _computed(node: Node, before: Any) -> Any:
    """What `compute_mask` makes of the masks, in the structure it returns."""
    op, flat = node.operation, keras.tree.flatten(before)
    if private.hands_mask_on(op):
        return before
    same = len({id(m) for m in flat}) == 1
    if type(op) is keras.layers.Concatenate:
        rank = len(node.outputs[0].shape)
        return flat[0] if same and op.axis % rank == rank - 1 else UNKNOWN
    if private.merges_masks(op):
        # Without some of its inputs it would have another mask.
        return flat[0] if same else UNKNOWN
    first = next(iter(arguments(node).values()))
    # The stand-ins are held, so that no other tensor can get the id of one.
    tokens: dict[int, tuple[Mask, keras.KerasTensor]] = {}

    def stand_in(mask: Mask, kt: keras.KerasTensor) -> Any:
        if mask is None:
            return None
        shape = getattr(mask, "shape", kt.shape[:2])
        new = keras.KerasTensor(shape, "bool")
        tokens[id(new)] = mask, new
        return new

    def back(x: Any) -> Mask:
        return x if x is None else tokens.get(id(x), (UNKNOWN,))[0]

    try:
        inputs = keras.tree.map_structure(
            lambda kt: keras.KerasTensor(kt.shape, kt.dtype), first
        )
        masks = keras.tree.map_structure(stand_in, before, first)
        return keras.tree.map_structure(back, op.compute_mask(inputs, masks))
    except Exception:  # a layer's code may raise anything for symbolic tensors
        return UNKNOWN


def _is_tensor(x: Any) -> bool:
    return isinstance(x, keras.KerasTensor)


def _holds_tensors(x: Any) -> bool:
    """Whether an argument holds tensors, and nothing but them and None."""
    flat = keras.tree.flatten(x)
    every = all(y is None or _is_tensor(y) for y in flat)
    return every and any(y is not None for y in flat)
