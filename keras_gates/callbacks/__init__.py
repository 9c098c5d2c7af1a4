"""Callbacks for models with gates."""

from __future__ import annotations

from keras_gates.callbacks.bind_soft_threshold import BindSoftThreshold
from keras_gates.callbacks.closed_gates import ClosedGates
from keras_gates.callbacks.grow_decay import GrowDecay
from keras_gates.callbacks.log_gates import LogGates
from keras_gates.callbacks.reach_budget import ReachBudget

__all__ = [
    "BindSoftThreshold",
    "ClosedGates",
    "GrowDecay",
    "LogGates",
    "ReachBudget",
]
