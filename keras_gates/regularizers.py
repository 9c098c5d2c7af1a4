"""Penalties that pull gate factors towards zero."""

from __future__ import annotations

from keras_gates.penalties import L1
from keras_gates.penalties import CostL1
from keras_gates.penalties import MeanL1
from keras_gates.surgeon.expected.expected_cost import ExpectedCost

__all__ = ["CostL1", "ExpectedCost", "L1", "MeanL1"]
