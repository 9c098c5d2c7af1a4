"""The arrays of each layer at its final size."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.graphs import graph as gr
from keras_gates.graphs.variables import copy_seeds
from keras_gates.graphs.variables import copy_state
from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decide import merge_target
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.rules.packing import PackingConv
from keras_gates.surgeon.rules.per_channel import batch_norm_axis
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.rule import Rule

# How many entries are taken out of a kernel at a time.
_AT_ONCE = 2**18


class Weights:
    """Cuts, absorbs and scales the weights of one decision.

    Constants that go are absorbed in terms of the original kernel; factors
    of gates come after, and the cut comes last.
    """

    def __init__(self, decision: Decision, folds: Folds) -> None:
        self.decision = decision
        self.folds = folds
        self.shifts = {}
        self._left = {}
        self._steps = {}
        for step in decision.labelling.steps:
            if step.position is None:
                self._steps.setdefault(id(step.call.op), []).append(step)

    def index(self, step: Step) -> dict[str, NDArray[np.int64]]:
        """The kept positions along each role of a step."""
        return {
            role: np.flatnonzero(self.decision.mask(ids))
            for role, ids in step.flow.roles.items()
        }

    def of(self, step: Step) -> tuple[Any, ...]:
        """`(arrays by name, changes to the config)` of a layer.

        Empty where the layer creates its weights in layers of its own;
        `finish` sets those, and all that creation does not use.
        """
        layer = step.call.op
        if not isinstance(layer, keras.Layer):
            return {}, {}
        parts = step.rule.parts(layer)
        axes = step.rule.axes_of(step.call)
        named = [
            {
                name: create.array_of(weight)
                for name, weight in named_weights(part, axes)
            }
            for part in parts
        ]
        self._left[id(layer)] = None
        if sum(map(len, named)) != len(layer.weights):
            return {}, {}
        self._left[id(layer)] = step.rule, named
        extra = {}
        for part, arrays in zip(parts, named, strict=True):
            extra.update(self._absorb(step, part, arrays))
            self._resize(step, arrays)
        if isinstance(step.rule, PackingConv):
            shut = self.decision.closed.get(layer)
            packed = step.rule.pack(step.call, named[0], self.index(step), shut)
            extra.update(packed)
        own = parts == [layer] and not create.has_sublayers(layer)
        return (named[0] if own else {}), extra

    def _resize(
        self, step: Step, arrays: dict[str, NDArray[np.float64]]
    ) -> None:
        axes = step.rule.axes_of(step.call)
        index = self.index(step)
        for name in arrays:
            roles = axes.get(name, ())
            array = _cut(arrays[name], roles, index, step.flow.roles)
            arrays[name] = self._scaled(step, name, roles, index, array)

    def _scaled(
        self,
        step: Step,
        name: str,
        roles: tuple[str | None, ...],
        index: dict[str, NDArray[np.int64]],
        array: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """A cut array, times the factors of gates."""
        for role, factor in self.folds.factors_of(step.call.op, name):
            factor = factor[index.get(role, slice(None))]
            factor = _along(factor, role, roles, array.ndim)
            array *= factor.astype(array.dtype)
        return array

    # Constants -----------------------------------------------------------

    def _absorb(
        self,
        step: Step,
        part: Rule | keras.Layer,
        arrays: dict[str, NDArray[np.float64]],
    ) -> dict[str, bool]:
        """Fold known inputs that go into the weights; config changes."""
        layer = step.call.op
        shift = self.shifts.pop(id(layer), None)
        if shift is not None:
            mean = arrays["moving_mean"]
            arrays["moving_mean"] = (mean - shift).astype(mean.dtype)
        changes = {}
        for index, gone in self.decision.absorbed(step).items():
            absorbable = self.decision.absorbable(step, index)
            if absorbable.how is Absorption.MERGE:
                self._merge(step, arrays, index, gone)
            else:
                role = step.flow.reads[index]
                with faults.of_rule(step.call, step.rule):
                    added = step.rule.absorbed(step.call, part, role, gone)
                for name, bias in added.items():
                    changes.update(self._add_bias(step, arrays, name, bias))
        return changes

    def _merge(
        self,
        step: Step,
        arrays: dict[str, NDArray[np.float64]],
        index: int,
        gone: NDArray[np.float64],
    ) -> None:
        """Give one constant input the kernel slices of all others."""
        _, position = merge_target(self.decision, step, index)
        absorbable = self.decision.absorbable(step, index)
        share = gone / absorbable.values[position]
        share[position] = 1.0
        role = step.flow.reads[index]
        for name, roles in step.rule.axes_of(step.call).items():
            if role in roles and name in arrays:
                array = arrays[name]
                axis = array.ndim - len(roles) + roles.index(role)
                array = np.array(array)
                slices = np.moveaxis(array, axis, 0)
                rows = np.flatnonzero(share)
                merged = np.tensordot(
                    share[rows], slices[rows].astype("float64"), 1
                )
                slices[position] = merged
                arrays[name] = array

    def _add_bias(
        self,
        step: Step,
        arrays: dict[str, NDArray[np.float64]],
        name: str,
        added: NDArray[np.float64],
    ) -> dict[str, bool]:
        call = step.call
        if name in arrays:
            bias = arrays[name]
            arrays[name] = (bias + added).astype(bias.dtype)
            return {}
        # A bias that was there is scaled with the other weights; a new one
        # has to be given the factors that the kernel's outputs get.
        kernel = step.rule.kernel
        roles = step.rule.axes_of(call)[name]
        for role, factor in self.folds.factors_of(call.op, kernel):
            if role in roles:
                added = added * _along(factor, role, roles, added.ndim)
        norm = self._norm_behind(step)
        if norm is not None:
            self.shifts[id(norm)] = added.reshape(-1)
            return {}
        kernel = arrays[step.rule.kernel]
        arrays[name] = added.astype(kernel.dtype)
        return step.rule.with_bias(call)

    def added_bias(self, step: Step) -> int:
        """How many parameters a new bias adds to a layer."""
        call, total = step.call, 0
        for index, gone in self.decision.absorbed(step).items():
            merges = (
                self.decision.absorbable(step, index).how is Absorption.MERGE
            )
            if merges or self._norm_behind(step) is not None:
                continue
            role = step.flow.reads[index]
            for part in step.rule.parts(call.op):
                with faults.of_rule(call, step.rule):
                    added = step.rule.absorbed(call, part, role, gone)
                total += sum(
                    self._size(step, name, bias)
                    for name, bias in added.items()
                    if getattr(part, name, None) is None
                )
        return total

    def _size(self, step: Step, name: str, array: NDArray[np.float64]) -> int:
        """How large an array like a weight is after the cut."""
        roles = step.rule.axes_of(step.call)[name]
        return _cut(array, roles, self.index(step), step.flow.roles).size

    def _norm_behind(self, step: Step) -> None:
        """The BatchNormalization that alone reads a layer's output."""
        tensor = step.outputs[0]
        alone = len(self._steps[id(step.call.op)]) == 1
        linear = step.rule.behind(step.call) == LINEAR
        if len(tensor.consumers) != 1 or not alone or not linear:
            return None
        call = tensor.consumers[0]
        norm = call.op
        if (
            type(norm) is not keras.layers.BatchNormalization
            or gr.has_own_call(norm)
            or len(self._steps.get(id(norm), ())) != 1
            or call.kwargs.get("training") is True
            or tensor in self.decision.labelling.graph.outputs
        ):
            return None
        rank = len(tensor.shape)
        axes = lb.varying(step.flow.labels[0])
        return norm if axes == [batch_norm_axis(norm) % rank] else None

    # The rest ------------------------------------------------------------

    def has_all(self, old: keras.Operation) -> None:
        """Note that the copy of a layer has all weights of the old one.

        Those that are not as they were are set by `finish`.
        """
        if self._left.get(id(old)) is None:
            self._left.pop(id(old), None)

    def finish(self, old: keras.Layer, new: keras.Layer) -> None:
        """Set the weights that creation left, and the random states."""
        if id(old) not in self._left:
            return
        left = self._left.pop(id(old))
        if left is None:
            copy_state(old, new)
            return
        rule, named = left
        for part, arrays in zip(rule.parts(new), named, strict=True):
            _assign(old, part, arrays)
        copy_seeds(old, new)


