"""Attention with projections: its heads, and its channels.

A head is one unit over the projections of query, key, value and output. Closed,
its rows of the output's kernel are zero; it goes from all four. So does a
dimension that all heads have, of the queries and keys or of the values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import attention_units as au
from keras_gates.surgeon.rules import inner_units as iu
from keras_gates.surgeon.rules.attention_units import Projections
from keras_gates.surgeon.rules.known import as_float64
from keras_gates.surgeon.rules.known import known
from keras_gates.surgeon.rules.rule import BIAS
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Flow
from keras_gates.surgeon.rules.rule import Rule
from keras_gates.surgeon.rules.rule import one_axis

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.labels import Units
    from keras_gates.surgeon.rules.attention_units import Layout
    from keras_gates.surgeon.rules.known import Known
    from keras_gates.surgeon.rules.modes import Reading
    from keras_gates.surgeon.rules.rule import Revision
    from keras_gates.surgeon.rules.view import View

_ARGUMENTS = ("query", "value", "key")
_MASKS = ("query_mask", "key_mask", "value_mask")
_OTHER = "an attention mask is kept whole"
_WHOLE = "an input of the attention has no channels that can be removed"
_ALONG = "the attention mixes positions along other axes"
_MASKED = "its mask has an axis of heads"
_SCORES = "its attention scores are read, and they have an axis of heads"
_BIASED = "its output has several channel axes with a bias along them"
_QUERY = ("query_kernel", "query_bias")


def _role(argument: str) -> str:
    return f"in {argument}"


def _equally_wide(op: keras.Layer) -> bool:
    """Whether Keras requires the query to be as wide as the value.

    That depends on the class, and on the version of Keras.
    """
    try:
        op.compute_output_shape((1, 2, 3), (1, 2, 4))
    except ValueError:
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Attention(Rule):
    """Query, key and value are read by one kernel each, `(in, head, dim)`.

    The output is minted by a kernel `(head, dim, out)`.
    """

    kind: str = "attention"
    costs: Mapping[str, str | None] | None = None
    note: str = "heads, and the channels that it reads and returns"

    def projections(self, op: keras.Layer) -> Projections:
        return Projections(op)

    def layout(self, op: keras.Layer) -> Layout:
        """The axes of heads and of dimensions in the weights."""
        return au.MULTI_HEAD

    def arguments(self, call: Call) -> dict[int, str]:
        """The argument name of each input, by index."""
        found = {}
        for name in _ARGUMENTS:
            tensor = call.argument(name)
            for index, x in enumerate(call.inputs):
                if x is tensor and index not in found:
                    found[index] = name
                    break
        return found

    def flow(
        self, call: Call, inputs: list[NDArray[np.intp]], units: Units
    ) -> Flow:
        names = self.arguments(call)
        roles, reads = {}, {}
        for index, labels in enumerate(inputs):
            shape = call.inputs[index].shape
            if index not in names:
                units.pin(labels, _OTHER)
                continue
            reads[index] = _role(names[index])
            roles[reads[index]] = self._read(call, names[index], units)
            ids = one_axis(labels, len(shape) - 1, shape)
            if ids is not None:
                units.tie(roles[reads[index]], ids)
                continue
            units.pin(roles[reads[index]], _WHOLE)
            if lb.varying(labels):
                units.pin(labels, _ALONG)
        if _role("key") not in roles:
            key = self._read(call, "key", units)
            units.tie(key, roles[_role("value")])
        if _equally_wide(call.op):
            units.tie(roles[_role("query")], roles[_role("value")])
        out = self._out(call, roles, units)
        if out is not None:
            roles["out"] = out
        part = self.projections(call.op)
        layout = self.layout(call.op)
        tied = self._equal_dims(call)
        roles.update(layout.minted(id(call.op), part, units, tied))
        self._pin(call, part, layout, roles, units)
        outputs = self._outputs(call, layout, roles)
        sources = [[None] * len(inputs) for _ in outputs]
        idle = layout.idle(part, roles)
        return Flow(outputs, sources, roles, mixes=True, reads=reads, idle=idle)

    def _read(
        self, call: Call, argument: str, units: Units
    ) -> NDArray[np.intp]:
        """The units that a kernel reads, the same in all calls of a layer.

        One call may have a separate key, and another may not.
        """
        width = self.projections(call.op).size(argument, 0)
        return units.mint((id(call.op), argument), width)

    def _out(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> NDArray[np.intp] | None:
        """The units of the output; None where they are not cut."""
        part = self.projections(call.op)
        if not part.flat:
            return None
        return units.mint(id(call.op), part.size("output", -1))

    def _equal_dims(self, call: Call) -> bool:
        """Whether keys and values must stay equally wide.

        The fused attention of JAX requires it.
        """
        return bool(keras.backend.backend() == "jax")

    def _pin(
        self,
        call: Call,
        part: Projections,
        layout: Layout,
        roles: dict[str, NDArray[np.intp]],
        units: Units,
    ) -> None:
        """Keep heads whole if their number shows outside."""
        axis = _heads_axis(call)
        mask = call.argument("attention_mask")
        if mask is not None:
            shape = tuple(getattr(mask, "shape", np.shape(mask)))
            # As the scores, which have positions of keys, and heads.
            rank = len(call.argument("query").shape) - axis // 2 - 1
            padded = any(
                name in call.found or call.argument(name) is not None
                for name in _MASKS
            )
            if len(shape) >= rank and (padded or shape[axis] != 1):
                units.pin(roles["head"], _MASKED)
        if len(call.outputs) > 1 and call.outputs[1].consumers:
            units.pin(roles["head"], _SCORES)
        if not part.flat and np.ptp(part.output_bias_values()):
            units.pin(roles["head"], _BIASED)
            units.pin(roles[layout.value_dim], _BIASED)

    def _outputs(
        self, call: Call, layout: Layout, roles: dict[str, NDArray[np.intp]]
    ) -> list[NDArray[np.intp]]:
        """Labels of the output, and of the scores if they are returned."""
        found = [lb.fixed(len(t.shape)) for t in call.outputs]
        if "out" in roles:
            found[0] = lb.vector(roles["out"], found[0].ndim, -1)
        if len(found) > 1 and not call.outputs[1].consumers:
            axis = _heads_axis(call)
            found[1] = lb.vector(roles[layout.query], found[1].ndim, axis)
        return found

    def axis(self, call: Call) -> int:
        return -1

    def axes_of(self, call: Call) -> Mapping[str, tuple[str | None, ...]]:
        keyed = call.argument("key") is not None
        part = self.projections(call.op)
        inside = self.layout(call.op).axes()
        axes: dict[str, tuple[str | None, ...]] = {}
        for name, argument in au.READERS.items():
            # Without a key of its own, the value is the key.
            at = "value" if argument == "key" and not keyed else argument
            axes[f"{name}_kernel"] = (_role(at), *inside[name])
            axes[f"{name}_bias"] = inside[name]
        out: tuple[str | None, ...] = ("out",)
        if not part.flat:
            out = (None,) * (len(part.output_kernel.shape) - 2)
        axes["output_kernel"] = (*inside["output"], *out)
        axes["output_bias"] = out
        return axes

    def parts(self, op: keras.Layer) -> list[Projections]:
        return [self.projections(op)]

    def reading(self, call: Call) -> Reading:
        biased = hasattr(self.projections(call.op), "query_bias")
        return BIAS if biased else ZERO

    def merges(self, call: Call) -> bool:
        return True

    def absorbed(
        self,
        call: Call,
        part: Projections,
        role: str,
        values: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:
        values = np.where(np.isnan(values), 0.0, values)
        return {
            name.replace("kernel", "bias"): np.tensordot(
                values, as_float64(getattr(part, name)), 1
            )
            for name in self._kernels(call, part, role)
        }

    def _kernels(self, call: Call, part: Projections, role: str) -> list[str]:
        """The names of the kernels that read what has this role."""
        return [
            name
            for name, roles in self.axes_of(call).items()
            if roles[0] == role and hasattr(part, name)
        ]

    def takes_input(
        self, call: Call, flow: Flow, index: int
    ) -> dict[str, str] | None:
        role = flow.reads.get(index)
        if role is None:
            return None
        names = self._kernels(call, self.projections(call.op), role)
        return dict.fromkeys(names, role)

    def takes(self, call: Call, side: str) -> dict[str, str] | None:
        if side != "out" or not self.projections(call.op).flat:
            return None
        return {"output_kernel": "out", "output_bias": "out"}

    # Inside ---------------------------------------------------------------

    def inner_units(self, call: Call) -> tuple[iu.InnerUnits, ...]:
        return self.layout(call.op).units(self.projections(call.op))

    def recalls(
        self,
        call: Call,
        flow: Flow,
        demanded: list[NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.intp]:
        """The open inner units, at least one."""
        live = any(mask.any() for mask in demanded)
        inner = self.inner_units(call)
        shut = iu.split(inner, flow.roles, closed)
        found = []
        for each in inner:
            read = ~shut[each.role] & ~flow.idle[each.role] & live
            if not read.any():
                read[0] = True
            found.append(flow.roles[each.role][read])
        return np.concatenate(found)

    def shut(
        self,
        call: Call,
        flow: Flow,
        value: Known | None,
        mask: NDArray[np.bool_],
    ) -> Known | None:
        """Without any head, or any of their dimensions, only the bias."""
        inner = self.inner_units(call)
        shut = iu.split(inner, flow.roles, mask)
        ends = ("head", self.layout(call.op).value_dim)
        if not any((shut[r] | flow.idle[r]).all() for r in ends):
            return value
        shape = flow.labels[0].shape
        bias = self.projections(call.op).output_bias_values()
        if shape[-1] == bias.size:
            return known(np.broadcast_to(bias, shape))
        # Where it varies, the heads are kept whole.
        return known(np.full(shape, bias.flat[0]))

    def inner_factors(
        self,
        call: Call,
        flow: Flow,
        kept: Mapping[str, NDArray[np.bool_]],
        closed: NDArray[np.bool_] | None,
    ) -> list[tuple[str, str, NDArray[np.float64]]]:
        found = super().inner_factors(call, flow, kept, closed)
        role = self.layout(call.op).key_dim
        mask = kept[role]
        if not mask.all():
            # Scores are divided by the root of the remaining size, not of the
            # original one.
            scale = np.full(mask.shape, math.sqrt(mask.sum() / mask.size))
            found += [(name, role, scale) for name in _QUERY]
        return found

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        config: dict[str, Any] = self._sizes(call, view)
        if "out" in view.index:
            # By default it would be as wide as the query is after the cut.
            config["output_shape"] = (len(view.index["out"]),)
        return config, call.args, call.kwargs

    def _sizes(self, call: Call, view: View) -> dict[str, Any]:
        """The changes to the config for the remaining inner units."""
        keys = {"num_heads": "head", "key_dim": "key_dim"}
        return {
            key: len(view.index[role])
            for key, role in {**keys, "value_dim": "value_dim"}.items()
        }


@dataclasses.dataclass(frozen=True)
class Grouped(Attention):
    """A head of keys and values serves several heads of queries.

    The output is as wide as the query, so that both are cut alike.
    """

    def layout(self, op: keras.Layer) -> Layout:
        return au.grouped(self.projections(op))

    def _out(
        self, call: Call, roles: dict[str, NDArray[np.intp]], units: Units
    ) -> NDArray[np.intp] | None:
        return roles.get(_role("query"))

    def revise(self, call: Call, flow: Flow, view: View) -> Revision:
        return self._sizes(call, view), call.args, call.kwargs

    def _sizes(self, call: Call, view: View) -> dict[str, Any]:
        layout, index = self.layout(call.op), view.index
        part = self.projections(call.op)
        keys = part.size("key", 1)
        return {
            "num_query_heads": len(index[layout.query]),
            "num_key_value_heads": keys
            if layout.key is None
            else len(index[layout.key]),
            "head_dim": len(index[layout.key_dim]),
        }


def _heads_axis(call: Call) -> int:
    """The axis of the heads in attention scores, and in a mask, below 0.

    Behind it are the positions of queries, then those of keys.
    """
    axes = getattr(call.op, "attention_axes", None)
    every = len(call.argument("query").shape) - 2
    return -2 * (every if axes is None else len(axes)) - 1
