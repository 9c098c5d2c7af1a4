"""Channels that carry others after a normalization, at one corner.

What comes out of a normalization for a channel that is closed varies with the
statistics, and is a combination of one or two others that stay. Which these
are goes by numbers, and by what is closed. So it is asked of the passes where
all gates are open or closed, and taken to hold around.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.expected.arithmetic import picked
from keras_gates.surgeon.passes import carriers
from keras_gates.surgeon.passes.decision import Absorption

if TYPE_CHECKING:
    import keras

    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.identity import IdentityDict
    from keras_gates.surgeon.passes.decision import AbsorbableInputs
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step

    Absorbable = IdentityDict[keras.Operation, dict[int, AbsorbableInputs]]


class Carrying:
    """What is carried by what when some factors are closed.

    Attributes:
        known: as `passes.decide.absorbable_by_layer` gives it there.
    """

    def __init__(
        self,
        labelling: Labelling,
        known: Absorbable,
        closed: IdentityDict[keras.Operation, NDArray[np.bool_]],
    ) -> None:
        self.known = known
        self.counting = [
            step
            for step in labelling.steps
            if not step.is_selection and _counts(known, step)
        ]
        found = carriers.find(labelling, known, closed) if self.counting else {}
        # Of each tensor that has any, the step that puts it out.
        self._steps: list[tuple[Step, int]] = [
            (step, number)
            for step in labelling.steps
            for number, tensor in enumerate(step.outputs)
            if tensor in found
        ]
        self._labels = labelling.labels

    def own(self, xp: Any, values: Mapping[Tensor, Any]) -> dict[Tensor, Any]:
        """How far each coordinate is more than what others carry.

        Args:
            xp: `numpy` or `keras.ops`.
            values: how far each coordinate varies, `(..., size)`.
        """
        found: dict[Tensor, Any] = {}
        for step, number in self._steps:
            tensor, before = step.outputs[number], step.inputs[0]
            if before not in found:
                found[tensor] = values[before]
                continue
            source = step.flow.sources[number][0]
            if isinstance(source, np.ndarray):
                size = int(np.prod(self._labels[before].shape))
                shape = self._labels[tensor].shape
                places = lb.stretched(source, shape).reshape(-1, 1)
                places = np.where(places < 0, size, places)
                found[tensor] = picked(xp, found[before], places)
            else:
                found[tensor] = found[before]
        return found

    def read(self, step: Step, index: int) -> NDArray[np.float64] | None:
        """1 for each channel that is read though it has nothing of its own.

        Returns:
            `(channels,)`; None where none is carried.
        """
        absorbable = self.known.get(step.call.op, {}).get(index)
        if absorbable is None or absorbable.carried is None:
            return None
        stays: NDArray[np.bool_] = absorbable.carried.places[0] < 0
        return stays.astype("float64")


def _counts(known: Absorbable, step: Step) -> bool:
    """Whether a step counts what goes of its input."""
    absorbable = known.get(step.call.op, {}).get(0)
    how = None if absorbable is None else absorbable.how
    return how is Absorption.STATISTICS
