"""Labels and constants of each coordinate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import masked
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.rules.modes import Scaling

# Why the channels of outputs stay.
OUTPUT = "it is an output of the model"


@dataclasses.dataclass(frozen=True)
class Selection(Rule):
    """A virtual operation: some channels of a tensor, for one reader.

    Where a reader needs fewer channels than its tensor must keep, this is
    where a gather goes; where it needs the same ones, nothing is there.
    """

    kind: str = "selection"

    def scaling(self, call: Call) -> Scaling:
        return LINEAR

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        value = values[0]
        if value is None:
            return [None]
        return [Known(value.values.ravel()[picks(flow)], value.border)]


def picks(flow: Flow) -> NDArray[np.intp]:
    """Of a selection: the coordinate of its input that each of its own is.

    They are flat ones, in an array shaped like the labels of the output.
    """
    source = flow.sources[0][0]
    if not isinstance(source, np.ndarray):
        raise TypeError(f"This is the flow of no selection: {flow!r}.")
    return source


def blends(step: Step, number: int, index: int, labelling: Labelling) -> bool:
    """Whether more coordinates of an input than the sources make an output.

    Those of a unit that lie along an axis which is reduced: a sum over what
    was stacked. One of them stands for all in `Flow.sources`.
    """
    source = step.flow.sources[number][index]
    if step.is_selection or not step.rule.blends:
        return False
    if not isinstance(source, np.ndarray):  # IDENTITY, or no part in it
        return False
    size = labelling.labels[step.inputs[index]].size
    return bool(np.unique(source[source >= 0]).size < size)


class StepKey(NamedTuple):
    """What the steps of one recorded call have in common.

    A model that is called twice has two steps for each of its layers' calls,
    which are rebuilt as one.

    Attributes:
        site: the recorded call.
        position: as in `Step`.
    """

    site: Site
    position: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A call, or a selection before one, with its flow.

    Attributes:
        call: the `Call`; for a selection, the one that reads it.
        rule: the `Rule` of the call, or a `Selection`.
        inputs: the tensors that it reads; where a selection comes before it,
            what that puts out.
        outputs: the tensors that it puts out.
        flow: where the coordinates of the outputs come from.
        position: the input of the call that a selection stands before; None
            for the call itself.
    """

    call: Call
    rule: Rule
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    flow: Flow
    position: int | None = None

    @property
    def site(self) -> Site:
        """The recorded call that it belongs to."""
        return self.call.site

    @functools.cached_property
    def key(self) -> StepKey:
        return StepKey(self.call.site, self.position)

    @property
    def path(self) -> str:
        return self.call.path

    @property
    def is_selection(self) -> bool:
        return self.position is not None

    @property
    def is_gate(self) -> bool:
        return self.rule.is_gate


@dataclasses.dataclass(frozen=True, eq=False)
class Labelling:
    """All steps of a graph with the labels of its tensors.

    Attributes:
        graph: the `Graph`.
        steps: its calls in order, each after the selection before it.
        labels: tensor -> the id of the unit at each coordinate; int, of the
            tensor's rank, with extent 1 along axes where it does not change.
        pinned: the units that stay whatever is closed.
        classes: the class of each unit, by its id; int, `(units,)`. A class
            holds units that can only stay or go together, and has the id of
            its first.
    """

    graph: Graph
    steps: tuple[Step, ...]
    labels: Mapping[Tensor, NDArray[np.intp]]
    pinned: tuple[lb.Pinned, ...]
    classes: NDArray[np.intp]


def label(
    graph: Graph,
    uncut: frozenset[StepKey] = frozenset(),
    selections: bool = True,
) -> Labelling:
    """Label every tensor, and tie what must stay together.

    Args:
        graph: the `Graph` of a model.
        uncut: keys of selections that are not worth their gather.
        selections: whether there are selections at all.

    Raises:
        ValueError: a layer has weights that its rule does not know.
    """
    while True:  # each round but the last does without a selection more
        labeller = _Labeller(graph)
        labeller.walk(uncut, selections)
        partial = labeller.partial()
        if not partial:
            return labeller.finished()
        uncut |= partial


