"""How much each coordinate varies, given how far earlier gates are open.

The pass `label.constants` says of each coordinate whether it is a constant when
some gates are closed. Here the same is a number: 1 where it varies, 0 where it
is known, and in between where gates are half open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.expected.arithmetic import any_of
from keras_gates.surgeon.expected.arithmetic import constant
from keras_gates.surgeon.expected.arithmetic import either
from keras_gates.surgeon.expected.arithmetic import grouped
from keras_gates.surgeon.expected.arithmetic import picked
from keras_gates.surgeon.passes.label import blends
from keras_gates.surgeon.rules.rule import STATISTICS

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.known import Known


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """An input of a step that the coordinates of an output stem from.

    Attributes:
        tensor: the input.
        source: for each coordinate of the output, those of the input; its
            size for none. Int, `(size of the output, most)`.
        readers: for each coordinate of the input, those of the output; int,
            `(size of the input, most)`.
        decides: 1 where a constant is 0 and makes a product 0, else 0.
    """

    tensor: Tensor
    source: NDArray[np.intp]
    readers: NDArray[np.intp]
    decides: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """How an output of a step varies.

    Attributes:
        tensor: the output.
        size: that of its labels.
        origins: the inputs that its coordinates stem from.
        filled: 1 where a coordinate stems from none of them, as those of
            padding do, else 0.
        mixed: the inputs that each coordinate depends on, all of them.
        gated: numbers of factors, of which one must be open for a coordinate
            to vary; int, `(size, most)`, or None.
        ever: 1 where it is a constant once everything is closed, else 0.
    """

    tensor: Tensor
    size: int
    origins: tuple[Origin, ...]
    filled: NDArray[np.float64]
    mixed: tuple[Tensor, ...]
    gated: NDArray[np.intp] | None
    ever: NDArray[np.float64]

    def varies(
        self, xp: Any, values: Mapping[Tensor, Any], factors: Any
    ) -> Any:
        """How far each coordinate does, `(..., size)`.

        Args:
            xp: `numpy` or `keras.ops`.
            values: the same for the tensors before it.
            factors: how far each factor is open, `(..., factors)`.
        """
        ones = xp.ones_like(factors[..., :1]) * constant(xp, np.ones(self.size))
        if not self.ever.any():
            return ones
        if self.origins:
            ones = self._of_origins(xp, values)
        elif self.mixed:
            each = [any_of(xp, values[tensor]) for tensor in self.mixed]
            ones = either(each)[..., None] * ones
        if self.gated is not None:
            ones = ones * picked(xp, factors, self.gated)
        if self.ever.all():
            return ones
        ever = constant(xp, self.ever)
        return ones * ever + (1 - ever)

    def _of_origins(self, xp: Any, values: Mapping[Tensor, Any]) -> Any:
        each = [
            picked(xp, values[origin.tensor], origin.source)
            for origin in self.origins
        ]
        found = each[0] if len(each) == 1 else either(each)
        for origin, own in zip(self.origins, each, strict=True):
            if origin.decides.any():
                decides = constant(xp, origin.decides)
                found = found * (decides * own + (1 - decides))
        if self.filled.any():
            # The surgeon sees constants where it follows some already.
            given = [values[origin.tensor] for origin in self.origins]
            none_known = xp.prod(xp.concatenate(given, axis=-1), axis=-1)
            filled = constant(xp, self.filled)
            found = found + none_known[..., None] * filled
        return found


def outputs_of(
    step: Step,
    labelling: Labelling,
    values: Mapping[Tensor, Known],
    starts: Mapping[int, int],
    count: int,
) -> list[Output]:
    """The `Output`s of a step.

    Args:
        step: the step.
        labelling: the `Labelling` that it is of.
        values: what is known of each tensor when everything is closed.
        starts: id of a layer with factors -> the number of its first one.
        count: how many factors there are.
    """
    flow, labels = step.flow, labelling.labels
    counts = not step.is_selection and (
        step.rule.reading(step.call) == STATISTICS
    )
    start = None if step.is_selection else starts.get(id(step.call.op))
    found = []
    for number, tensor in enumerate(step.outputs):
        own = labels[tensor]
        origins, gated = [], None
        for index, source in enumerate(flow.sources[number]):
            # What counts its inputs puts out each for what it was.
            alone = not flow.mixes or counts
            if source is not None and alone:
                given = labels[step.inputs[index]].shape
                zero = _is_zero(values.get(step.inputs[index]), given)
                units = None
                if blends(step, number, index, labelling):
                    units = labels[step.inputs[index]].ravel()
                origins.append(_origin(step, index, source, own, zero, units))
        if start is not None and number == 0:
            opened = step.rule.opened_by(step.call, flow)
            if opened is not None:
                gated = opened.reshape(own.size, -1) + start
        known = values.get(tensor)
        ever = np.zeros(own.shape, bool)
        if known is not None and not flow.reason:
            ever = ~np.isnan(lb.stretched(known.values, own.shape))
        mixed = step.inputs if flow.mixes else ()
        filled = np.full(own.size, bool(origins))
        for origin in origins:
            filled &= origin.source[:, 0] == labels[origin.tensor].size
        found.append(
            Output(
                tensor,
                own.size,
                tuple(origins),
                filled.astype("float64"),
                tuple(mixed),
                gated,
                ever.astype("float64").ravel(),
            )
        )
    return found


def _is_zero(known: Known | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where an input is 0 when everything is closed."""
    if known is None:
        return np.zeros(shape, bool)
    zero: NDArray[np.bool_] = lb.stretched(known.plain(), shape) == 0
    return zero


def _origin(
    step: Step,
    index: int,
    source: Any,
    own: NDArray[np.intp],
    zero: NDArray[np.bool_],
    units: NDArray[np.intp] | None,
) -> Origin:
    """How an output stems from an input.

    Args:
        step: the step.
        index: the number of the input.
        source: as in `Flow`.
        own: the labels of the output.
        zero: where the input is 0 when everything is closed.
        units: the labels of the input, flat, if all coordinates of a unit make
            an output; None if it is the source alone.
    """
    size = zero.size
    if not isinstance(source, np.ndarray):  # IDENTITY
        source = np.arange(size).reshape(zero.shape)
    source = lb.stretched(source, own.shape).ravel()
    there = source >= 0
    places = np.where(there, source, size)
    readers = grouped(source[there], np.flatnonzero(there), size, own.size)
    decides = np.zeros(own.size)
    call, rule = step.call, step.rule
    if rule.one_takes_all(call) and rule.carries(call, index) is not None:
        decides = np.append(zero.ravel(), False)[places].astype("float64")
    tensor = step.inputs[index]
    if units is not None:
        return _blended(tensor, places, units, decides)
    return Origin(tensor, places[:, None], readers, decides)


def _blended(
    tensor: Tensor,
    places: NDArray[np.intp],
    units: NDArray[np.intp],
    decides: NDArray[np.float64],
) -> Origin:
    """The same where all coordinates of a unit make an output."""
    size = len(units)
    alike = np.append(units, -1)[places][:, None] == units
    outputs, inputs = np.nonzero(alike)
    return Origin(
        tensor,
        grouped(outputs, inputs, len(places), size),
        grouped(inputs, outputs, size, len(places)),
        decides,
    )
