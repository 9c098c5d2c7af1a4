"""Which gates are closed: numbers, kinds, names, and rules."""

from keras_gates.thresholds.below import Below
from keras_gates.thresholds.budget import Budget
from keras_gates.thresholds.quantile import Quantile
from keras_gates.thresholds.resolve import asked
from keras_gates.thresholds.resolve import part_budget
from keras_gates.thresholds.resolve import resolve
from keras_gates.thresholds.rule import KINDS
from keras_gates.thresholds.rule import NAMED
from keras_gates.thresholds.rule import VECTORS
from keras_gates.thresholds.rule import Factors
from keras_gates.thresholds.rule import Rule

__all__ = [
    "KINDS",
    "NAMED",
    "VECTORS",
    "Below",
    "Budget",
    "Factors",
    "Quantile",
    "Rule",
    "asked",
    "part_budget",
    "resolve",
]
