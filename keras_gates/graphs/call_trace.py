"""One run of a layer's `call` on symbolic tensors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import bare_weights
from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs import several_sizes
from keras_gates.graphs import step_by_step
from keras_gates.graphs.arguments import each_in_place
from keras_gates.graphs.effects import held
from keras_gates.graphs.effects import no_functions
from keras_gates.graphs.effects import no_loss
from keras_gates.graphs.effects import other_values
from keras_gates.graphs.effects import watched
from keras_gates.graphs.effects import written
from keras_gates.graphs.holders import TwoWays
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.opened import Place
from keras_gates.graphs.recorded_run import TRAINING
from keras_gates.graphs.recorded_run import Run
from keras_gates.graphs.recorded_run import recorded
from keras_gates.graphs.several_sizes import Recorded
from keras_gates.graphs.several_sizes import Revision
from keras_gates.graphs.several_sizes import Sizes
from keras_gates.graphs.stand_ins import SideEffect
from keras_gates.graphs.stand_ins import in_place

if TYPE_CHECKING:
    from keras_gates.graphs.holders import Holders
    from keras_gates.graphs.private import Node

_OTHERWISE = "it computes something else in training"
UNLIKE = "its `call` computes something else on symbolic tensors"
_TRIED = {
    sampled.Likeness.UNLIKE: UNLIKE,
    sampled.Likeness.FAILS: "its recorded operations can't be run",
    sampled.Likeness.UNTRIED: "its `call` can't be tried on random inputs",
}
_SIZED = (
    "it works with sizes that are not fixed, and its operations are known "
    "for single sizes only"
)


def _others(
    layers: list[keras.Layer], known: list[keras.Layer]
) -> list[keras.Layer]:
    """Those that are not known yet."""
    seen = set(map(id, known))
    return [layer for layer in layers if id(layer) not in seen]


class CallTrace:
    """One run of a `call`.

    Args:
        node: the recorded call.
        twin: a copy of its layer.
        names: those of the inputs; made up by default.
        sizes: what open sizes are taken for, and others to compare with; by
            default they are open.
        before: what holds the weights in other ways of calling the layer.
        samples: how many samples the layer is compared on, if that is open.
    """

    def __init__(
        self,
        node: Node,
        twin: keras.Layer,
        names: Sequence[str] = (),
        sizes: Sequence[Sizes] = (),
        before: Holders | None = None,
        samples: Sequence[int] = sampled.SAMPLES,
    ) -> None:
        self.node = node
        self.twin = twin
        self.names = names
        self.sizes = sizes[0] if sizes else None
        self.before = before
        self.samples = samples
        self.others = [CallTrace(node, twin, names, [x]) for x in sizes[1:]]
        self.inputs: list[keras.KerasTensor] = []
        self.inside: list[keras.Layer] = []
        self.inlined: list[keras.Layer] = []
        self.apart = False
        self.asks = False
        # The revision of the last run that was asked about.
        self._revised: tuple[Run, Revision] | None = None

    def inlines(self, layers: list[keras.Layer]) -> bool:
        """Note layers inside that can't be called; whether one is new.

        What they call is recorded in their place: on torch and JAX a layer
        that takes samples apart can't be called on an open number of them.
        """
        new = _others(layers, self.inlined)
        self.inlined = [*self.inlined, *new]
        return bool(new)

    def reads(self, layers: list[keras.Layer]) -> bool:
        """Note layers inside whose weights are read; whether one is new."""
        new = _others(layers, self.inside)
        for each in (self, *self.others):
            each.inside = [*each.inside, *new]
        return bool(new)

    def opened(self) -> Opened:
        """The layer as a model.

        Raises:
            SideEffect: `call` does more than compute its outputs.
        """
        args, kwargs = self.arguments()
        default = private.default_of_training(self.twin)
        run = self.run(args, kwargs, kwargs.get(TRAINING, default))
        self._check_outputs(run.outputs, self.sizes is not None)
        stripped = False
        with other_values(self.twin):
            # What is frozen of values, or left out, shows.
            run, trained, fixed = self._in_both(args, kwargs, run)
            model, holders = self._compared(run, stripped)
            with contextlib.suppress(Exception):
                if trained is not None:
                    # What is called in training only may do nothing else.
                    model, holders = self._compared(trained, True)
                    run, stripped, fixed = trained, True, ""
        if holders.placed:
            model, holders = self._written_out(run, stripped)
        if self.twin.activity_regularizer is not None:
            fixed = fixed or "it has an activity regularizer"
        bare = tuple(holders.placed)
        fixed = fixed or _other_weights(bare)
        if holders.shared is not None:
            fixed = fixed or str(TwoWays(holders.shared))
        fixed = fixed or self._other_masks(model)
        sized = self._revision(run).fixed
        fixed = fixed or _SIZED * sized
        layer = self.node.operation
        return Opened(layer, self.twin, model, bare, holders, fixed, sized)

    def _written_out(self, run: Run, stripped: bool) -> Any:
        ends = run.outputs, run.weights
        if self.sizes is None:
            return bare_weights.written_out(
                self.twin,
                self.inputs,
                *ends,
                stripped,
                before=self.before,
                apart=self.apart,
            )
        revision = self._revision(run)
        while True:
            sizes = self.sizes.in_writing(revision.fixed)
            again = CallTrace(self.node, self.twin, self.names, [sizes])
            again.arguments()
            args = self.inputs, *ends, stripped, again.inputs, revision
            try:
                return bare_weights.written_out(
                    self.twin, *args, self.before, self.apart
                )
            except Exception:
                if revision.fixed:
                    raise
                # An operation may ask for sizes that need not be known.
                self.asks = revision.fixed = True

    def _revision(self, run: Run) -> Revision:
        """What of a run is otherwise for other sizes."""
        if not self.others:
            return Revision(fixed=self.asks)
        if self._revised is None or self._revised[0] is not run:
            self._revised = run, self._compared_sizes(run)
        return self._revised[1]

    def _compared_sizes(self, run: Run) -> Revision:
        """The same, by more runs at other sizes."""
        runs = [run]
        for other in self.others:
            args, kwargs = other.arguments()
            runs.append(other.run(args, kwargs, run.training))
        traces = [self, *self.others]
        found = several_sizes.revised(
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
        found.fixed |= self.asks
        return found

    def _compared(self, run: Run, stripped: bool) -> Any:
        """The model of a run, compared with the layer in inference."""
        model, holders = self._written_out(run, stripped)
        self._check_outputs(model.outputs, self.sizes is not None)
        like = self.node.input_tensors if self.sizes is None else model.inputs
        given = self.node.arguments.args, self.node.arguments.kwargs
        found = sampled.compared(
            self.twin, given, model, like, samples=self.samples
        )
        if found is sampled.Likeness.FAILS and self.inlined and not self.apart:
            # What was inlined may have been called on parts of samples.
            self.apart = True
            return self._compared(run, stripped)
        if found is not sampled.Likeness.ALIKE:
            raise SideEffect(_TRIED[found])
        return model, holders

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
    ) -> Run:
        """Run `call` once."""
        twin = self.twin
        if private.takes_training(twin) and training is not None:
            kwargs = {**kwargs, TRAINING: training}
        convert = private.input_conversion(twin)
        args, kwargs = keras.tree.map_structure(convert, (args, kwargs))
        found, names = self._once(args, kwargs, training)
        if not names:
            return found
        # What nothing reads before it is set is but a note for the user.
        unread = {name: object() for name in names}
        again = None
        set_before = private.attributes_set(twin, unread)
        with set_before, contextlib.suppress(Exception):
            again, _ = self._once(args, kwargs, training)
        if again is None or again.record != found.record:
            raise SideEffect(f"its `call` sets its attribute `{names[0]}`")
        return found

    def _once(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        training: bool | None,
    ) -> tuple[Run, list[str]]:
        """A run, and the names of the attributes that it has set."""
        twin = self.twin
        scope = private.computing(twin)
        told = private.told(training)
        silent = private.attributes_set(twin, {"add_loss": no_loss})
        with private.attributes_kept(twin):
            before = held(twin)
            with (
                watched(),
                no_functions(),
                in_place(twin, self.inside) as weights,
                scope,
                told,
                silent,
            ):
                call = step_by_step.call_of(twin)
                flat = keras.tree.flatten(call(*args, **kwargs))
            names = written(before, held(twin))
        outputs = [self._symbolic(x) for x in flat if x is not None]
        record = recorded(outputs, [*self.inputs, *weights])
        return Run(outputs, weights, training, record), names

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
                    "its `call` returns something that does not depend on "
                    "its inputs"
                    if constant
                    else f"its `call` returns {x!r}, which is not a tensor"
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
                f"its `call` returns {got} when it is traced, but the model "
                f"has {expected}"
            )

    def _in_both(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run
    ) -> tuple[Run, Run | None, str]:
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
                f"its `call` runs '{always.name}' in training mode, even in "
                "inference"
            )
        if trains.record != infers.record:
            if not private.takes_training(self.twin):
                raise SideEffect(
                    "its `call` does something else in each run: it has a "
                    "state, or reads the current values of a variable"
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
                return "its parts pass on a mask of time steps differently"
        return ""


def _other_weights(bare: tuple[tuple[keras.Variable, Place], ...]) -> str:
    """Why weights would train otherwise where their places are, or ""."""
    for variable, place in bare:
        held = variable.regularizer or variable.constraint
        if place.derived and held is not None:
            return (
                f"its weight '{variable.name}' has a {type(held).__name__}, "
                "and its parts do not use the variable itself"
            )
    return ""
