"""Calls that are recorded where Keras would refuse them, and their records."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
from keras.src.activations import activations as _activations
from keras.src.backend import compute_output_spec
from keras.src.layers import layer as _layer_module
from keras.src.ops.node import Node as _Node

from keras_gates.graphs.private.layers import set_on
from keras_gates.graphs.private.records import Node
from keras_gates.graphs.private.records import origin_of

# Assumes: Keras makes the `Node` of a layer's call in the module of `Layer`.
# The lowest does not, and then nothing is recorded that it refuses.
RECORDS_ANY_CALL = hasattr(_layer_module, "Node")


@contextlib.contextmanager
def any_call_recorded(
    inlined: Sequence[keras.Layer] = (),
    failed: list[keras.Layer] | None = None,
) -> Iterator[list[keras.Layer]]:
    """Within, layers are called on symbolic tensors that refuse it otherwise.

    What returns None among its outputs is recorded without, and what says
    nothing, or an error, of the outputs of a call is run to know them.

    Assumes: a symbolic call of a layer asks its `symbolic_call` for them,
    which makes its `Node` as the module of `Layer` knows it;
    `compute_output_spec` of the backend runs a function on tensors without
    values.

    Args:
        inlined: layers whose calls are not recorded, but what they call.
        failed: gets the layers that can't be called so either.

    Yields:
        The layers that Keras itself would have refused to call.
    """
    refused: list[keras.Layer] = []
    if not RECORDS_ANY_CALL:
        yield refused
        return
    ask = keras.Layer.symbolic_call

    def symbolic_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if any(layer is each for each in inlined):
            return layer.call(*args, **kwargs)
        try:
            return ask(layer, *args, **kwargs)
        except Exception:
            pass
        try:
            found = _specification(layer, args, kwargs)
        except Exception:
            if failed is not None:
                failed.append(layer)
            raise
        refused.append(layer)
        return found

    def node(operation: Any, outputs: Any = None, **kwargs: Any) -> Any:
        if any(operation is each for each in inlined):
            return None
        flat = keras.tree.flatten(outputs)
        tensors = [x for x in flat if x is not None]
        if len(tensors) < len(flat):
            refused.append(operation)
        return _Node(operation=operation, outputs=tensors, **kwargs)

    with contextlib.ExitStack() as stack:
        for holder, name, value in (
            (keras.Layer, "symbolic_call", symbolic_call),
            (_layer_module, "Node", node),
        ):
            stack.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, value)
        yield refused


@contextlib.contextmanager
def symbolic_call_set(
    cls: type[Any], call: Callable[..., Any]
) -> Iterator[None]:
    """Within, what an operation of a class does with symbolic tensors.

    Assumes: a call of it on those is one of its `symbolic_call`.
    """
    own = vars(cls).get("symbolic_call")
    cls.symbolic_call = call
    try:
        yield
    finally:
        if own is None:
            del cls.symbolic_call
        else:
            cls.symbolic_call = own


class _Passing:
    """A module of Keras whose conversion lets symbolic tensors pass."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def convert_to_tensor(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, keras.KerasTensor):
            return x
        return self._module.convert_to_tensor(x, *args, **kwargs)


@contextlib.contextmanager
def any_activation_recorded() -> Iterator[None]:
    """Within, functions of `keras.activations` are recorded, whichever it is.

    Assumes: those that refuse symbolic tensors convert them first, by the
    `backend` of their module; `mish` asks its class then.
    """
    mish: Any = getattr(_activations, "Mish", None)
    with contextlib.ExitStack() as stack:
        backend = _activations.backend
        stack.callback(setattr, _activations, "backend", backend)
        _activations.backend = _Passing(backend)
        if mish is not None:
            direct = mish.static_call
            stack.callback(setattr, mish, "static_call", staticmethod(direct))
            mish.static_call = staticmethod(
                lambda x: (
                    mish()(x) if isinstance(x, keras.KerasTensor) else direct(x)
                )
            )
        yield


@contextlib.contextmanager
def any_key_recorded() -> Iterator[None]:
    """Within, `x[None]` and `x[:2]` are recorded for symbolic tensors.

    Assumes: Keras records such a key where it is in a tuple, as `x[None,]`.
    """
    take = keras.KerasTensor.__getitem__

    def recorded(self: Any, key: Any) -> Any:
        if isinstance(key, (slice, type(None), type(Ellipsis))):
            key = (key,)
        return take(self, key)

    keras.KerasTensor.__getitem__ = recorded
    try:
        yield
    finally:
        keras.KerasTensor.__getitem__ = take


def _specification(
    layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The outputs of a symbolic call, by running it; None stays None."""
    made: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        made[:] = [layer.call(*args, **kwargs)]
        return [x for x in keras.tree.flatten(made) if x is not None]

    tensors = iter(compute_output_spec(call, *args, **kwargs))
    (found,) = keras.tree.map_structure(
        lambda x: None if x is None else next(tensors), made
    )
    return found


@contextlib.contextmanager
def attributes_set(op: Any, values: dict[str, Any]) -> Iterator[None]:
    """Within, attributes of the instance, past what tracks them.

    Assumes: they are in its `__dict__`.
    """
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(set_on(op, name, value))
        yield


@contextlib.contextmanager
def attributes_kept(op: Any) -> Iterator[None]:
    """After it, the instance has the attributes that it had before.

    Assumes: as `attributes_set`.
    """
    state = vars(op)
    before = dict(state)
    try:
        yield
    finally:
        for name in state.keys() - before.keys():
            del state[name]
        state.update(before)


def recorded_before(
    outputs: list[keras.KerasTensor], inputs: list[keras.KerasTensor]
) -> list[Node]:
    """The recorded calls between symbolic tensors, in an order to run them.

    Assumes: as `origin_of` and `calls_of`; what comes of no call has no
    operation there.

    Args:
        outputs: what comes out.
        inputs: where to stop.
    """
    ends = {id(x) for x in inputs}
    order: list[Node] = []
    seen: set[int] = set()
    pending = [(node, False) for kt in outputs for node in _made_by(kt, ends)]
    pending.reverse()
    while pending:
        node, done = pending.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            pending.append((node, True))
            before = [n for x in node.input_tensors for n in _made_by(x, ends)]
            pending += [(n, False) for n in reversed(before)]
    return order


def _made_by(kt: keras.KerasTensor, ends: set[int]) -> list[Node]:
    if id(kt) in ends or not hasattr(kt, "_keras_history"):
        return []
    op, number, _ = origin_of(kt)
    if op is None:
        return []
    node = op._inbound_nodes[number]
    return [] if node.is_input else [node]


def made_of(kt: keras.KerasTensor) -> list[keras.KerasTensor]:
    """What the call reads whose output a symbolic tensor is.

    Assumes: as `recorded_before`.
    """
    return [x for node in _made_by(kt, set()) for x in node.input_tensors]


def readers_of(
    outputs: list[keras.KerasTensor],
) -> dict[int, list[Node | None]]:
    """By the id of a symbolic tensor, the recorded calls that read it.

    Once for each time they do; None for an output. Assumes: as
    `recorded_before`.
    """
    found: dict[int, list[Node | None]] = {id(kt): [None] for kt in outputs}
    for node in recorded_before(outputs, []):
        for kt in node.input_tensors:
            found.setdefault(id(kt), []).append(node)
    return found
