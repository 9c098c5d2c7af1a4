"""Remembers the rows of layers from one solution of a graph to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from keras_gates.surgeon.build.weights import Weights
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.report.table import Row


class RowMemo:
    """The rows of a search that solves one graph many times.

    A row follows from which of the step's units stay, and from the constants
    that the layer loses. Between two trials, most of that does not change.

    It is for totals: of what costs nothing, the channels may be those of an
    earlier solution. And it is for solutions of one graph in which no layer is
    rebuilt in another way, counted at the same sizes.
    """

    def __init__(self) -> None:
        self._units: dict[Step, NDArray[np.intp]] = {}
        self._rows: dict[Step, dict[Any, Row]] = {}
        # What has and computes nothing has nothing to lose, unless it is
        # written out.
        self._idle: dict[Step, Row] = {}

    def row(
        self, step: Step, weights: Weights, compute: Callable[[], Row]
    ) -> Row:
        """The row of a step.

        Args:
            step: the step.
            weights: those of the solution.
            compute: makes the row.
        """
        idle = self._idle.get(step)
        if idle is not None and not weights.decision.written_out(step):
            return idle
        key = self._key(step, weights)
        rows = self._rows.setdefault(step, {})
        if key not in rows:
            rows[key] = row = compute()
            if row.params == row.macs == (0, 0):
                self._idle[step] = row
        return rows[key]

    def _key(self, step: Step, weights: Weights) -> Any:
        """Equal for solutions in which the step has the same row."""
        decision = weights.decision
        if step not in decision.present:
            return None
        units = self._units.get(step)
        if units is None:
            units = self._units[step] = _units(step, weights)
        kept = decision.kept[decision.labelling.classes[units]]
        shut = None
        if step.rule.packing is not None:
            closed = decision.closed.get(step.call.op)
            shut = None if closed is None else closed.tobytes()
        reads = step.flow.reads
        added = weights.added_bias(step) if reads else 0
        return kept.tobytes(), shut, added, decision.written_out(step)


def _units(step: Step, weights: Weights) -> NDArray[np.intp]:
    """The units that a step holds, reads, and puts out; `(units,)`."""
    labels = weights.decision.labelling.labels
    arrays = [*step.flow.roles.values(), *step.flow.labels]
    arrays += [labels[tensor] for tensor in (*step.inputs, *step.outputs)]
    ids = [np.ravel(array) for array in arrays]
    return np.unique(np.concatenate([np.zeros(0, np.intp), *ids]))
