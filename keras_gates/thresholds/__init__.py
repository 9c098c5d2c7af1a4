"""Which gates are closed: numbers, kinds, names, and rules."""

from __future__ import annotations

from typing import NoReturn

from keras_gates.thresholds.below import Below
from keras_gates.thresholds.budget import Budget
from keras_gates.thresholds.quantile import Quantile
from keras_gates.thresholds.rule import Factors
from keras_gates.thresholds.rule import ThresholdRule

__all__ = ["Below", "Budget", "Factors", "Quantile", "ThresholdRule"]


def __getattr__(name: str) -> NoReturn:
    hint = " It is called ThresholdRule now." if name == "Rule" else ""
    raise AttributeError(f"module {__name__!r} has no {name!r}.{hint}")
