"""TimeDistributed: the rule of the layer inside, one axis further on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
from keras_gates.surgeon.rules.gates import GateRule
from keras_gates.surgeon.rules.index import Index
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.moves import nowhere
from keras_gates.surgeon.rules.recurrent import wrapped
from keras_gates.surgeon.rules.registry import rule_of
from keras_gates.surgeon.rules.rule import Barrier
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import barrier
from keras_gates.surgeon.rules.rule import unknown

if TYPE_CHECKING:
    from keras_gates.surgeon.labels import Units

_TIME = time_axis.AXIS
_GATE = "a gate inside TimeDistributed is not seen; gates take any rank"


def inside(call: Call) -> Call:
    """The call of the wrapped layer at one step of time."""

    def step(tensor: Tensor) -> Tensor:
        shape = (tensor.shape[0], *tensor.shape[_TIME + 1 :])
        return Tensor(shape, tensor.dtype)

    x = step(call.inputs[0])
    y = [step(tensor) for tensor in call.outputs]
    site = Site(call.op.layer, call.site.node, call.site.name)
    return Call(site, (x,), {}, [x], y, call.path)


def _each_step(inner: Any) -> Any:
    """The `counts` of a layer or a model that is kept whole inside."""

    def counted(call: Call, weights: Any, inputs: Any, outputs: Any) -> Any:
        one = inside(call)
        if is_functional(one.op):
            each = [_recorded(part) for part in read(one.op).calls]
        else:
            shapes = [
                [(*shape[:_TIME], *shape[_TIME + 1 :]) for shape in some]
                for some in (inputs[:1], outputs)
            ]
            each = [counts.of(one, inner, weights, *shapes)]
        return None if None in each else inputs[0][_TIME] * sum(each)

    return counted


def _recorded(call: Call) -> Any:
    """The multiply-adds of a call in a model, at the sizes it has there."""
    weights = [(w.name, tuple(w.shape)) for w in own_weights(call.op)]
    shapes = [[t.shape for t in some] for some in (call.inputs, call.outputs)]
    return counts.of(call, rule_of(call), weights, *shapes)


def _map(
    function: Callable[..., Any], array: NDArray[np.int64] | str | None
) -> NDArray[np.int64] | str | None:
    """`function` on what may also be None or a name."""
    return function(array) if isinstance(array, np.ndarray) else array


def _without_time(array: NDArray[Any]) -> NDArray[Any]:
    return array.squeeze(_TIME)


def _with_time(array: NDArray[Any]) -> NDArray[Any]:
    return np.expand_dims(array, _TIME)


def _fold(call: Call, arrays: Any) -> Any:
    if arrays[0].shape[_TIME] > 1:
        raise ValueError("it holds channels along the axis of time")
    return _without_time(arrays[0])


def _unfold(call: Call, arrays: Any) -> Any:
    return _with_time(arrays[0])


FOLD = Index("time distributed", move=_fold, along=nowhere)
UNFOLD = Index("time distributed", move=_unfold, along=nowhere)


@dataclasses.dataclass(frozen=True)
class TimeDistributed(Rule):
    """Asks the rule of the wrapped layer about one step of time.

    Attributes:
        inner: that rule; set by `pick`.
    """

    kind: str = "time distributed"
    note: str = "as the layer inside"
    inner: Rule = Barrier()

    def pick(self, call: Call) -> Rule:
        inner = rule_of(inside(call))
        if isinstance(inner, GateRule):
            return Barrier(why=_GATE)
        if isinstance(inner, Barrier):
            why = inner.why or unknown(call.op.layer)
            return Barrier(why=why, counts=_each_step(inner))
        return dataclasses.replace(
            self,
            kind=f"{self.kind} {inner.kind}",
            inner=inner,
            axes=inner.axes,
            costs=inner.costs,
            trains=inner.trains,
        )

    def positions(
        self,
        call: Call,
        over: str,
        in_shape: tuple[int | None, ...],
        out_shape: tuple[int | None, ...],
    ) -> list[int]:
        shapes = [
            (*shape[:_TIME], *shape[_TIME + 1 :])
            for shape in (in_shape, out_shape)
        ]
        steps = in_shape[_TIME]
        return [steps, *self.inner.positions(inside(call), over, *shapes)]

    def flow(
        self, call: Call, inputs: list[NDArray[np.int64]], units: Units
    ) -> Flow:
        labels = inputs[0]
        if labels.shape[_TIME] > 1:
            why = "it works along the axis of time"
            return barrier(call, inputs, units, why)
        for other in inputs[1:]:
            units.pin(other, "a mask is read whole")
        one = self.inner.flow(inside(call), [_without_time(labels)], units)
        return self._moved(one, _with_time, len(inputs))

    def _moved(self, flow: Flow, move: Callable[..., Any], count: int) -> Flow:
        """A flow of the layer inside as one of this layer, or back."""
        return dataclasses.replace(
            flow,
            labels=[move(labels) for labels in flow.labels],
            sources=[
                [_map(move, sources[0])] + [None] * (count - 1)
                for sources in flow.sources
            ],
        )

    def value(
        self, call: Call, flow: Flow, values: list[Known]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None] * len(call.outputs)
        x = Known(_without_time(values[0].values), values[0].border)
        found = self.inner.value(inside(call), self._inner(flow), [x])
        return [y and Known(_with_time(y.values), y.border) for y in found]

    def _inner(self, flow: Flow) -> Flow:
        return self._moved(flow, _without_time, 1)

    def revise(self, call: Call, flow: Flow, view: Any) -> Any:
        one = inside(call)
        config, _, _ = self.inner.revise(one, self._inner(flow), view)
        return {"layer": wrapped(config)}, call.args, call.kwargs

    def with_bias(self, call: Call) -> Any:
        return {"layer": wrapped(self.inner.with_bias(inside(call)))}

    # What the layer inside says of itself holds for this one.

    def input_axis(self, call: Call) -> int:
        return self.inner.input_axis(inside(call)) + 1

    def channels(self, call: Call, over: Any, rank: int) -> Any:
        return (
            self.inner.channels(inside(call), over, rank - 1) % (rank - 1) + 1
        )

    def parts(self, op: keras.Layer) -> list[keras.Layer]:
        return self.inner.parts(op.layer)

    def contribution(
        self, part: keras.Layer, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return self.inner.contribution(part, values)

    @property
    def kernel(self) -> Any:
        return self.inner.kernel

    def axes_of(self, call: Call) -> dict[str, tuple[str | None, ...]]:
        return self.inner.axes_of(inside(call))

    def sized(self, call: Call) -> bool:
        return self.inner.sized(inside(call))

    def reading(self, call: Call) -> str:
        return self.inner.reading(inside(call))

    def merges(self, call: Call) -> bool:
        return self.inner.merges(inside(call))

    def approximates(self, call: Call) -> bool:
        return self.inner.approximates(inside(call))

    def recalls(
        self,
        call: Call,
        flow: Flow,
        demanded: list[NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64] | None:
        one = [_without_time(mask) for mask in demanded]
        within = self._inner(flow)
        return self.inner.recalls(inside(call), within, one, closed)

    def zeroed(self, call: Call) -> dict[str, str]:
        return self.inner.zeroed(inside(call))

    def scaling(self, call: Call) -> Any:
        return self.inner.scaling(inside(call))

    def behind(self, call: Call) -> str | None:
        return self.inner.behind(inside(call))

    def takes(self, call: Call, side: str) -> None:
        return self.inner.takes(inside(call), side)
