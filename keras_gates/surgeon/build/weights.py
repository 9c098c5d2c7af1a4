"""The arrays of each layer at its final size."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import create
from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.readers import sole_reader
from keras_gates.graphs.variables import copy_seeds
from keras_gates.graphs.variables import copy_state
from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.passes.decide import merge_target
from keras_gates.surgeon.passes.decision import Absorption
from keras_gates.surgeon.rules.per_channel import batch_norm_axis
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import along_role
from keras_gates.surgeon.rules.rule import named_weights

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.rule import Rule

    # Weight name -> its values, of the shape and dtype of the weight.
    Arrays = dict[str, NDArray[Any]]
    # Role -> the positions that are kept along it, in order: (kept,).
    Positions = dict[str, NDArray[np.intp]]
    Roles = tuple[str | None, ...]

# How many entries are taken out of a kernel at a time.
_AT_ONCE = 2**18


class CutLayer(NamedTuple):
    """The arrays and config for creating a layer.

    Attributes:
        arrays: its weights by name, at their final sizes.
        config: the changes to its config that go with them.
    """

    arrays: Arrays
    config: dict[str, Any]


class Weights:
    """Cuts, absorbs and scales the weights of one decision.

    Removed constants are absorbed with the original kernel; then factors of
    gates are applied, and the cut comes last.

    Args:
        decision: the `Decision`.
        folds: the `Folds`: factors of gates by weight.
    """

    def __init__(self, decision: Decision, folds: Folds) -> None:
        self.decision = decision
        self.folds = folds
        # Of each normalization, what its mean is off by: (channels,).
        self._shifts: IdentityDict[keras.Layer, NDArray[np.float64]]
        self._shifts = IdentityDict()
        # Of each old layer, what creation leaves to `finish`: for each part
        # the weights by name; None for all of them as they were.
        self._left: IdentityDict[
            keras.Layer, tuple[Rule, list[Arrays]] | None
        ] = IdentityDict()
        self._steps: IdentityDict[keras.Operation, list[Step]]
        self._steps = IdentityDict()
        for step in decision.labelling.steps:
            if step.position is None:
                self._steps.setdefault(step.call.op, []).append(step)

    def cut_layer(self, step: Step) -> CutLayer:
        """The arrays and config for a step's layer.

        Empty where the layer creates its weights in layers of its own;
        `finish` sets those, and all that creation does not use.
        """
        layer = step.call.op
        if not isinstance(layer, keras.Layer):
            return CutLayer({}, {})
        parts = step.rule.parts(layer)
        axes = step.rule.axes_of(step.call)
        named: list[Arrays] = [
            {
                name: create.array_of(weight)
                for name, weight in named_weights(part, axes)
            }
            for part in parts
        ]
        self._left[layer] = None
        held = sum(map(len, named)) + len(step.rule.dissolved)
        if held != len(layer.weights):
            return CutLayer({}, {})
        self._left[layer] = step.rule, named
        config: dict[str, Any] = {}
        for part, arrays in zip(parts, named, strict=True):
            config.update(self._absorb(step, part, arrays))
            self._resize(step, arrays)
        packing = step.rule.packing
        if packing is not None:
            index = kept_positions(self.decision, step)
            shut = self.decision.closed.get(layer)
            config.update(packing.pack(step.call, named[0], index, shut))
        own = parts == [layer] and not private.has_sublayers(layer)
        return CutLayer(named[0] if own else {}, config)

    def _resize(self, step: Step, arrays: Arrays) -> None:
        """Cut all weights of a part, and give them the factors of gates."""
        axes = step.rule.axes_of(step.call)
        index = kept_positions(self.decision, step)
        for name in arrays:
            roles = axes.get(name, ())
            array = cut(arrays[name], roles, index, step.flow.roles)
            for role, factor in self.folds.factors_of(step.call.op, name):
                kept = factor[index[role]] if role in index else factor
                kept = along_role(kept, role, roles, array.ndim)
                array *= kept.astype(array.dtype)
            arrays[name] = array
        numbers = step.rule.rescaled(self.decision.removed(step, 0))
        for name in numbers.keys() & arrays.keys():
            arrays[name] *= np.asarray(numbers[name], arrays[name].dtype)

    # Constants -----------------------------------------------------------

    def _absorb(
        self,
        step: Step,
        part: keras.Layer,
        arrays: Arrays,
    ) -> dict[str, Any]:
        """Fold removed known inputs into weights; returns config changes."""
        layer = step.call.op
        shift = self._shifts.pop(layer, None)
        if shift is not None:
            mean = arrays["moving_mean"]
            arrays["moving_mean"] = (mean - shift).astype(mean.dtype)
        changes: dict[str, Any] = {}
        for index, gone in self.decision.absorbed(step).items():
            if self._merges(step, index):
                self._merge(step, arrays, index, gone)
            else:
                role = step.flow.reads[index]
                with faults.of_rule(step.call, step.rule):
                    added = step.rule.absorbed(step.call, part, role, gone)
                for name, bias in added.items():
                    changes.update(self._add_bias(step, arrays, name, bias))
        for index in step.flow.reads:
            self._carry(step, arrays, index)
        return changes

    def _carry(self, step: Step, arrays: Arrays, index: int) -> None:
        """Add the kernel slices of carried inputs to their carriers."""
        carried = self.decision.carried(step, index)
        if carried is None:
            return
        role = step.flow.reads[index]
        for name, roles in step.rule.axes_of(step.call).items():
            if role not in roles or name not in arrays:
                continue
            array = np.array(arrays[name])
            # (inputs, ...): a view, so that `array` is written to.
            slices = np.moveaxis(
                array, array.ndim - len(roles) + roles.index(role), 0
            )
            for places, factors in zip(
                carried.places, carried.factors, strict=True
            ):
                for place in np.unique(places[places >= 0]):
                    own = np.flatnonzero(places == place)
                    added = np.tensordot(
                        factors[own], slices[own].astype("float64"), 1
                    )
                    slices[place] = slices[place] + added
            arrays[name] = array

    def _merges(self, step: Step, index: int) -> bool:
        """Whether the constants of an input merge into one that stays."""
        absorbable = self.decision.absorbable(step, index)
        return absorbable is not None and absorbable.how is Absorption.MERGE

    def _merge(
        self,
        step: Step,
        arrays: Arrays,
        index: int,
        gone: NDArray[np.float64],
    ) -> None:
        """Merge the kernel slices of constant inputs into one that stays.

        The reader gets the sum of `c * slice` over the constants, with any
        padding, which equals `c0 * (sum of c / c0 * slice)`.
        """
        target = merge_target(self.decision, step, index)
        absorbable = self.decision.absorbable(step, index)
        if target is None or absorbable is None:
            return  # All of the constants stay.
        _, position = target
        share = gone / absorbable.values[position]
        share[position] = 1.0
        merged = np.flatnonzero(share)
        role = step.flow.reads[index]
        for name, roles in step.rule.axes_of(step.call).items():
            if role in roles and name in arrays:
                array = np.array(arrays[name])
                axis = array.ndim - len(roles) + roles.index(role)
                # (inputs, ...): a view, so that `array` is written to.
                slices = np.moveaxis(array, axis, 0)
                slices[position] = np.tensordot(
                    share[merged], slices[merged].astype("float64"), 1
                )
                arrays[name] = array

    def _add_bias(
        self,
        step: Step,
        arrays: Arrays,
        name: str,
        added: NDArray[np.float64],
    ) -> dict[str, Any]:
        """Add to a bias or its equivalent; returns config changes."""
        call = step.call
        if name in arrays:
            bias = arrays[name]
            arrays[name] = (bias + added).astype(bias.dtype)
            return {}
        # A bias that was there is scaled with the other weights; a new one
        # has to be given the factors that the kernel's outputs get.
        roles = step.rule.axes_of(call)[name]
        for role, factor in self.folds.factors_of(call.op, step.rule.kernel):
            if role in roles:
                added = added * along_role(factor, role, roles, added.ndim)
        norm = self.sole_norm(step)
        if norm is not None:
            self._shifts[norm] = added.reshape(-1)
            return {}
        kernel = arrays[step.rule.kernel]
        arrays[name] = added.astype(kernel.dtype)
        return step.rule.with_bias(call)

    def added_bias(self, step: Step) -> int:
        """How many parameters a new bias adds to a layer."""
        call, total = step.call, 0
        for index, gone in self.decision.absorbed(step).items():
            if self._merges(step, index) or self.sole_norm(step) is not None:
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
        index = kept_positions(self.decision, step)
        return cut(array, roles, index, step.flow.roles).size

    def sole_norm(self, step: Step) -> keras.Layer | None:
        """The BatchNormalization that is the only reader of a layer.

        Its mean absorbs the layer's removed constants.
        """
        tensor = step.outputs[0]
        call = sole_reader(self.decision.labelling.graph, tensor)
        alone = len(self._steps[step.call.op]) == 1
        linear = step.rule.behind(step.call) == LINEAR
        if call is None or not alone or not linear:
            return None
        norm = call.op
        if (
            type(norm) is not keras.layers.BatchNormalization
            or gr.has_own_call(norm)
            or len(self._steps.get(norm, ())) != 1
            or call.kwargs.get("training") is True
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
        if self._left.get(old) is None:
            self._left.pop(old, None)

    def finish(self, old: keras.Layer, new: keras.Layer) -> None:
        """Set the remaining weights, and the random states."""
        if old not in self._left:
            return
        left = self._left.pop(old)
        if left is None:
            copy_state(old, new)
            return
        rule, named = left
        for part, arrays in zip(rule.parts(new), named, strict=True):
            _assign(old, part, arrays)
        copy_seeds(rule.base(old), new)


def _assign(old: keras.Layer, part: keras.Layer, arrays: Arrays) -> None:
    """Set the weights of a part that it was not created with."""
    weights = dict(named_weights(part, arrays)) if arrays else {}
    for name, array in arrays.items():
        weight = weights.get(name)
        if weight is None or not _alike(tuple(weight.shape), array.shape):
            raise ValueError(
                f"Weight '{name}' of layer '{old.name}' (of type "
                f"{type(old).__name__}) should have the shape {array.shape} "
                "after the cut, but the layer recreated from its config has "
                f"{None if weight is None else tuple(weight.shape)}. Its "
                "`get_config()` must return every argument of its "
                "constructor, and its rule must name the config keys that "
                "hold widths."
            )
        weight.assign(array.reshape(weight.shape))


def _alike(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are one but for axes of a single position.

    What is written out has a weight of its own form.
    """
    left, right = ([size for size in x if size != 1] for x in (shape, other))
    return left == right