def _assign(
    old: keras.Layer,
    part: Rule | keras.Layer,
    arrays: dict[str, NDArray[np.float64]],
) -> None:
    """Give a part of a new layer the weights that it was not made with."""
    weights = dict(named_weights(part, arrays)) if arrays else {}
    for name, array in arrays.items():
        weight = weights.get(name)
        if weight is None or tuple(weight.shape) != array.shape:
            raise ValueError(
                f"Weight '{name}' of layer '{old.name}' (of type "
                f"{type(old).__name__}) should have the shape {array.shape} "
                "after the cut, but the layer recreated from its config has "
                f"{None if weight is None else tuple(weight.shape)}. Its "
                "`get_config()` must return every argument of its "
                "constructor, and its rule must name the config keys that "
                "hold widths."
            )
        weight.assign(array)


def _along(
    vector: NDArray[np.float64],
    role: str,
    roles: tuple[str | None, ...],
    rank: int,
) -> NDArray[np.float64]:
    """A vector as an array that varies along the axis of a role."""
    shape = [1] * rank
    shape[rank - len(roles) + roles.index(role)] = -1
    return vector.reshape(shape)


def _cut(
    array: NDArray[np.float64],
    roles: tuple[str | None, ...],
    index: dict[str, NDArray[np.int64]],
    units: dict[str, NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Keep the positions of each role along its axis; a copy in any case."""
    cuts = {
        array.ndim - len(roles) + offset: index[role]
        for offset, role in enumerate(roles)
        if role in index and len(index[role]) < len(units[role])
    }
    if not cuts:
        # Arrays that JAX or torch hand out share memory with the old model.
        return np.array(array)
    last = {array.ndim - 2, array.ndim - 1}
    if set(cuts) == last and array.flags.c_contiguous:
        return _cut_last_two(array, *(cuts[axis] for axis in sorted(last)))
    for axis, positions in cuts.items():
        array = np.take(array, positions, axis)
    return array


def _cut_last_two(
    array: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Both axes of kernels at once: one new array instead of two.

    Of a large one a few rows at a time: an index takes twice the memory.
    """
    width, count = array.shape[-1], len(columns)
    source = array.reshape(*array.shape[:-2], -1)

    def take(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.take(source, (rows[:, None] * width + columns).ravel(), -1)

    step = max(1, _AT_ONCE // max(1, count))
    if len(rows) <= step:
        cut = take(rows)
    else:
        cut = np.empty((*array.shape[:-2], len(rows) * count), array.dtype)
        for at in range(0, len(rows), step):
            part = take(rows[at : at + step])
            cut[..., at * count : at * count + part.shape[-1]] = part
    return cut.reshape(*array.shape[:-2], len(rows), count)
