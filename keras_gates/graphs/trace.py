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
import dataclasses
import math
import re
import warnings
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_gates.graphs import bare_weights
from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs import several_sizes
from keras_gates.graphs.arguments import each_in_place
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.opened import Place
from keras_gates.graphs.several_sizes import Given
from keras_gates.graphs.several_sizes import Recorded
from keras_gates.graphs.several_sizes import Revision
from keras_gates.graphs.several_sizes import Sizes
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.stand_ins import in_place
from keras_gates.graphs.variables import copy_state
from keras_gates.graphs.variables import values_of

if TYPE_CHECKING:
    from keras_gates.graphs.copies import Copies
    from keras_gates.graphs.private import Node
    from keras_gates.graphs.stand_ins import StandIn

_SHOWN = 160
_TRAINING = "training"
_COLORS = re.compile("\x1b\\[[0-9;]*m")
_OTHERWISE = "it computes something else in training"
_UNLIKE = "its `call` on symbolic tensors is not what it computes"
_SIZED = (
    "it works with sizes that are open, and what it is made of is known for "
    "single ones"
)


def trace(node: Node, copies: Copies, owned: bool) -> Opened | Opaque:
    """What the layer of a recorded call is made of.

    Args:
        node: the recorded call.
        copies: makes the copy of the layer.
        owned: whether the layer is part of a copy already, and may be called.
    """
    layer = node.operation
    try:
        twin = layer if owned else copy_of(layer, copies)
    except Exception as error:
        return Opaque(f"it can't be copied: {told(error)}")
    if len(private.sublayers(twin)) != len(private.sublayers(layer)):
        return Opaque(
            "it can't be copied: a model in it has layers that are its own, too"
        )
    found = _attempt(_Trace(node, twin))
    shapes = [tuple(x.shape) for x in node.input_tensors]
    if isinstance(found, Opened) or not any(None in x for x in shapes):
        return found
    if found.reason == _UNLIKE:
        # It goes by whether sizes are known, as they may be or not.
        return found
    for sizes in several_sizes.tried(shapes):
        found = _attempt(_Trace(node, twin, sizes=sizes))
        if isinstance(found, Opened):
            break
    return found


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
        known = _attempt(_Trace(node, twin, sizes=sizes))
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
    for samples in (None, 2):
        given = Given(samples, None, tuple(shapes))
        found = _attempt(_Trace(node, twin, sizes=[given]))
        if isinstance(found, Opened):
            yield found


def _attempt(each: _Trace) -> Opened | Opaque:
    try:
        # It warns, or Keras does, where the layer itself is called.
        with private.any_call_recorded() as refused, _silent():
            found = each.opened()
        names = [op.name for op in _called(found.model) if op in refused]
        if names and not found.fixed:
            fixed = f"it calls '{names[0]}' as no functional model can"
            return dataclasses.replace(found, fixed=fixed)
        return found
    except SideEffect as error:
        return Opaque(str(error))
    except Exception as error:  # whatever the user's code says to symbols
        return Opaque(f"its `call` can't be traced: {told(error)}")


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
    return _Trace(node, twin, names).opened()


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
    text = _COLORS.sub("", " ".join(str(error).split()))
    # Keras says first in which `call` it was.
    text = text.partition("Exception encountered when calling ")[2] or text
    short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{type(error).__name__}: {short}"


def copy_of(layer: keras.Layer, copies: Copies) -> keras.Layer:
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
            op, given = node.operation, node.arguments.kwargs.get(_TRAINING)
            asked = isinstance(op, keras.Layer) and private.takes_training(op)
            if asked and given is not None and bool(given) == training:
                return op
        return None


def _record(outputs: list[Any], sources: list[Any]) -> list[Any]:
    """What was called on what between symbolic tensors, as plain data."""
    numbers = {id(x): n for n, x in enumerate(sources)}

    def told(x: Any) -> Any:
        return numbers[id(x)] if id(x) in numbers else _constant(x)

    found: list[Any] = []
    for node in private.recorded_before(outputs, sources):
        op, given = node.operation, node.arguments
        kwargs = {k: v for k, v in given.kwargs.items() if k != _TRAINING}
        flat = keras.tree.flatten((given.args, kwargs))
        what = id(op) if isinstance(op, keras.Layer) else _operation(op)
        found.append((what, sorted(kwargs), [told(x) for x in flat]))
        for kt in node.outputs:
            numbers[id(kt)] = len(numbers)
    return [*found, [told(x) for x in outputs]]


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


