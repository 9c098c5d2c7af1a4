"""Penalties that pull gate factors towards zero."""

from __future__ import annotations

from keras_gates.penalties import L1
from keras_gates.penalties import CostL1
from keras_gates.penalties import MeanL1
from keras_gates.penalties import Polarization
from keras_gates.regularizers.expected_cost import ExpectedCost
from keras_gates.regularizers.group_lasso import GroupLasso

__all__ = [
    "CostL1",
    "ExpectedCost",
    "GroupLasso",
    "L1",
    "MeanL1",
    "Polarization",
]
