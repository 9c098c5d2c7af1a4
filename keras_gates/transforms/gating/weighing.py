"""Weights of gates: the share of the model that each removes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.rules import costs
from keras_gates.surgeon.rules import rule_of

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.calls import Tensor
    from keras_gates.graphs.graph import Call
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

    Shapes = dict[Tensor, Shape]

# The units of weights.
COSTS = ("macs", "params")


class Shares:
    """Shares of a model's multiply-adds, or of its parameters.

    Args:
        calls: all calls of the model.
        shapes: `{Tensor: shape}`.
        unit: "macs" or "params".

    Attributes:
        unknown: the paths of calls that could not be counted.
    """

    def __init__(self, calls: list[Call], shapes: Shapes, unit: str) -> None:
        self.shapes = shapes
        self.unit = unit
        self.unknown: list[str] = []
        # A model without any kernel has no shares.
        self.total = self._cost(calls) or 1

    def share_of(self, calls: Iterable[Call]) -> float:
        """The share of some calls."""
        return self._cost(calls) / self.total

    def of_classes(self, labelling: Labelling) -> NDArray[np.float64]:
        """For each class, the share that is removed with it alone."""
        found = np.zeros(len(labelling.classes))
        steps = {s.call: s for s in labelling.steps if s.position is None}
        for call in self._once(steps):
            whole = self._of(call, {})
            for role, ids in steps[call].flow.roles.items() if whole else ():
                saved = whole - self._of(call, {role: len(ids) - 1})
                np.add.at(found, labelling.classes[ids], saved)
            if whole and self.unit == "macs" and rule_of(call).counts:
                self._add_tensors(labelling, steps[call], whole, found)
        for above, below in _picked(labelling):
            found[above] += found[below]
        shares: NDArray[np.float64] = found / self.total
        return shares

    def _add_tensors(
        self,
        labelling: Labelling,
        step: Step,
        whole: int,
        found: NDArray[np.float64],
    ) -> None:
        """Add the cost of products of tensors.

        A slice is divided among its classes, and a tensor with classes along
        several axes among these.
        """
        call = step.call
        tensors = dict(zip(call.inputs, step.inputs, strict=True))
        tensors.update(zip(call.outputs, step.outputs, strict=True))
        known = {x: self.shapes[x] for x in (*tensors, *call.times)}
        for tensor, labelled in tensors.items():
            labels = labelling.labels[labelled]
            axes = lb.varying(labels)
            for axis in axes:
                shape = list(known[tensor])
                shape[axis] = labels.shape[axis] - 1
                cut = {**known, tensor: tuple(shape)}
                saved = (whole - self._of(call, {}, cut)) / len(axes)
                for row in np.moveaxis(labels, axis, 0):
                    own = np.unique(labelling.classes[row])
                    found[own] += saved / len(own)

    def warn_of(self, gates: Iterable[tuple[str, Any]]) -> None:
        """Warn about gates with a share of 0, which have no penalty.

        Args:
            gates: pairs of a gate's name and its share or shares.
        """
        free = [name for name, share in gates if not np.any(share)]
        if not free:
            return
        unknown = list(dict.fromkeys(self.unknown))
        why = f" Not counted: {_listed(unknown)}." if unknown else ""
        warnings.warn(
            f'weigh="{self.unit}" gives no penalty to {_listed(free)}: what '
            f"goes with them has no {self.unit} that are counted.{why} Take "
            'weigh="params" or "count", or leave them out with `exclude`.',
            stacklevel=3,
        )

    def _once(self, calls: Iterable[Call]) -> list[Call]:
        """Multiply-adds count for each call, the parameters of a layer once."""
        if self.unit == "macs":
            return list(calls)
        return list(
            {id(call.op): call for call in reversed(list(calls))}.values()
        )

    def _cost(self, calls: Iterable[Call]) -> int:
        return sum(self._of(call, {}) for call in self._once(calls))

    def _of(
        self, call: Call, kept: dict[str, int], shapes: Shapes | None = None
    ) -> int:
        """The cost of a call with these numbers of positions along roles."""
        rule = rule_of(call)
        weights = costs.cut_weight_shapes(call, rule, kept)
        if self.unit == "params":
            return costs.parameters(weights)
        try:
            found = costs.call_macs(
                call, rule, weights, self.shapes if shapes is None else shapes
            )
        except ValueError:
            found = None
        if found is None:
            self.unknown.append(call.path)
        return found or 0


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + ", ..." * (len(names) > 8)


def _picked(labelling: Labelling) -> list[tuple[int, int]]:
    """Pairs of classes: the source and the result of a gather.

    The result is removed with its source. The last ones come first, so that
    costs add up towards the front.
    """
    pairs: dict[tuple[int, int], None] = {}
    for step in reversed(labelling.steps):
        picked = step.flow.sources[0][0] if step.position is not None else None
        if isinstance(picked, np.ndarray):
            labels = labelling.labels[step.inputs[0]].ravel()
            above = labelling.classes[labels[picked.ravel()]]
            below = labelling.classes[step.flow.labels[0].ravel()]
            both = zip(above.tolist(), below.tolist(), strict=True)
            pairs.update(dict.fromkeys(both))
    return list(pairs)
