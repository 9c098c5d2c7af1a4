"""Look into a layer: its `call` is run on symbolic tensors.

What a layer without a rule computes, Keras records as it does for a model:
the `call` of a copy is run on symbolic inputs, with symbolic tensors in the
places of its variables. The outcome is a functional model of the operations
and layers that were called. The user's layer is not touched.

A `call` that does more than compute its outputs can't be told by that:
whatever it reads of variables at once, assigns, adds to the losses, or draws,
is noticed, and the layer stays closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras

from keras_gates.graphs import bare_weights
from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.stand_ins import in_place
from keras_gates.graphs.variables import copy_state

if TYPE_CHECKING:
    from keras_gates.graphs.copies import Copies
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.stand_ins import StandIn

_SHOWN = 160


def trace(node: Node, copies: Copies, owned: bool) -> Opened | Opaque:
    """What the layer of a recorded call is made of.

    Args:
        node: the recorded call.
        copies: makes the copy of the layer.
        owned: whether the layer is part of a copy already, and may be called.
    """
    layer = node.operation
    try:
        twin = layer if owned else _twin(layer, copies)
    except Exception as error:
        return Opaque(f"it can't be copied: {_told(error)}")
    try:
        return _Trace(node, twin).opened()
    except SideEffect as error:
        return Opaque(str(error))
    except Exception as error:  # whatever the user's code says to symbols
        return Opaque(f"its `call` can't be traced: {_told(error)}")


def _told(error: Exception) -> str:
    """An error as one short line."""
    text = " ".join(str(error).split())
    short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{type(error).__name__}: {short}"


def _twin(layer: keras.Layer, copies: Copies) -> keras.Layer:
    """A copy that shares nothing with the layer."""
    twin, complete = copies.whole(layer, apart=True)
    if not complete:
        if not twin.built:
            twin.build_from_config(layer.get_build_config())
        copy_state(layer, twin)
    return twin


class _Run(NamedTuple):
    """What a run of a `call` gave.

    Attributes:
        outputs: its outputs, flat.
        weights: what stood for its variables.
    """

    outputs: list[Any]
    weights: list[StandIn]

    def record(self, inputs: list[keras.KerasTensor]) -> list[Any]:
        """What was called on what; equal for runs that did the same."""
        sources = [*inputs, *self.weights]
        numbers = {id(x): n for n, x in enumerate(sources)}

        def told(x: Any) -> Any:
            return numbers.get(id(x), repr(x))

        found = []
        for node in private.recorded_before(self.outputs, sources):
            op, given = node.operation, node.arguments
            kwargs = {k: v for k, v in given.kwargs.items() if k != "training"}
            flat = keras.tree.flatten((given.args, kwargs))
            what = id(op) if isinstance(op, keras.Layer) else _told_of(op)
            found.append((what, sorted(kwargs), [told(x) for x in flat]))
            for kt in node.outputs:
                numbers[id(kt)] = len(numbers)
        return [*found, [told(x) for x in self.outputs]]


def _told_of(op: keras.Operation) -> tuple[Any, ...]:
    """An operation as its class and arguments; names count on."""
    private_names = private.operation_names()
    held = {k: repr(v) for k, v in vars(op).items() if k not in private_names}
    return type(op), tuple(sorted(held.items()))


class _Trace:
    """One run of a `call`.

    Args:
        node: the recorded call.
        twin: a copy of its layer.
    """

    def __init__(self, node: Node, twin: keras.Layer) -> None:
        self.node = node
        self.twin = twin
        self.inputs: list[keras.KerasTensor] = []

    def opened(self) -> Opened:
        """The layer as a model.

        Raises:
            SideEffect: `call` does more than compute its outputs.
        """
        args, kwargs = self._arguments()
        run = self._run(args, kwargs)
        self._check_outputs(run.outputs)
        fixed = ""
        if not self._same_in_training(args, kwargs, run):
            fixed = "it computes something else in training"
        model, bare = bare_weights.written_out(
            self.twin, self.inputs, run.outputs, run.weights
        )
        if not sampled.agree(self.twin, self.node, model):
            raise SideEffect(
                "its `call` on symbolic tensors is not what it computes"
            )
        fixed = fixed or self._other_masks(model)
        layer = self.node.operation
        return Opened(layer, self.twin, model, bare, fixed)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of the recorded call, on inputs of their own."""
        made: dict[int, list[keras.KerasTensor]] = {}

        def new(x: Any) -> Any:
            if not isinstance(x, keras.KerasTensor):
                return x
            name = f"input_{len(self.inputs)}"
            batched = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=name)
            self.inputs.append(batched)
            made.setdefault(id(x), []).append(batched)
            return batched

        given = self.node.arguments
        args, kwargs = keras.tree.map_structure(new, (given.args, given.kwargs))
        for old, fresh in zip(
            self.node.input_tensors, self.inputs, strict=True
        ):
            mask = private.mask_of(old)
            if mask is not None and id(mask) in made:
                private.set_mask(fresh, made[id(mask)][0])
        return args, kwargs

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Run:
        """Run `call` once."""
        twin = self.twin
        convert = private.input_conversion(twin)
        args, kwargs = keras.tree.map_structure(convert, (args, kwargs))
        before = _held(twin)
        scope = private.computing(twin)
        with _watched(), in_place(twin) as weights, scope:
            outputs = twin.call(*args, **kwargs)
        _check_attributes(before, _held(twin))
        return _Run(keras.tree.flatten(outputs), weights)

    def _check_outputs(self, outputs: list[Any]) -> None:
        expected = [(tuple(x.shape), x.dtype) for x in self.node.outputs]
        got = [
            (tuple(x.shape), x.dtype)
            if isinstance(x, keras.KerasTensor)
            else type(x).__name__
            for x in outputs
        ]
        if got != expected:
            raise SideEffect(
                f"its `call` gives {got} when it is traced, and the model has "
                f"{expected}"
            )

    def _same_in_training(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: _Run,
    ) -> bool:
        """Whether the same parts are called when the layer is trained."""
        if not private.takes_training(self.twin) or "training" in kwargs:
            return True
        try:
            trained = self._run(args, {**kwargs, "training": True})
        except Exception:  # noise, or a state that is updated
            return False
        return trained.record(self.inputs) == run.record(self.inputs)

    def _other_masks(self, model: keras.Model) -> str:
        """Why the masks of the outputs are others than the layer's, or ""."""
        pairs = zip(self.node.outputs, model.outputs, strict=True)
        for old, new in pairs:
            masks = private.mask_of(old), private.mask_of(new)
            if (masks[0] is None) != (masks[1] is None):
                return "its parts hand on a mask of time steps otherwise"
        return ""


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Within, what a `call` does to variables and losses is noticed."""
    with private.watching() as seen:
        yield
    if seen.losses:
        raise SideEffect("its `call` adds a loss")
    if seen.updated:
        names = ", ".join(f"'{v.name}'" for v in seen.updated)
        raise SideEffect(
            f"its `call` changes the state of {names}: it counts, or draws "
            "random numbers"
        )
    if seen.read:
        names = ", ".join(f"'{v.name}'" for v in seen.read)
        raise SideEffect(
            f"its `call` computes with the values of {names}, a variable that "
            "none of its attributes holds"
        )


def _held(layer: keras.Layer) -> dict[str, list[Any]]:
    """The attributes of a layer, containers by what is in them."""
    return {
        name: keras.tree.flatten(value)
        for name, value in private.attributes_of(layer).items()
        if name not in private.OF_CALLS and not private.is_of_tensorflow(name)
    }


def _check_attributes(
    before: dict[str, list[Any]], after: dict[str, list[Any]]
) -> None:
    """Refuse a `call` that leaves something behind for the next one."""
    for name, values in after.items():
        old = before.get(name, [None])
        if [*map(id, old)] == [*map(id, values)]:
            continue
        noted = all(isinstance(x, keras.KerasTensor) for x in values)
        if noted and all(x is None for x in old):
            continue  # a note for the user, which nothing can have read
        raise SideEffect(f"its `call` sets its attribute `{name}`")
