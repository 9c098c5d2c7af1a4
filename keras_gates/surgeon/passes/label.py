"""Labels and constants: what each coordinate is, and what it must be."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import masked
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor

# Why the channels of outputs stay.
OUTPUT = "it is an output of the model"


@dataclasses.dataclass(frozen=True)
class Selection(Rule):
    """A virtual operation: some channels of a tensor, for one reader.

    Where a reader needs fewer channels than its tensor must keep, this is
    where a gather goes; where it needs the same ones, nothing is there.
    """

    kind: str = "selection"

    def scaling(self, call: Call) -> str:
        return LINEAR

    def value(self, call: Call, flow: Flow, values: list[Known]) -> list[Known]:
        value = values[0]
        if value is None:
            return [None]
        source = flow.sources[0][0]
        return [Known(value.values.ravel()[source], value.border)]


@dataclasses.dataclass(eq=False)
class Step:
    """A call, or a selection in front of one, with its flow.

    `site` is the recorded call that it belongs to; `position` is the input
    that a selection stands in front of, and None for the call itself.
    """

    call: object
    rule: Rule
    inputs: list
    outputs: list
    flow: Flow
    position: int | None = None

    @property
    def site(self) -> Site:
        return self.call.site

    @functools.cached_property
    def key(self) -> tuple[int, None]:
        return (id(self.call.site), self.position)

    @property
    def path(self) -> str:
        return self.call.path

    @property
    def is_gate(self) -> bool:
        return self.rule.is_gate


@dataclasses.dataclass(eq=False)
class Labelling:
    """All steps of a graph with the labels of its tensors."""

    graph: object
    steps: list
    labels: dict
    units: lb.Units
    classes: np.ndarray = None


def label(
    graph: Graph, uncut: frozenset[Any] = frozenset(), selections: bool = True
) -> Labelling:
    """Give every tensor its labels, and tie what must stay together.

    Args:
        graph: the `Graph` of a model.
        uncut: keys of selections that are not worth their gather.
        selections: whether there are selections at all.

    Raises:
        ValueError: a layer has weights that its rule does not know.
    """
    units = lb.Units()
    found = Labelling(graph, [], {}, units)
    for tensor in graph.inputs:
        found.labels[tensor] = lb.fixed(len(tensor.shape))
    outputs = set(graph.outputs)
    # A gather hands on no mask, and where one is found at run time it lacks.
    by_masks = selections and any(map(masked.joins_by_masks, graph.calls))
    for call in graph.calls:
        rule = rule_of(call)
        if not uncut:
            _check_weights(call, rule)
        inputs = list(call.inputs)
        held = by_masks and masked.is_near(call)
        if selections and rule.cuts and inputs and not held:
            shared = len(inputs[0].consumers) > 1 or inputs[0] in outputs
            step = _selection(found, call, rule, shared)
            if step is not None and step.key not in uncut:
                found.steps.append(step)
                found.labels[step.outputs[0]] = step.flow.labels[0]
                inputs[0] = step.outputs[0]
        units.owner = call
        with faults.of_rule(call, rule):
            flow = rule.flow(call, [found.labels[t] for t in inputs], units)
        found.steps.append(Step(call, rule, inputs, call.outputs, flow))
        for tensor, labels in zip(call.outputs, flow.labels, strict=True):
            found.labels[tensor] = labels
    partial = _partial(found)
    if partial:
        return label(graph, uncut | partial)
    units.owner = None
    for tensor in graph.outputs:
        units.pin(found.labels[tensor], OUTPUT)
    _agree(found)
    found.classes = units.classes()
    return found


def _partial(found: Labelling) -> set[Any]:
    """Keys of selections that some calls of a nested model do without.

    It is rebuilt once, so a gather inside is for all of its calls, and on
    one axis.
    """
    shapes, sites = {}, {}
    for step in found.steps:
        if step.position is not None:
            shape = step.flow.labels[0].shape
            shapes.setdefault(step.key, []).append(shape)
            sites[step.key] = step.site
    return {
        key
        for key, every in shapes.items()
        if len(every) < len(sites[key].calls) or len(set(every)) > 1
    }


def _selection(
    found: Labelling, call: Call, rule: Rule, shared: bool
) -> Step | None:
    """A selection in front of `call`, or None where there is no point."""
    tensor, masking = call.inputs[0], found.graph.masking
    labels = found.labels[tensor]
    axes = lb.varying(labels)
    scopes = [scope.site.child for scope in call.scopes] or [found.graph]
    if any(each in masking for each in scopes):
        # A gather hands on no mask.
        return None
    fresh = rule.is_gate and call.op.kind == "filter"
    if len(axes) == 1 and shared:
        axis = axes[0]
        source = np.arange(labels.size).reshape(labels.shape)
    elif not axes and fresh and (labels == lb.FIXED).all():
        axis = call.op.axis % labels.ndim
        source = np.zeros(_ones(labels.ndim, axis, tensor.shape[axis]), int)
    else:
        return None
    key = (id(call.site), 0)
    ids = found.units.mint((*key, axis, source.size), source.size)
    vector = lb.vector(ids, labels.ndim, axis)
    flow = Flow([vector], [[source]], untied=(0,))
    output = dataclasses.replace(tensor, producer=None, consumers=[call])
    return Step(call, Selection(), [tensor], [output], flow, position=0)


def _ones(rank: int, axis: int, size: int) -> tuple[int, ...]:
    return tuple(size if a == axis else 1 for a in range(rank))


def _check_weights(call: Call, rule: Rule) -> None:
    """Refuse layers whose weights are not what their rule describes."""
    op = call.op
    if getattr(op, "quantization_mode", None) is not None:
        raise ValueError(
            f"Layer '{call.path}' is quantised ({op.quantization_mode}), and "
            "quantised weights can't be cut. Prune the model first, then "
            "call `quantize`."
        )
    if getattr(op, "lora_enabled", False):
        raise ValueError(
            f"Layer '{call.path}' has LoRA enabled. Merge it first: save "
            "the weights and load them into a model without LoRA."
        )
    stray = rule.missing(call)
    if stray:
        raise ValueError(
            f"Layer '{call.path}' (of type {type(op).__name__}) has weights "
            f"that its rule ({rule.kind}) does not know: {stray}. Subclass "
            "the layer and register a rule for the subclass with "
            "keras_gates.surgeon.register."
        )


def _agree(found: Labelling) -> None:
    """Tie the calls of one layer, and the scopes of one site."""
    first_of_op, first_of_site = {}, {}
    for step in found.steps:
        if step.rule.sized(step.call):
            twin = first_of_op.setdefault(
                (id(step.call.op), step.position), step
            )
            _tie_steps(found, twin, step)
        twin = first_of_site.setdefault(step.key, step)
        _tie_steps(found, twin, step)
    for nested in found.graph.nested():
        why = f"the model '{nested.model.name}' is called on several tensors"
        for bound in nested.bounds[1:]:
            _tie_all(found, nested.bounds[0], bound, why)


def _tie_steps(found: Labelling, step: Step, other: Step) -> None:
    if step is other:
        return
    ours, theirs = step.inputs + step.outputs, other.inputs + other.outputs
    if len(step.inputs) != len(other.inputs):
        why = f"'{step.path}' is called with other arguments elsewhere"
        for tensor in ours + theirs:
            found.units.pin(found.labels[tensor], why)
        return
    why = f"'{step.path}' is called on differently shaped tensors"
    _tie_all(found, ours, theirs, why)


def _tie_all(
    found: Labelling, tensors: list[Tensor], others: list[Tensor], why: str
) -> None:
    for a, b in zip(tensors, others, strict=True):
        left, right = found.labels[a], found.labels[b]
        if left is right:
            continue
        try:
            found.units.tie(left, right)
        except ValueError:
            found.units.pin(left, why)
            found.units.pin(right, why)


def _outputs(
    step: Step,
    inputs: list[Known | None],
    shut: NDArray[np.bool_] | None,
    exact: bool,
) -> list[Known | None]:
    """What is known of the outputs of one step."""
    outputs = [None] * len(step.outputs)
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
    found: Labelling, closed: dict[int, NDArray[np.bool_]], exact: bool = True
) -> dict[Tensor, Known]:
    """The known values of each tensor when the `closed` gates are zero.

    Args:
        found: a `Labelling`.
        closed: `{id of layer: boolean array like its factors, or like its
            units for one that reads its own output}`.
        exact: whether what varies a little may not count as constant.
    """
    values = {}
    for step in found.steps:
        inputs = [values.get(t) for t in step.inputs]
        shut = closed.get(id(step.call.op)) if step.position is None else None
        if shut is not None and not shut.any():
            shut = None
        if all(v is None for v in inputs) and shut is None:
            continue
        trained = step.call.kwargs.get("training") is True
        if (trained and step.rule.trains) or step.flow.reason:
            continue
        with faults.of_rule(step.call, step.rule):
            outputs = _outputs(step, inputs, shut, exact)
        for tensor, value in zip(step.outputs, outputs, strict=True):
            if value is not None:
                values[tensor] = value
    return values
