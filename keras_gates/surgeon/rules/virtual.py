"""Virtual gates, which scores close."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.rules.gates import GateRule

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call


@dataclasses.dataclass(eq=False)
class VirtualGate:
    """A filter gate with all factors at 1, put into a graph for its scores.

    Attributes:
        name: a name from that of what produces the tensor.
        axis: the axis of its channels.
        units: for each channel, its place among all units of all groups, or
            -1 if it is in none.
        dtype_policy: that of what produces the tensor.
    """

    name: str
    axis: int
    units: NDArray[np.intp]
    dtype_policy: Any = None
    kind = "filter"

    @property
    def factor(self) -> NDArray[np.float32]:
        return np.ones(len(self.units), "float32")

    def compute_output_spec(self, x: Any) -> Any:
        return x

    def mask(self, closed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Its closed channels, from the closed units of all groups."""
        inside: NDArray[np.bool_] = self.units >= 0
        return inside & closed[self.units]


@dataclasses.dataclass(frozen=True)
class VirtualRule(GateRule):
    """As a gate; groups of channels hold the factors, and not the gate."""

    kind: str = "scored"
    note: str = "closed by scores"

    def source(self, call: Call) -> None:
        return None

    def missing(self, call: Call) -> list[str]:
        return []


VIRTUAL = VirtualRule(axis=lambda call: call.op.axis)