def kept_positions(decision: Decision, step: Step) -> Positions:
    """The positions that are kept along each role of a step, in order."""
    return {
        role: np.flatnonzero(decision.mask(ids))
        for role, ids in step.flow.roles.items()
    }


def cut(
    array: NDArray[Any], roles: Roles, index: Positions, units: Positions
) -> NDArray[Any]:
    """Keep the positions of each role along its axis; always a copy.

    Args:
        array: a weight, or an array like one.
        roles: those of its last axes, in order; None for one kept whole.
        index: the positions that are kept, by role.
        units: all units along each role, of which only the number counts.
    """
    cuts = {
        axis: index[role]
        for axis, role in enumerate(roles, array.ndim - len(roles))
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
    array: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[Any]:
    """Both axes of kernels at once: one new array instead of two.

    Of a large one a few rows at a time: an index takes twice the memory.
    """
    width, count = array.shape[-1], len(columns)
    # (..., all rows * width): entry (r, c) of a kernel is at r * width + c.
    source = array.reshape(*array.shape[:-2], -1)

    def take(some: NDArray[np.intp]) -> NDArray[Any]:
        """The entries of some rows: (..., some * count)."""
        places = some[:, None] * width + columns  # (some, count)
        taken: NDArray[Any] = np.take(source, places.ravel(), -1)
        return taken

    step = max(1, _AT_ONCE // max(1, count))
    if len(rows) <= step:
        flat = take(rows)
    else:
        flat = np.empty((*array.shape[:-2], len(rows) * count), array.dtype)
        for start in range(0, len(rows), step):
            part = take(rows[start : start + step])
            at = start * count
            flat[..., at : at + part.shape[-1]] = part
    return flat.reshape(*array.shape[:-2], len(rows), count)
