"""Operations that read all channels: normalizations and softmax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import masked
from keras_gates.surgeon.rules.elementwise import EXTRA
from keras_gates.surgeon.rules.elementwise import Elementwise
from keras_gates.surgeon.rules.elementwise import mixing_flow
from keras_gates.surgeon.rules.elementwise import rerun
from keras_gates.surgeon.rules.known import Known
from keras_gates.surgeon.rules.known import Signals
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.norm_form import Form
from keras_gates.surgeon.rules.norm_form import Weight
from keras_gates.surgeon.rules.norm_statistics import of_layer
from keras_gates.surgeon.rules.per_channel import PerChannel
from keras_gates.surgeon.rules.per_channel import alike
from keras_gates.surgeon.rules.rule import ALL
from keras_gates.surgeon.rules.rule import STATISTICS
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import axes_among
from keras_gates.surgeon.rules.rule import only_first
from keras_gates.surgeon.rules.rule import weight
from keras_gates.surgeon.rules.written_norm import Held
from keras_gates.surgeon.rules.written_norm import Left
from keras_gates.surgeon.rules.written_norm import is_written_out
from keras_gates.surgeon.rules.written_norm import written_out

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.modes import Scaling
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Sizes
    from keras_gates.surgeon.rules.view import View

    # The axes that statistics are taken over, of a tensor of some rank.
    Spans = Callable[[keras.Operation, int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Normalizing(PerChannel):
    """Statistics over `spans(op, rank)`, which count constants that go.

    Attributes:
        spans: the axes that statistics are taken over.
    """

    kind: str = "normalization"
    spans: Spans = lambda op, rank: (-1,)
    cuts: bool = False

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        spans = self.spans(call.op, len(call.inputs[0].shape))
        if self._apart(call, inputs[0]):
            # The channels of one place, such as a head, go together.
            for axis in axes_among(spans, inputs[0].ndim):
                units.tie(inputs[0], inputs[0].take([0], axis=axis))
            return Flow([inputs[0]], [only_first(inputs, units, EXTRA)])
        flow = super().flow(call, inputs, units)
        if flow.reason is None:
            mixed = mixing_flow(call, inputs, units, spans)
            flow = dataclasses.replace(flow, mixes=mixed.mixes)
        if flow.mixes and "channel" in flow.roles:
            # By another name, since there is no kernel to it.
            roles = {**flow.roles, "statistics": flow.roles["channel"]}
            flow = dataclasses.replace(
                flow, roles=roles, reads={0: "statistics"}
            )
        return flow

    def _apart(self, call: Call, labels: NDArray[np.intp]) -> bool:
        """Whether there are channels along other axes than it normalizes.

        Then it treats each of them alone, with the same weights, as the
        normalizations of queries and keys do with heads. A stream with a class
        token has other channels at one place, but the same at all others: these
        are channels that the places share.
        """
        rank = labels.ndim
        spans = sorted(axes_among(self.spans(call.op, rank), rank))
        others = [axis for axis in lb.varying(labels) if axis not in spans]
        # On torch, Keras normalizes the last axes whatever it was given.
        last = spans == list(range(rank - len(spans), rank))
        if not last or not others:
            return False
        count = math.prod(labels.shape[axis] for axis in others)
        places = np.moveaxis(labels, others, range(len(others)))
        found = np.unique(places.reshape(count, -1), axis=0)
        return bool(len(found) == count)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """Constants along all that it normalizes make constants."""
        if values[0] is None or not self._apart(call, flow.labels[0]):
            return [None]
        x, shape = values[0].plain(), call.inputs[0].shape
        spans = axes_among(self.spans(call.op, x.ndim), x.ndim)
        if any(shape[axis] is None for axis in spans):
            return [None]
        varies = np.isnan(x).any(axis=tuple(spans), keepdims=True)
        whole = lb.spread(np.where(np.isnan(x), 0.0, x), shape, spans)
        found = alike(rerun(call, whole), x.shape)
        return [
            None if found is None else known(np.where(varies, np.nan, found))
        ]

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """The shift: a closed channel counts as one at its mean."""
        if values[0] is None:
            return [None]
        beta = weight(call.op, "beta")
        x = values[0].plain()
        shape = [1] * x.ndim
        shape[self.axis(call)] = -1
        if beta is not None and beta.ndim != 1:
            return [None]
        shift = 0.0 if beta is None else beta.reshape(shape)
        found = np.where(np.isnan(x), np.nan, shift)
        same = found.shape == x.shape and not np.isnan(found).all()
        return [Known(found, guess=True) if same else None]

    def reading(self, call: Call) -> Reading:
        return ALL if self._hands_mask(call) else STATISTICS

    def reads_all(self, call: Call) -> str:
        told, finds = super().reads_all(call), self._hands_mask(call)
        if not finds:
            return told
        return (
            f"{told}: written out, it would not pass on the mask of time "
            f"steps that {finds} finds on its output"
        )

    def _hands_mask(self, call: Call) -> str:
        """What would miss the mask of its output.

        The written-out form would not pass it on.
        """
        layer = self.writes_out(call) and not self.writes_again
        near = layer and masked.is_near(call)
        return masked.finder(call) if near else ""

    def absorbed(
        self,
        call: Call,
        part: keras.Layer,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        return {}

    def approximates(self, call: Call) -> bool:
        return True

    def writes_out(self, call: Call) -> bool:
        return True

    def signals(
        self, call: Call, constants: NDArray[np.float64]
    ) -> Signals | None:
        """`gamma * (c / sigma - mu / sigma) + beta`."""
        form = self.form(call)
        gamma, beta = _vector(form.gamma), _vector(form.beta)
        ones = np.ones(len(constants))
        gamma = ones if gamma is None else gamma
        beta = 0 * ones if beta is None else beta
        if gamma.shape != ones.shape or beta.shape != ones.shape:
            return None
        centers = form.statistics.centers
        by_mean = gamma if centers else 0 * gamma
        shares = np.stack([gamma * constants, by_mean])
        return Signals(form.group_of, shares, beta)

    def replaced(
        self, call: Call, flow: Flow, view: View
    ) -> keras.Operation | None:
        removed = view.removed(0)
        loose = not view.exact and self.approximates(call)
        if removed is None or loose or not self.writes_out(call):
            return None
        return written_out(self._left(call, view, removed))

    def form(self, call: Call) -> Form:
        """What the layer computes."""
        op, rank = call.op, len(call.inputs[0].shape)
        spans = sorted(axis % rank for axis in self.spans(op, rank))
        axis = self.axis(call) % rank

        def held(name: str) -> Weight | None:
            weight = getattr(op, name)
            if weight is None:
                return None
            axes = spans if len(weight.shape) > 1 else [axis]
            return Weight(op, name, tuple(axes))

        group_of = self.parts_of(call)
        # An old option divides and does not center.
        centers = not getattr(op, "rms_scaling", False)
        groups = int(group_of.max()) + 1
        return Form(
            of_layer(op.epsilon, groups, centers),
            axis,
            tuple(spans),
            group_of,
            held("gamma"),
            held("beta"),
        )

    def parts_of(self, call: Call) -> NDArray[np.intp]:
        """The number of the group that each channel is in."""
        count = call.inputs[0].shape[self.axis(call)] or 1
        return np.zeros(count, np.intp)

    def _left(
        self, call: Call, view: View, removed: NDArray[np.float64]
    ) -> Left:
        tensor, op = call.inputs[0], call.op
        # It may be called on other sizes elsewhere.
        shape = view.shape(tensor, view.inputs[0])
        form, dtype = self.form(call), tensor.dtype or "float32"
        return Left(op, form, shape, dtype, removed, op.compute_dtype)

    def holds(self, layer: keras.Layer | None) -> bool:
        return is_written_out(layer)

    def parts(self, op: keras.Operation) -> list[Any]:
        return [Held(op)] if is_written_out(op) else [op]


@dataclasses.dataclass(frozen=True)
class RMSNorm(Normalizing):
    """Keeps its class: constants act like an epsilon in the mean of squares.

    With k of n channels gone, the mean of the squares of all is
    `(n - k) / n * mean(x^2) + sum(c^2) / n`.
    """

    kind: str = "RMS normalization"

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """Zeros stay zero; other constants are divided by a varying number."""
        if values[0] is None:
            return [None]
        if self._apart(call, flow.labels[0]):
            return super().value(call, flow, values)
        return [known(np.where(values[0].plain() == 0, 0.0, np.nan))]

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        removed = view.removed(0)
        if removed is None:
            return {}, call.args, call.kwargs
        squares = float(np.nansum(removed**2)) / removed.size
        left = float(np.isnan(removed).mean())
        epsilon = (call.op.epsilon + squares) / left
        return {"epsilon": epsilon}, call.args, call.kwargs

    def rescaled(self, removed: NDArray[np.float64] | None) -> dict[str, float]:
        if removed is None:
            return {}
        return {"scale": float(1 / np.sqrt(np.isnan(removed).mean()))}

    def writes_out(self, call: Call) -> bool:
        return False

    def signals(
        self, call: Call, constants: NDArray[np.float64]
    ) -> Signals | None:
        scale = as_float64(call.op.scale)
        if scale.shape != constants.shape:
            return None
        zeros = np.zeros(len(constants))
        parts = np.zeros(len(constants), np.intp)
        return Signals(parts, np.stack([scale * constants, zeros]), zeros)


@dataclasses.dataclass(frozen=True)
class GroupNorm(Normalizing):
    """Statistics of each group; where a group is one channel, of it alone."""

    kind: str = "group normalization"

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        if self._alone(call):
            return PerChannel.flow(self, call, inputs, units)
        return super().flow(call, inputs, units)

    def _alone(self, call: Call) -> bool:
        """Whether each group is one channel (instance normalization)."""
        axis = call.op.axis % len(call.inputs[0].shape)
        return call.op.groups in (call.inputs[0].shape[axis], -1)

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        """A constant is its own mean: the shift alone comes out."""
        if values[0] is None or flow.mixes:
            return [None]
        x = values[0].plain()
        shift = weight(call.op, "beta")
        if shift is None:
            return [known(np.where(np.isnan(x), np.nan, 0.0))]
        shape = [1] * x.ndim
        shape[call.op.axis] = -1
        shift = shift.reshape(shape)
        if np.broadcast_shapes(shift.shape, x.shape) != x.shape:
            return [None]
        return [known(np.where(np.isnan(x), np.nan, shift))]

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        alone = "channel" in view.index and not flow.mixes
        if not alone or call.op.groups == -1:
            return {}, call.args, call.kwargs
        groups = len(view.index["channel"])
        return {"groups": groups}, call.args, call.kwargs

    def guess(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        return [None]

    def approximates(self, call: Call) -> bool:
        return False

    def writes_out(self, call: Call) -> bool:
        return not self._alone(call)

    def written_macs(self, call: Call, sizes: Sizes) -> int:
        """Channels are gathered into groups twice, but for one group."""
        groups = call.op.groups if call.op.groups > 1 else 0
        gathers = 2 * sizes[call.op.axis] * groups
        return int(super().written_macs(call, sizes) + gathers)

    def parts_of(self, call: Call) -> NDArray[np.intp]:
        count, groups = len(super().parts_of(call)), call.op.groups
        size = max(1, count // max(1, groups))
        found: NDArray[np.intp] = np.arange(count) // size
        return found


@dataclasses.dataclass(frozen=True)
class Mixing(Elementwise):
    """Elementwise, but each output depends on all inputs along `spans`."""

    kind: str = "mixing"
    spans: Spans = lambda op, rank: (-1,)
    absorbs: Reading = ALL
    cuts: bool = False

    # `UnitNormalization` takes zeros for what they are, and puts out others
    # for what comes in: gates act before it.
    pointwise = False

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        spans = self.spans(call.op, len(call.inputs[0].shape))
        return mixing_flow(call, inputs, units, spans)

    def compared_axes(self, call: Call) -> list[int]:
        rank = len(call.inputs[0].shape)
        spans = self.spans(call.op, rank) if self.absorbs == ALL else ()
        return [axis % rank for axis in spans]

    def as_function(
        self, op: keras.Operation | None
    ) -> tuple[Scaling | None, bool] | None:
        return None, True

    def value(
        self, call: Call, flow: Flow, values: Sequence[Known | None]
    ) -> list[Known | None]:
        if values[0] is None:
            return [None]
        x = values[0].plain()
        if not flow.mixes:
            return [known(self._along_others(call, x))]
        if self.absorbs != ZERO:
            return [None]
        return [known(np.where(x == 0, 0.0, np.nan))]

    def _along_others(
        self, call: Call, x: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """What comes of constants along axes that hold no channels."""
        shape = call.inputs[0].shape
        spans = [a % x.ndim for a in self.spans(call.op, x.ndim)]
        if len(call.inputs) > 1 or any(shape[a] is None for a in spans):
            return None
        true = lb.spread(np.where(np.isnan(x), 0.0, x), shape, spans)
        found = alike(rerun(call, true), x.shape)
        return None if found is None else np.where(np.isnan(x), np.nan, found)

    def reading(self, call: Call) -> Reading:
        return self.absorbs

    def approximates(self, call: Call) -> bool:
        return self.absorbs == ALL


def _vector(weight: Weight | None) -> NDArray[np.float64] | None:
    """The numbers of a weight along its only axis, or as they are."""
    if weight is None:
        return None
    values = as_float64(weight.variable)
    alone = sum(axis is not None for axis in weight.axes) == 1
    return values.reshape(-1) if alone else values


def norm_axes(op: keras.Operation, rank: int) -> list[int]:
    """The axes of a normalization as a list."""
    return axes_among(op.axis, rank)


def all_axes(op: keras.Operation, rank: int) -> list[int]:
    """All axes but that of the batch."""
    return list(range(1, rank))


def single_axis(call: Call) -> int:
    """The last of the axes that a normalization was given."""
    return int(np.atleast_1d(call.op.axis)[-1])