class _Labeller:
    """A `Labelling` in the making."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.units = lb.Units()
        self.steps: list[Step] = []
        self.labels: dict[Tensor, NDArray[np.intp]] = {
            tensor: lb.fixed(len(tensor.shape)) for tensor in graph.inputs
        }

    def walk(self, uncut: frozenset[StepKey], selections: bool) -> None:
        """Make the steps, from the first call to the last."""
        calls, outputs = self.graph.calls, set(self.graph.outputs)
        # A gather passes on no mask: what finds one at run time would lack it.
        by_masks = selections and any(map(masked.joins_by_masks, calls))
        for call in calls:
            rule = rule_of(call)
            if not uncut:
                _check_weights(call, rule)
            inputs = list(call.inputs)
            held = by_masks and masked.is_near(call)
            if selections and rule.cuts and inputs and not held:
                shared = len(inputs[0].consumers) > 1 or inputs[0] in outputs
                selection = self._selection(call, rule, shared)
                if selection is not None and selection.key not in uncut:
                    self._add(selection)
                    inputs[0] = selection.outputs[0]
            self.units.call = call
            with faults.of_rule(call, rule):
                labels = [self.labels[tensor] for tensor in inputs]
                flow = rule.flow(call, labels, self.units)
            outs = tuple(call.outputs)
            self._add(Step(call, rule, tuple(inputs), outs, flow))
        self.units.call = None

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self.labels.update(zip(step.outputs, step.flow.labels, strict=True))

    def partial(self) -> set[StepKey]:
        """Keys of selections that some calls of a nested model do without.

        It is rebuilt once, so a gather inside is for all of its calls, and
        on one axis.
        """
        shapes: dict[StepKey, list[tuple[int, ...]]] = {}
        for step in self.steps:
            if step.is_selection:
                shape = step.flow.labels[0].shape
                shapes.setdefault(step.key, []).append(shape)
        return {
            key
            for key, every in shapes.items()
            if len(every) < len(key.site.calls) or len(set(every)) > 1
        }

    def _selection(self, call: Call, rule: Rule, shared: bool) -> Step | None:
        """A selection before `call`, or None where there is no point."""
        tensor, masking = call.inputs[0], self.graph.masking
        labels = self.labels[tensor]
        axes = lb.varying(labels)
        scopes = [scope.site.child for scope in call.scopes] or [self.graph]
        if any(each in masking for each in scopes):
            # A gather passes on no mask.
            return None
        fresh = rule.is_gate and rule.along_axis(call)
        if len(axes) == 1 and shared:
            axis = axes[0]
            source = np.arange(labels.size).reshape(labels.shape)
        elif not axes and fresh and (labels == lb.FIXED).all():
            axis = call.op.axis % labels.ndim
            shape = _ones(labels.ndim, axis, tensor.shape[axis])
            source = np.zeros(shape, int)
        else:
            return None
        key = StepKey(call.site, 0)
        ids = self.units.mint((key, axis, source.size), source.size)
        vector = lb.vector(ids, labels.ndim, axis)
        flow = Flow([vector], [[source]], untied=(0,))
        output = dataclasses.replace(tensor, producer=None, consumers=[call])
        return Step(call, Selection(), (tensor,), (output,), flow, key.position)

    def finished(self) -> Labelling:
        """The `Labelling`, with what the model as a whole ties and pins."""
        for tensor in self.graph.outputs:
            self.units.pin(self.labels[tensor], OUTPUT)
        self._agree()
        return Labelling(
            self.graph,
            tuple(self.steps),
            self.labels,
            tuple(self.units.pinned),
            self.units.classes(),
        )

    def _agree(self) -> None:
        """Tie the calls of one layer, and the scopes of one site."""
        first_of_op: IdentityDict[keras.Operation, dict[Hashable, Step]]
        first_of_op = IdentityDict()
        first_of_site: dict[StepKey, Step] = {}
        for step in self.steps:
            if step.rule.sized(step.call):
                firsts = first_of_op.setdefault(step.call.op, {})
                key = step.position, step.rule.sense(step.call)
                self._tie_steps(firsts.setdefault(key, step), step)
            self._tie_steps(first_of_site.setdefault(step.key, step), step)
        for nested in self.graph.nested():
            why = (
                f"the model '{nested.model.name}' is called on several tensors"
            )
            for bound in nested.bounds[1:]:
                self._tie_all(nested.bounds[0], bound, why)

    def _tie_steps(self, step: Step, other: Step) -> None:
        if step is other:
            return
        ours, theirs = step.inputs + step.outputs, other.inputs + other.outputs
        if len(step.inputs) != len(other.inputs):
            why = f"'{step.path}' is called with other arguments elsewhere"
            for tensor in ours + theirs:
                self.units.pin(self.labels[tensor], why)
            return
        if ("out" in step.flow.roles) != ("out" in other.flow.roles):
            why = f"'{step.path}' reads channels at some of its calls only"
            for tensor in ours + theirs:
                self.units.pin(self.labels[tensor], why)
            return
        why = f"'{step.path}' is called on differently shaped tensors"
        self._tie_all(ours, theirs, why)

    def _tie_all(
        self, tensors: Sequence[Tensor], others: Sequence[Tensor], why: str
    ) -> None:
        for a, b in zip(tensors, others, strict=True):
            left, right = self.labels[a], self.labels[b]
            if left is right:
                continue
            try:
                self.units.tie(left, right)
            except ValueError:
                self.units.pin(left, why)
                self.units.pin(right, why)


def _ones(rank: int, axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if a == axis else 1 for a in range(rank))


def _check_weights(call: Call, rule: Rule) -> None:
    """Refuse layers whose weights their rule does not describe."""
    op = call.op
    _check_plain(op, call.path)
    stray = rule.missing(call)
    if stray:
        for part in private.sublayers(op):
            _check_plain(part, f"{call.path}/{part.name}")
        raise ValueError(
            f"Layer '{call.path}' (of type {type(op).__name__}) has weights "
            f"that its rule ({rule.kind}) does not know: {stray}. Subclass "
            "the layer and register a rule for the subclass with "
            "keras_gates.surgeon.register."
        )


def _check_plain(op: keras.Operation, path: str) -> None:
    """Refuse a layer whose kernel is not the array that it is made of."""
    if getattr(op, "quantization_mode", None) is not None:
        raise ValueError(
            f"Layer '{path}' is quantized ({op.quantization_mode}), and "
            "quantized weights can't be cut. Prune the model first, then "
            "call `quantize`."
        )
    if getattr(op, "lora_enabled", False):
        raise ValueError(
            f"Layer '{path}' has LoRA enabled. Merge it first: save the "
            "weights and load them into a model without LoRA."
        )


def outputs_of(
    step: Step,
    inputs: Sequence[Known | None],
    shut: NDArray[np.bool_] | None,
    exact: bool,
) -> list[Known | None]:
    """What is known of the outputs of one step.

    Args:
        step: the step.
        inputs: what is known of its inputs.
        shut: what is closed of its layer, if anything is.
        exact: as in `constants`.
    """
    outputs: list[Known | None] = [None] * len(step.outputs)
    with faults.of_rule(step.call, step.rule):
        if any(v is not None for v in inputs):
            outputs = step.rule.value(step.call, step.flow, inputs)
        if not exact and step.flow.mixes and inputs[0] is not None:
            guesses = step.rule.guess(step.call, step.flow, inputs)
            pairs = zip(outputs, guesses, strict=True)
            outputs = [value or guess for value, guess in pairs]
        if shut is not None:
            outputs[0] = step.rule.shut(step.call, step.flow, outputs[0], shut)
    return outputs


def constants(
    labelling: Labelling,
    closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
    exact: bool = True,
    compute: Callable[..., list[Known | None]] = outputs_of,
) -> dict[Tensor, Known]:
    """The known values of each tensor when the `closed` gates are zero.

    Args:
        labelling: a `Labelling`.
        closed: layer -> what is closed of it, shaped like its factors, or
            like its `Rule.inner_units`, one role after the other.
        exact: whether what varies a little may not count as constant.
        compute: `outputs_of`, or what remembers it.
    """
    values: dict[Tensor, Known] = {}
    for step in labelling.steps:
        inputs = [values.get(tensor) for tensor in step.inputs]
        shut = None if step.is_selection else closed.get(step.call.op)
        if shut is not None and not shut.any():
            shut = None
        if all(value is None for value in inputs) and shut is None:
            continue
        trained = step.call.kwargs.get("training") is True
        if (trained and step.rule.trains) or step.flow.reason:
            continue
        outputs = compute(step, inputs, shut, exact)
        for tensor, value in zip(step.outputs, outputs, strict=True):
            if value is not None:
                values[tensor] = value
    return values
