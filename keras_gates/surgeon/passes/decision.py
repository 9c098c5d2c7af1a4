"""What was decided of one labelling: plain data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon import labels as lb

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Step


@dataclasses.dataclass
class Reads:
    """How a layer that mixes its inputs can do without some of them.

    `values` are the known inputs along its axis that may go; `mode` says
    how: as a bias, or merged into one that stays.
    """

    values: np.ndarray
    mode: str  # "bias", "merge" or "approximate"


@dataclasses.dataclass
class Decision:
    """The outcome for one labelling and one set of closed gates.

    `absorbing` holds `Reads` by the id of an operation and the number of an
    input that a kernel of it reads.
    `closed` holds a mask like its factors by the id of each layer with some,
    and like its units for a layer that reads its own output; `uncut` the keys
    of gathers that would cost more than they save.
    """

    labelling: object
    values: dict
    exact: bool = True
    closed: dict = dataclasses.field(default_factory=dict)
    kept: np.ndarray = None
    present: set = dataclasses.field(default_factory=set)
    called: set = dataclasses.field(default_factory=set)
    dropped: dict = dataclasses.field(default_factory=dict)
    demand: dict = dataclasses.field(default_factory=dict)
    reads: list = dataclasses.field(default_factory=list)
    recalls: list = dataclasses.field(default_factory=list)
    absorbing: dict = dataclasses.field(default_factory=dict)
    pins: list = dataclasses.field(default_factory=list)
    uncut: frozenset = frozenset()

    def mask(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which coordinates of a label array are kept."""
        return self.kept[self.labelling.classes[labels]]

    def masks(self, labels: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
        """One mask for each axis; their product is what is kept."""
        masks = lb.axis_masks(self.mask(labels))
        if masks is None:
            raise RuntimeError(
                "keras_gates: the kept channels of a tensor form no box. "
                "Please report this model."
            )
        return masks

    def known(self, tensor: Tensor) -> NDArray[np.bool_]:
        """Which coordinates have a known value, shaped like the labels."""
        value = self.values.get(tensor)
        labels = self.labelling.labels[tensor]
        if value is None:
            return np.zeros(labels.shape, bool)
        return ~np.isnan(lb.stretched(value.values, labels.shape))

    def gone(self, step: Step) -> dict[int, NDArray[np.float64]]:
        """The constants that a layer loses, by input; 0 for what stays."""
        found = {i: self._gone_from(step, i) for i in step.flow.reads}
        return {i: gone for i, gone in found.items() if gone is not None}

    def _gone_from(self, step: Step, index: int) -> NDArray[np.float64] | None:
        reads = self.absorbing.get((id(step.call.op), index))
        ids = step.flow.read(index)
        if reads is None or ids is None:
            return None
        kept = self.mask(ids)
        gone = np.where(kept | np.isnan(reads.values), 0.0, reads.values)
        return gone if gone.any() else None
