"""TimeDistributed: the rule of the inner layer, shifted by one axis.

What `TimeDistributed` has of its own is in `OWN`, with the reason. All else
that `Rule` declares, today or tomorrow, is asked of the rule of the layer
inside, about one step of time.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import time_axis
from keras_gates.graphs.graph import Call
from keras_gates.graphs.graph import Site
from keras_gates.graphs.graph import Tensor
from keras_gates.graphs.graph import is_functional
from keras_gates.graphs.graph import own_weights
from keras_gates.graphs.graph import read
from keras_gates.surgeon.rules import counts
from keras_gates.surgeon.rules.index import Index
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.moves import nowhere
from keras_gates.surgeon.rules.recurrent import wrapped
from keras_gates.surgeon.rules.registry import rule_of
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import STATISTICS
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Origin
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import unknown

if TYPE_CHECKING:
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Counts
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.rule import Weights
    from keras_gates.surgeon.rules.view import View

_TIME = time_axis.AXIS
_GATE = (
    "a gate inside TimeDistributed is not found; gates work at any rank, so "
    "use the gate itself"
)

# What the rule of the layer inside is not simply asked, and why.
_FACTORS = "factors inside are not closed"
_ALONE = "no layer of one input multiplies tensors"
_INSERTING = "gates are put around each TimeDistributed, as around any layer"
OWN = {
    "kind": "it names both",
    "note": "it is that of all TimeDistributed",
    "config": "the whole config of the layer inside is one entry of its own",
    "scales": "`takes` asks the rule inside",
    "cuts": "no selection stands before it",
    "counts": "at each step",
    "pick": "the rule inside is found here",
    "positions": "the steps of time are counted",
    "channels": "an axis further on",
    "axis": "an axis further on",
    "flow": "labels have an axis more",
    "value": "known values have an axis more",
    "guess": "known values have an axis more",
    "revise": "the layer inside is an entry of the config",
    "with_bias": "the layer inside is an entry of the config",
    "writes_out": "what is written out is not a layer inside",
    "written_macs": "what is written out is not a layer inside",
    "signals": "what is written out is not a layer inside",
    "holds": "what is written out is not a layer inside",
    "reading": "what is written out is not a layer inside",
    "reads_all": "what is written out is not a layer inside",
    "writes_again": "what is written out is not a layer inside",
    "rescaled": "what is written out is not a layer inside",
    "replaced": "what takes the place of a layer inside is not a layer",
    "reaches": "the arguments are those of TimeDistributed",
    "as_function": "a TimeDistributed is no activation function",
    "source": _FACTORS,
    "shut": _FACTORS,
    "factors": _FACTORS,
    "along_axis": _FACTORS,
    "opened_by": _FACTORS,
    "packing": _FACTORS,
    "composite_of": "a layer inside is not written out",
    "multiplies": _ALONE,
    "demanded": _ALONE,
    "shared_axes": _ALONE,
    "head_axis": _ALONE,
    "carried_axes": _ALONE,
    "met_axes": _ALONE,
    "axes_read": "an axis further on",
    "compared_axes": "what is inside takes no weights of attention",
    "opens": "a layer inside is not seen through",
    "axis_read": "an axis further on",
    "looks_along": _INSERTING,
    "moved": _INSERTING,
    "dissolved": _FACTORS,
    "base": "it is made again around the layer inside",
    "moves": _INSERTING,
    "pointwise": _INSERTING,
    "puts_rim": _INSERTING,
}


def inside(call: Call) -> Call:
    """The call of the wrapped layer at one step of time."""

    def step(tensor: Tensor) -> Tensor:
        shape = (tensor.shape[0], *tensor.shape[_TIME + 1 :])
        return Tensor(shape, tensor.dtype)

    x = step(call.inputs[0])
    y = [step(tensor) for tensor in call.outputs]
    site = Site(call.op.layer, call.site.node, call.site.name)
    site.opaque = call.site.opaque
    return Call(site, (x,), {}, [x], y, call.path)


def _each_step(inner: Rule) -> Counts:
    """The `counts` of a layer or a model that is kept whole inside."""

    def counted(
        call: Call,
        weights: Weights,
        inputs: Sequence[Sizes],
        outputs: Sequence[Sizes],
    ) -> int | None:
        one = inside(call)
        if is_functional(one.op):
            each = [_recorded(part) for part in read(one.op).calls]
        else:
            at_step: list[list[Sizes]] = [
                [(*shape[:_TIME], *shape[_TIME + 1 :]) for shape in some]
                for some in (inputs[:1], outputs)
            ]
            each = [counts.multiply_adds(one, inner, weights, *at_step)]
        known = [macs for macs in each if macs is not None]
        steps: int = inputs[0][_TIME]
        return steps * sum(known) if len(known) == len(each) else None

    return counted


def _recorded(call: Call) -> int | None:
    """The multiply-adds of a call in a model, at the sizes it has there."""
    weights = [(w.name, tuple(w.shape)) for w in own_weights(call.op)]
    shapes = [[t.shape for t in some] for some in (call.inputs, call.outputs)]
    return counts.multiply_adds(call, rule_of(call), weights, *shapes)


def _without_time(array: NDArray[Any]) -> NDArray[Any]:
    return array.squeeze(_TIME)


def _with_time(array: NDArray[Any]) -> NDArray[Any]:
    return np.expand_dims(array, _TIME)


def _fold(call: Call, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    if arrays[0].shape[_TIME] > 1:
        raise ValueError("it holds channels along the axis of time")
    return _without_time(arrays[0])


def _unfold(call: Call, arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return _with_time(arrays[0])


FOLD = Index("time distributed", move=_fold, along=nowhere)
UNFOLD = Index("time distributed", move=_unfold, along=nowhere)


def _moved(
    flow: Flow, move: Callable[[NDArray[Any]], NDArray[Any]], count: int
) -> Flow:
    """A flow of the layer inside as one of `count` inputs, or back."""

    def moved(origin: Origin) -> Origin:
        return move(origin) if isinstance(origin, np.ndarray) else origin

    return dataclasses.replace(
        flow,
        labels=[move(labels) for labels in flow.labels],
        sources=[
            [moved(sources[0]), *[None] * (count - 1)]
            for sources in flow.sources
        ],
    )


def _flow_inside(flow: Flow) -> Flow:
    return _moved(flow, _without_time, 1)


def _layer_inside(op: keras.Layer) -> keras.Layer:
    return op.layer


def _masks_inside(masks: list[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    return [_without_time(mask) for mask in masks]


# How the rule inside gets an argument, by its name.
_INSIDE: dict[str, Callable[[Any], Any]] = {
    "call": inside,
    "op": _layer_inside,
    "flow": _flow_inside,
    "demanded": _masks_inside,
}
_AS_IT_IS = {
    *("part", "values", "role", "side", "index", "closed", "kept"),
    *("constants", "count"),
}


def hooks() -> dict[str, Any]:
    """All that `Rule` declares: name -> function, property, or default."""
    fields = {field.name: field for field in dataclasses.fields(Rule)}
    declared = {**fields, **vars(Rule)}
    return {n: x for n, x in declared.items() if not n.startswith("_")}


def delegated() -> dict[str, Any]:
    """What `TimeDistributed` gets for a class of its own, to pass on."""
    fields = {field.name for field in dataclasses.fields(Rule)}
    found = {}
    for name, hook in hooks().items():
        if name in OWN or name in fields:
            continue
        method = inspect.isfunction(hook)
        found[name] = _asking(hook) if method else _attribute(name)
    return found


def _asking(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A method that asks the rule inside for one step of time."""
    names = list(inspect.signature(hook).parameters)[1:]
    strange = [n for n in names if n not in _INSIDE and n not in _AS_IT_IS]
    if strange:
        raise TypeError(
            f"TimeDistributed can't hand `{hook.__name__}` on: how is "
            f"{strange} at one step of time? Say so in `_INSIDE` or "
            "`_AS_IT_IS`, or define the method and list it in `OWN`."
        )
    steps = [_INSIDE.get(name) for name in names]

    @functools.wraps(hook)
    def ask(self: TimeDistributed, *args: Any) -> Any:
        given = [
            step(arg) if step is not None else arg
            for step, arg in zip(steps, args, strict=False)
        ]
        return getattr(self.inner, hook.__name__)(*given)

    return ask


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self.inner, name))