class _Trace:
    """One run of a `call`.

    Args:
        node: the recorded call.
        twin: a copy of its layer.
        names: those of the inputs; made up by default.
        sizes: what open sizes are taken for, and others to compare with; by
            default they are open.
    """

    def __init__(
        self,
        node: Node,
        twin: keras.Layer,
        names: Sequence[str] = (),
        sizes: Sequence[Sizes] = (),
    ) -> None:
        self.node = node
        self.twin = twin
        self.names = names
        self.sizes = sizes[0] if sizes else None
        self.others = [_Trace(node, twin, names, [x]) for x in sizes[1:]]
        self.inputs: list[keras.KerasTensor] = []

    def opened(self) -> Opened:
        """The layer as a model.

        Raises:
            SideEffect: `call` does more than compute its outputs.
        """
        args, kwargs = self.arguments()
        default = private.default_of_training(self.twin)
        run = self.run(args, kwargs, kwargs.get(_TRAINING, default))
        self._check_outputs(run.outputs, self.sizes is not None)
        stripped = False
        with _other_values(self.twin):
            # What is frozen of values, or left out, shows.
            run, trained, fixed = self._in_both(args, kwargs, run)
            model, bare = self._compared(run, stripped)
            with contextlib.suppress(Exception):
                if trained is not None:
                    # What is called in training only may do nothing else.
                    model, bare = self._compared(trained, True)
                    run, stripped, fixed = trained, True, ""
        if bare:
            model, bare = self._written_out(run, stripped)
        if self.twin.activity_regularizer is not None:
            fixed = fixed or "it has a regularizer of its activity"
        fixed = fixed or _other_weights(bare)
        fixed = fixed or self._other_masks(model)
        sized = self._revision(run).fixed
        fixed = fixed or _SIZED * sized
        layer = self.node.operation
        return Opened(layer, self.twin, model, bare, fixed, sized)

    def _written_out(self, run: _Run, stripped: bool) -> Any:
        ends = run.outputs, run.weights
        if self.sizes is None:
            return bare_weights.written_out(
                self.twin, self.inputs, *ends, stripped
            )
        revision = self._revision(run)
        sizes = self.sizes.in_writing(revision.fixed)
        again = _Trace(self.node, self.twin, self.names, [sizes])
        again.arguments()
        return bare_weights.written_out(
            self.twin, self.inputs, *ends, stripped, again.inputs, revision
        )

    def _revision(self, run: _Run) -> Revision:
        """What of a run is otherwise for other sizes."""
        if not self.others:
            return Revision()
        runs = [run]
        for other in self.others:
            args, kwargs = other.arguments()
            runs.append(other.run(args, kwargs, run.training))
        traces = [self, *self.others]
        return several_sizes.revised(
            *(
                Recorded(
                    private.recorded_before(
                        each.outputs, [*trace.inputs, *each.weights]
                    ),
                    each.record,
                )
                for trace, each in zip(traces, runs, strict=True)
            )
        )

    def _compared(self, run: _Run, stripped: bool) -> Any:
        """The model of a run, compared with the layer in inference."""
        model, bare = self._written_out(run, stripped)
        self._check_outputs(model.outputs, self.sizes is not None)
        like = self.node.input_tensors if self.sizes is None else model.inputs
        given = self.node.arguments.args, self.node.arguments.kwargs
        found = sampled.compared(self.twin, given, model, like)
        if found is None:
            raise SideEffect("its `call` can't be tried on random inputs")
        if not found:
            raise SideEffect(_UNLIKE)
        return model, bare

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of the recorded call, on inputs of their own."""
        made: dict[int, list[keras.KerasTensor]] = {}
        self.inputs = []
        for number, x in enumerate(self.node.input_tensors):
            name = self.names[number] if self.names else f"input_{number}"
            shape = x.shape
            if self.sizes is not None:
                shape = self.sizes.of(shape, number)
            fresh = keras.Input(batch_shape=shape, dtype=x.dtype, name=name)
            self.inputs.append(fresh)
            made.setdefault(id(x), []).append(fresh)
        pairs = zip(self.node.input_tensors, self.inputs, strict=True)
        for old, fresh in pairs:
            mask = private.mask_of(old)
            if mask is not None and id(mask) in made:
                private.set_mask(fresh, made[id(mask)][0])
        args, kwargs = each_in_place(self.node, made)
        return args, kwargs

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        training: bool | None,
    ) -> _Run:
        """Run `call` once."""
        twin = self.twin
        if private.takes_training(twin) and training is not None:
            kwargs = {**kwargs, _TRAINING: training}
        convert = private.input_conversion(twin)
        args, kwargs = keras.tree.map_structure(convert, (args, kwargs))
        found, written = self._once(args, kwargs, training)
        if not written:
            return found
        # What nothing reads before it is set is but a note for the user.
        unread = {name: object() for name in written}
        again = None
        set_before = private.attributes_set(twin, unread)
        with set_before, contextlib.suppress(Exception):
            again, _ = self._once(args, kwargs, training)
        if again is None or again.record != found.record:
            raise SideEffect(f"its `call` sets its attribute `{written[0]}`")
        return found

    def _once(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        training: bool | None,
    ) -> tuple[_Run, list[str]]:
        """A run, and the names of the attributes that it has set."""
        twin = self.twin
        scope = private.computing(twin)
        told = private.told(training)
        silent = private.attributes_set(twin, {"add_loss": _no_loss})
        with private.attributes_kept(twin):
            before = _held(twin)
            with _watched(), in_place(twin) as weights, scope, told, silent:
                flat = keras.tree.flatten(twin.call(*args, **kwargs))
            written = _written(before, _held(twin))
        outputs = [self._symbolic(x) for x in flat if x is not None]
        record = _record(outputs, [*self.inputs, *weights])
        return _Run(outputs, weights, training, record), written

    def _symbolic(self, output: Any) -> Any:
        """An output, or what stands for an empty constant: a part of none."""
        if not keras.ops.is_tensor(output) or math.prod(output.shape):
            return output
        dtype = keras.backend.standardize_dtype(output.dtype)
        none = keras.ops.take(self.inputs[0], np.zeros(0, "int32"), axis=0)
        if math.prod(none.shape):
            return output
        shape = tuple(map(int, output.shape))
        return keras.ops.cast(keras.ops.reshape(none, shape), dtype)

    def _check_outputs(self, outputs: list[Any], sized: bool = False) -> None:
        """Refuse outputs that are none, or others than the model has.

        Where sizes are known that the model leaves open, so are those of the
        outputs.

        Their types are compared when they are computed: what torch says of
        those of symbolic tensors is not always so.
        """
        for x in outputs:
            if not isinstance(x, keras.KerasTensor):
                constant = keras.ops.is_tensor(x)
                raise SideEffect(
                    "its `call` returns what does not depend on its inputs"
                    if constant
                    else f"its `call` returns {x!r}, which is no tensor"
                )
        expected = [tuple(x.shape) for x in self.node.outputs]
        got = [tuple(x.shape) for x in outputs]
        pairs = zip(expected, got, strict=False)
        fits = len(got) == len(expected) and all(
            len(a) == len(b)
            and all(m == n or None in (m, n) for m, n in zip(a, b, strict=True))
            for a, b in pairs
        )
        if got != expected and not (sized and fits):
            raise SideEffect(
                f"its `call` gives {got} when it is traced, and the model has "
                f"{expected}"
            )

    def _in_both(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], run: _Run
    ) -> tuple[_Run, _Run | None, str]:
        """Run `call` once more, in training if it was not, or else not.

        What has a state that is not noticed otherwise is likely to do
        something else in the second run.

        Returns:
            `(the run in inference, that in training if it does something
            else, what is otherwise in training)`.

        Raises:
            SideEffect: it goes its own way in inference.
        """
        inputs, training = self.inputs, bool(run.training)
        try:
            other = self.run(args, kwargs, not training)
        except Exception:  # noise, or a state that is updated
            if training:
                raise
            return run, None, _OTHERWISE
        infers, trains = (other, run) if training else (run, other)
        always = infers.told(inputs, training=True)
        if always is not None:
            raise SideEffect(
                f"its `call` has '{always.name}' train, even in inference"
            )
        if trains.record != infers.record:
            if not private.takes_training(self.twin):
                raise SideEffect(
                    "its `call` does something else in another run: it has a "
                    "state, or reads values that a variable has at the time"
                )
            return infers, trains, _OTHERWISE
        never = trains.told(inputs, training=False)
        if never is None:
            return infers, None, ""
        return (
            infers,
            None,
            f"it calls '{never.name}' with training=False while it is trained",
        )

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


def _other_weights(bare: tuple[tuple[keras.Variable, Place], ...]) -> str:
    """Why weights would train otherwise where their places are, or ""."""
    for variable, place in bare:
        held = variable.regularizer or variable.constraint
        if place.derived and held is not None:
            return (
                f"its weight '{variable.name}' has a "
                f"{type(held).__name__}, and is not itself in its parts"
            )
    return ""


def _no_loss(*args: Any, **kwargs: Any) -> None:
    raise SideEffect("its `call` adds a loss")


@contextlib.contextmanager
def _other_values(layer: keras.Layer) -> Iterator[None]:
    """Within, the variables of a layer have other values than before."""
    random, kept = np.random.default_rng(0), []
    for variable in layer.variables:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        value = values_of(variable)
        kept.append((variable, value))
        # What is a variance stays positive.
        step = random.uniform(0.05, 0.15, value.shape)
        variable.assign(
            value + (step * (1 + np.abs(value))).astype(value.dtype)
        )
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


def _held(layer: keras.Layer) -> dict[str, list[Any]]:
    """The attributes of a layer, containers by what is in them."""
    return {
        name: keras.tree.flatten(value)
        for name, value in private.attributes_of(layer).items()
        if name not in private.OF_CALLS | private.OF_SETTING
        and not private.is_of_tensorflow(name)
    }


def _written(
    before: dict[str, list[Any]], after: dict[str, list[Any]]
) -> list[str]:
    """The names of the attributes that hold something else.

    Raises:
        SideEffect: one of them holds what has weights.
    """
    names = []
    for name, values in after.items():
        if [*map(id, before.get(name, [None]))] == [*map(id, values)]:
            continue
        if any(isinstance(x, (keras.Layer, keras.Variable)) for x in values):
            raise SideEffect(f"its `call` sets its attribute `{name}`")
        names.append(name)
    return names
