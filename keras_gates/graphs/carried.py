"""The masks of time steps that tensors carry while a model runs.

Keras notes a mask with a tensor, and a layer that takes one finds it there.
In the record of a model all of these masks are arguments; what is called
inside a nested model finds more, those of the tensors that the model is
called on. Here a mask is anything that stands for it: a tensor of the graph,
`UNKNOWN` for one that the graph has no tensor for, or None for no mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor

UNKNOWN = "a mask that the graph has no tensor for"
_MERGE = keras.layers.Add.__mro__[1]
# On some backend these return the very tensor that they are given.
_RETURNING = ("Cast", "Reshape", "BroadcastTo", "StopGradient", "Squeeze")


def arguments(node: Any) -> dict[Any, Any]:
    """The arguments of a recorded call of a layer by name, with defaults."""
    signature = inspect.signature(node.operation.call)
    kinds = {p.kind for p in signature.parameters.values()}
    kwargs = node.arguments.kwargs
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        # Keras takes `training` for any layer.
        kwargs = {k: v for k, v in kwargs.items() if k in signature.parameters}
    bound = signature.bind(*node.arguments.args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def data(node: Any) -> list[keras.KerasTensor]:
    """The tensors that a recorded call of a model is on, without masks."""
    first = next(iter(arguments(node).values()))
    return [x for x in keras.tree.flatten(first) if _is_tensor(x)]


def found(node: Any, masks: dict[int, None]) -> dict[Any, Any]:
    """Masks that a layer finds on its inputs, and that are in no argument.

    Args:
        node: the recorded call.
        masks: `{id of a symbolic tensor: mask}`.

    Returns:
        `{name of an argument: mask, or structure of masks}`.
    """
    is_layer = isinstance(node.operation, keras.Layer)
    if not is_layer or not any(masks.get(id(x)) for x in node.input_tensors):
        return {}
    given = arguments(node)
    tensors = {k: v for k, v in given.items() if _holds_tensors(v)}
    names = {f"{k}_mask": v for k, v in tensors.items()}
    if len(tensors) == 1:
        names = dict(zip(["mask"], tensors.values(), strict=True))
    wanted = {
        name: keras.tree.map_structure(lambda x: masks.get(id(x)), value)
        for name, value in names.items()
        if name in given and given[name] is None
    }
    return {k: v for k, v in wanted.items() if any(keras.tree.flatten(v))}


def within(
    node: Any, masks: dict[int, None], known: Callable[..., Any]
) -> list[None]:
    """The masks of the inputs of a nested model, where it is called.

    Args:
        node: the recorded call.
        masks: as in `found`.
        known: from a symbolic tensor that is an argument to the mask.
    """
    before = keras.tree.flatten(_before(node, masks, known))
    own = [masks.get(id(x)) for x in data(node)]
    before += [None] * (len(own) - len(before))
    return [a or b for a, b in zip(before, own, strict=False)]


def behind(
    node: Any,
    masks: dict[int, None],
    known: Callable[..., Any],
    inner: Any = None,
) -> list[None]:
    """The masks of the outputs of a recorded call.

    Args:
        node: the recorded call.
        masks: as in `found`.
        known: as in `within`.
        inner: those that the outputs of a nested model carry already.
    """
    op, count = node.operation, len(node.outputs)
    if not isinstance(op, keras.Layer):
        carry = any(masks.get(id(x)) for x in node.input_tensors)
        returned = carry and type(op).__name__ in _RETURNING
        return [UNKNOWN if returned else None] * count
    inner = inner or [None] * count
    if all(inner):
        return inner
    before = None if _bare(node, masks) else _before(node, masks, known)
    after = [None] * count
    if not any(keras.tree.flatten(before)):
        after = [_recorded(kt, known) for kt in node.outputs]
    elif op.supports_masking:
        after = keras.tree.flatten(_computed(node, before))
        after += [None] * (count - len(after))
    return [a or b for a, b in zip(inner, after, strict=False)]


def _recorded(kt: keras.KerasTensor, known: Callable[..., Any]) -> None:
    mask = getattr(kt, "_keras_mask", None)
    return None if mask is None else known(mask)


def _argument(x: keras.KerasTensor, known: Callable[..., Any]) -> Tensor:
    return known(x) if _is_tensor(x) else UNKNOWN


def _bare(node: Any, masks: dict[int, None]) -> bool:
    """Whether a layer is called on one argument, which carries no mask.

    So are most, and to bind arguments by name takes long.
    """
    arguments = node.arguments
    alone = len(arguments.args) == 1 and arguments.kwargs.get("mask") is None
    return alone and not any(masks.get(id(x)) for x in node.input_tensors)


def _before(
    node: Any, masks: dict[int, None], known: Callable[..., Any]
) -> None:
    """The mask that a layer is called with, in the structure of its input."""
    given = arguments(node)
    if given.get("mask") is not None:
        return keras.tree.map_structure(
            lambda x: x if x is None else _argument(x, known),
            given["mask"],
        )
    first = next(iter(given.values()))
    return keras.tree.map_structure(lambda x: masks.get(id(x)), first)


def _computed(node: Any, before: Tensor | str) -> str | None:
    """What `compute_mask` makes of the masks."""
    op, flat = node.operation, keras.tree.flatten(before)
    if getattr(op.compute_mask, "_is_default", False):
        return before
    same = len({id(m) for m in flat}) == 1
    if type(op) is keras.layers.Concatenate:
        rank = len(node.outputs[0].shape)
        return flat[0] if same and op.axis % rank == rank - 1 else UNKNOWN
    if type(op).compute_mask is _MERGE.compute_mask:
        # Without some of its inputs it would have another mask.
        return flat[0] if same else UNKNOWN
    first = next(iter(arguments(node).values()))
    tokens = {}

    def stand_in(mask: Tensor, kt: keras.KerasTensor) -> keras.KerasTensor:
        if mask is None:
            return None
        shape = getattr(mask, "shape", kt.shape[:2])
        new = keras.KerasTensor(shape, "bool")
        tokens[id(new)] = mask, new
        return new

    def back(x: Any) -> None:
        return x if x is None else tokens.get(id(x), (UNKNOWN,))[0]

    try:
        inputs = keras.tree.map_structure(
            lambda kt: keras.KerasTensor(kt.shape, kt.dtype), first
        )
        masks = keras.tree.map_structure(stand_in, before, first)
        return keras.tree.map_structure(back, op.compute_mask(inputs, masks))
    except Exception:  # whatever a layer's own code says to symbols
        return UNKNOWN


def _is_tensor(x: keras.KerasTensor) -> bool:
    return isinstance(x, keras.KerasTensor)


def _holds_tensors(x: Any) -> Any:
    flat = keras.tree.flatten(x)
    every = all(y is None or _is_tensor(y) for y in flat)
    return every and any(y is not None for y in flat)