@dataclasses.dataclass(frozen=True)
class _StepView:
    """The `View` of the layer inside."""

    whole: View

    @property
    def index(self) -> dict[str, NDArray[np.intp]]:
        return self.whole.index

    @property
    def exact(self) -> bool:
        return self.whole.exact

    def removed(self, index: int) -> NDArray[np.float64] | None:
        return self.whole.removed(index)

    @property
    def inputs(self) -> list[NDArray[np.intp]]:
        return [_without_time(labels) for labels in self.whole.inputs[:1]]

    def masks(self, labels: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
        return self.whole.masks(labels)

    def shape(
        self, tensor: Tensor, labels: NDArray[np.intp]
    ) -> tuple[int | None, ...]:
        return self.whole.shape(tensor, labels)


@dataclasses.dataclass(frozen=True)
class TimeDistributed(Rule):
    """Asks the rule of the wrapped layer about one step of time.

    Attributes:
        inner: that rule; set by `pick`.
    """

    kind: str = "time distributed"
    note: str = "like the inner layer"
    inner: Rule = Barrier()

    def pick(self, call: Call) -> Rule:
        inner = rule_of(inside(call))
        if inner.is_gate:
            return Barrier(why=_GATE)
        if isinstance(inner, Barrier):
            why = inner.why or unknown(inside(call))
            return Barrier(why=why, counts=_each_step(inner))
        handed_on = {
            field.name: getattr(inner, field.name)
            for field in dataclasses.fields(Rule)
            if field.name not in OWN
        }
        return dataclasses.replace(
            self,
            kind=f"{self.kind} {inner.kind}",
            inner=inner,
            counts=None if inner.counts is None else _each_step(inner),
            **handed_on,
        )

    def reading(self, call: Call) -> Reading:
        found = self.inner.reading(inside(call))
        return ALL if found == STATISTICS else found

    def positions(
        self,
        call: Call,
        over: str,
        in_shape: tuple[int | None, ...],
        out_shape: tuple[int | None, ...],
    ) -> list[int | None]:
        at_step = [
            (*shape[:_TIME], *shape[_TIME + 1 :])
            for shape in (in_shape, out_shape)
        ]
        steps = in_shape[_TIME]
        return [steps, *self.inner.positions(inside(call), over, *at_step)]

    def channels(self, call: Call, over: str, rank: int) -> int:
        axis = self.inner.channels(inside(call), over, rank - 1)
        return axis % (rank - 1) + 1

    def axis(self, call: Call) -> int:
        return self.inner.axis(inside(call)) + 1

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        labels = inputs[0]
        if labels.shape[_TIME] > 1:
            why = "its channels are along the time axis"
            return barrier(call, inputs, units, why)
        for other in inputs[1:]:
            units.pin(other, "a mask is kept whole")
        one = self.inner.flow(inside(call), [_without_time(labels)], units)
        return _moved(one, _with_time, len(inputs))

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return self._at_step(self.inner.value, call, flow, values)

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return self._at_step(self.inner.guess, call, flow, values)

    def _at_step(
        self,
        ask: Callable[[Call, Flow, list[Known | None]], list[Known | None]],
        call: Call,
        flow: Flow,
        values: Sequence[Known | None],
    ) -> list[Known | None]:
        """What is known of the outputs, from what is known of the data."""
        x = values[0]
        if x is None:
            return [None] * len(call.outputs)
        one = dataclasses.replace(x, values=_without_time(x.values))
        found = ask(inside(call), _flow_inside(flow), [one])
        return [
            y and dataclasses.replace(y, values=_with_time(y.values))
            for y in found
        ]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        one, within = inside(call), _flow_inside(flow)
        config, _, _ = self.inner.revise(one, within, _StepView(view))
        return {"layer": wrapped(config)}, call.args, call.kwargs

    def with_bias(self, call: Call) -> dict[str, Any]:
        return {"layer": wrapped(self.inner.with_bias(inside(call)))}


for _name, _hook in delegated().items():
    setattr(TimeDistributed, _name, _hook)
