"""StripConv: its skeleton is closed stripe by stripe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.layers.stripconv import strip_costs
from keras_gates.layers.stripconv.stripes import Stripes
from keras_gates.surgeon.rules import activations
from keras_gates.surgeon.rules.convolution import Conv
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.packing import Packing
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import weight
from keras_gates.surgeon.rules.source import Source

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.layers.stripconv.strip_conv import StripConv
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Axes
    from keras_gates.surgeon.rules.rule import Flow
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.rule import Weights
    from keras_gates.surgeon.rules.view import View

_WHOLE: Axes = {
    "kernel": ("in", "out"),
    "skeleton": ("out",),
    "bias": ("out",),
}
_PACKED: Axes = {"stripe_kernel": ("stripe", "in"), "bias": ("out",)}


@dataclasses.dataclass(frozen=True)
class StripConvRule(Packing, Conv):
    """With a skeleton, or with the stripes that are left.

    With a skeleton, constants are not absorbed as a bias: how much of the
    kernel they meet depends on what is closed. They merge.
    """

    kind: str = "strip convolution"
    axes: Axes = dataclasses.field(default_factory=lambda: _WHOLE)
    config: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"filters": "out"}
    )
    costs: Mapping[str, str | None] | None = dataclasses.field(
        default_factory=lambda: {"kernel": "out", "stripe_kernel": "out"}
    )
    note: str = "pruned stripe by stripe"

    def axes_of(self, call: Call) -> Axes:
        return _WHOLE if call.op.stripes is None else _PACKED

    def couple(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> None:
        if call.op.stripes is not None:
            filters = np.nonzero(call.op.stripes.kept)[2]
            roles["stripe"] = roles["out"][filters]

    def reading(self, call: Call) -> Reading:
        return ZERO if call.op.stripes is None else super().reading(call)

    def approximates(self, call: Call) -> bool:
        return call.op.stripes is not None

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        if call.op.stripes is None:
            whole = {"kernel": "out", "bias": "out"}
            return {"kernel": "in"} if side == "in" else whole
        return {"stripe_kernel": "in"} if side == "in" else None

    def source(self, call: Call) -> Source | None:
        if call.op.stripes is not None:
            return None
        return Source(call.op, "stripe", call.op.skeleton)

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        """A filter without stripes puts out its bias."""
        empty = mask.all(axis=(0, 1))
        activation = call.op.activation
        if not empty.any() or activations.why_not(activation) is not None:
            return value
        bias = weight(call.op, "bias")
        bias = np.zeros(empty.shape) if bias is None else bias
        shape = flow.labels[0].shape
        out = activations.apply(activation, bias).reshape(shape)
        before = np.array(np.nan) if value is None else value.plain()
        before = np.broadcast_to(before, shape)
        return known(np.where(empty.reshape(shape), out, before))

    def opened_by(self, call: Call, flow: Flow) -> NDArray[np.intp] | None:
        """A filter is open as long as one of its stripes is."""
        if activations.why_not(call.op.activation) is not None:
            return None
        filters = len(flow.roles["out"])
        places = np.arange(np.prod(call.op.skeleton.shape))
        places = places.reshape(-1, filters).T
        return places.reshape(*flow.labels[0].shape, -1)

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        config, args, kwargs = super().revise(call, flow, view)
        if call.op.stripes is not None:
            left = _left(call.op, view.index, None)
            config["stripes"] = left.lists()
        return config, args, kwargs

    def pack(
        self,
        call: Call,
        arrays: dict[str, NDArray[Any]],
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> dict[str, Any]:
        left = _left(call.op, index, shut)
        if call.op.stripes is None:
            kernel = arrays.pop("kernel")
            factors = arrays.pop("skeleton")[:, :, None]
            kernel = (kernel * factors).astype(kernel.dtype)
            rows = kernel.transpose(0, 1, 3, 2)
            arrays["stripe_kernel"] = rows[left.kept]
        rows = arrays["stripe_kernel"]
        width = rows.shape[1]
        if not _open(call.op, index, shut).any():
            arrays["stripe_kernel"] = np.zeros_like(rows, shape=(1, width))
        return {
            "stripes": left.lists(),
            "skeleton_regularizer": None,
            "skeleton_constraint": None,
        }

    def packed_shapes(
        self,
        call: Call,
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> Weights:
        left = _left(call.op, index, shut)
        channels = _channels(call.op, index)
        shapes: Weights = [("stripe_kernel", (left.count, channels))]
        if call.op.bias is not None:
            shapes.append(("bias", (left.kept.shape[2],)))
        return shapes

    def told(
        self,
        call: Call,
        index: dict[str, NDArray[np.intp]],
        shut: NDArray[np.bool_] | None,
    ) -> list[str]:
        left = _left(call.op, index, shut)
        channels = _channels(call.op, index)
        window = call.op.window(call.inputs[0].shape)
        pays = strip_costs.pays(left, window, channels)
        stripes, dense = strip_costs.shares(left, window, channels)
        before = _open(call.op, {}, None).sum()
        how = "by stripes" if pays else "with a dense kernel"
        return [
            f"{left.count} of {before} stripes stay, computed {how}: about "
            f"{stripes if pays else dense:.0%} of the time of a dense layer "
            f"as wide, on {keras.backend.backend()}"
        ]


def _channels(op: StripConv, index: dict[str, NDArray[np.intp]]) -> int:
    """How many input channels are left."""
    if "in" in index:
        return len(index["in"])
    return int(op.input_spec.axes[op.channel_axis])


def _open(
    op: StripConv,
    index: dict[str, NDArray[np.intp]],
    shut: NDArray[np.bool_] | None,
) -> NDArray[np.bool_]:
    """The mask of the stripes that are left."""
    if op.stripes is not None:
        kept: NDArray[np.bool_] = op.stripes.kept
    else:
        kept = np.ones((*op.kernel_size, op.filters), np.bool_)
    if shut is not None:
        kept = kept & ~shut
    return kept[..., index["out"]] if "out" in index else kept


def _left(
    op: StripConv,
    index: dict[str, NDArray[np.intp]],
    shut: NDArray[np.bool_] | None,
) -> Stripes:
    """The `Stripes` that are left.

    Where a layer stays for its biases alone, it keeps one, of zeros.
    """
    kept = _open(op, index, shut)
    if not kept.any():
        kept = kept.copy()
        kept[0, 0, 0] = True
    return Stripes(kept)


STRIP_CONV = StripConvRule()
