"""Sees through a layer: runs its `call` on symbolic tensors.

Keras records what a layer without a rule computes, as for a model: the `call`
of a copy is run on symbolic inputs, with symbolic tensors in place of its
variables. The result is a functional model of the operations and layers that
were called. The user's layer is not touched.

This does not represent a `call` with side effects: if it reads values of
variables, assigns them, adds losses, or draws random numbers, this is detected,
and the layer is not opened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs import several_sizes
from keras_gates.graphs.call_trace import UNLIKE
from keras_gates.graphs.call_trace import CallTrace
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.several_sizes import Given
from keras_gates.graphs.several_sizes import Sizes
from keras_gates.graphs.stand_ins import ReadsInside
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.stand_ins import owners
from keras_gates.graphs.variables import copy_state

if TYPE_CHECKING:
    from keras_gates.graphs.copies import Copies
    from keras_gates.graphs.holders import Holders
    from keras_gates.graphs.private import Node

_SHOWN = 160
_INFERRED = "compute_output_shape()` method. Error encountered: "
_COLORS = re.compile("\x1b\\[[0-9;]*m")


def trace(
    node: Node,
    copies: Copies,
    owned: bool,
    others: Sequence[Opened] = (),
) -> Opened | Opaque:
    """What the layer of a recorded call is made of.

    Args:
        node: the recorded call.
        copies: makes the copy of the layer.
        owned: whether the layer is part of a copy already, and may be called.
        others: what it is made of where it is called in other ways; what is
            used there and here is the same.
    """
    layer = node.operation
    if others:
        found = _traced(node, others[0].twin, others[-1].holders)
        apart = isinstance(found, Opened) and _apart(found, others)
        return Opaque(apart) if apart else found
    try:
        twin = layer if owned else copy_of(layer, copies)
    except Exception as error:
        return Opaque(f"it can't be copied: {told(error)}")
    if len(private.sublayers(twin)) != len(private.sublayers(layer)):
        return Opaque(
            "it can't be copied: it holds a layer that also belongs to a "
            "model in it"
        )
    return _traced(node, twin, None)


def _traced(
    node: Node, twin: keras.Layer, before: Holders | None
) -> Opened | Opaque:
    """What a copy of a layer is made of where the layer is called.

    Args:
        node: the recorded call.
        twin: the copy.
        before: what holds its weights in other ways of calling it.
    """
    found = _attempt(CallTrace(node, twin, before=before))
    shapes = [tuple(x.shape) for x in node.input_tensors]
    if isinstance(found, Opened) or not any(None in x for x in shapes):
        return found
    if found.reason == UNLIKE:
        # It goes by whether sizes are known, as they may be or not.
        return found
    for sizes in several_sizes.tried(shapes):
        found = _attempt(CallTrace(node, twin, sizes=sizes, before=before))
        if isinstance(found, Opened):
            break
    return found


def _apart(found: Opened, others: Sequence[Opened]) -> str:
    """Why ways of calling a layer do not share all of its weights, or "".

    A layer inside is called in one of them, say, and in another an operation
    reads its kernel.
    """
    ways = [found, *others]
    bare = {id(variable): variable for x in ways for variable, _ in x.bare}
    held = {
        id(variable)
        for each in ways
        for op in _called(each.model)
        if isinstance(op, keras.Layer)
        for variable in op.variables
    }
    for number, variable in bare.items():
        if number in held:
            return f"it uses the variable '{variable.name}' in two ways"
    return ""


def at_size(node: Node, twin: keras.Layer, size: int) -> Opened | Opaque:
    """What a layer is made of for one size.

    Args:
        node: the recorded call.
        twin: a copy of its layer, which may be called.
        size: what sizes are that the call leaves open, samples aside.
    """
    found = Opaque("")
    for more in (size + 2, size - 2, 2 * size):
        sizes = Sizes(2, size), Sizes(3, size), Sizes(2, max(1, more))
        known = _attempt(CallTrace(node, twin, sizes=sizes))
        if isinstance(known, Opened):
            return known
        found = known
    return found


def at_shapes(
    node: Node, twin: keras.Layer, shapes: Sequence[tuple[int | None, ...]]
) -> Iterator[Opened]:
    """What a layer is made of for inputs of these shapes, in one or two ways.

    Args:
        node: the recorded call.
        twin: a copy of its layer, which may be called.
        shapes: those of its inputs; the number of samples may be open.
    """
    # What takes windows for samples puts whole images together again.
    counts = [2 * shape[0] for shape in shapes[:1] if shape[0]]
    for samples in (None, 2):
        given = Given(samples, None, tuple(shapes))
        trace = CallTrace(
            node, twin, sizes=[given], samples=counts or sampled.SAMPLES
        )
        found = _attempt(trace)
        if isinstance(found, Opened):
            yield found


def _attempt(each: CallTrace) -> Opened | Opaque:
    first = ""
    while True:
        failed: list[keras.Layer] = []
        try:
            return _opened(each, failed)
        except ReadsInside as error:
            first = first or str(error)
            # Once more, with stand-ins for the weights of layers inside.
            if not each.reads(owners(each.twin, error.variables)):
                return Opaque(first)
        except SideEffect as error:
            return Opaque(first or str(error))
        except Exception as error:  # the user's code may raise anything
            why = f"its `call` can't be traced: {told(error)}"
            first = first or why
            # Once more, with what the layer inside calls in its place.
            if not each.inlines(failed):
                return Opaque(first)


def _opened(each: CallTrace, failed: list[keras.Layer]) -> Opened:
    # It warns, or Keras does, where the layer itself is called.
    with contextlib.ExitStack() as stack:
        refused = stack.enter_context(
            private.any_call_recorded(each.inlined, failed)
        )
        stack.enter_context(private.any_key_recorded())
        stack.enter_context(private.any_activation_recorded())
        stack.enter_context(_silent())
        found = each.opened()
    if len(each.twin.variables) > len(each.node.operation.variables):
        # What is called past Keras, as in TimeDistributed, is built late.
        raise SideEffect(
            "it has not made all of its weights yet; call the model on a batch "
            "first"
        )
    names = [op.name for op in _called(found.model) if op in refused]
    if names and not found.fixed:
        fixed = f"it calls '{names[0]}' in a way that no functional model can"
        return dataclasses.replace(found, fixed=fixed)
    return found


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _called(model: keras.Model) -> list[keras.Operation]:
    return [node.operation for node in private.nodes_of(model)]


def trace_model(twin: keras.Model, node: Node) -> Opened:
    """What a subclassed model is made of.

    Args:
        twin: a copy of it.
        node: a symbolic call of another copy, whose inputs have the names
            that those of the new model are to have.

    Raises:
        SideEffect: `call` does more than compute its outputs.
    """
    names = [x.name for x in node.input_tensors]
    return CallTrace(node, twin, names).opened()


def way(node: Node) -> str:
    """How a layer is called: what two calls of one have in common."""

    def kind(x: Any) -> Any:
        if isinstance(x, keras.KerasTensor):
            return tuple(x.shape), x.dtype
        return repr(x)

    given = node.arguments
    return repr(keras.tree.map_structure(kind, (given.args, given.kwargs)))


def told(error: Exception) -> str:
    """An error as one short line."""
    cause = private.cause_of(error)
    text = _COLORS.sub("", " ".join(str(cause).split()))
    # Keras says first in which `call` it was, and that it could not infer the
    # shape of what comes out; last, with what arguments.
    for opening in ("Exception encountered when calling ", _INFERRED):
        text = text.partition(opening)[2] or text
    text = text.partition(" Arguments received by ")[0].rstrip(".")
    short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{type(cause).__name__}: {short}"


def copy_of(layer: keras.Layer, copies: Copies) -> keras.Layer:
    """A copy that shares nothing with the layer."""
    twin, complete = copies.whole(layer, apart=True)
    if not complete:
        if not twin.built:
            twin.build_from_config(layer.get_build_config())
        copy_state(layer, twin)
    return twin
