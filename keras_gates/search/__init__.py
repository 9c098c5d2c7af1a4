"""Thresholds found by search: how closing gates changes a score."""

from keras_gates.search.find import find_thresholds
from keras_gates.search.found_thresholds import FoundThresholds
from keras_gates.search.trial import Trial

__all__ = ["FoundThresholds", "Trial", "find_thresholds"]
