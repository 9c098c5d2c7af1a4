"""Thresholds found by trying: what closing gates does to a score."""

from keras_gates.search.find import find_thresholds
from keras_gates.search.found_thresholds import FoundThresholds
from keras_gates.search.trial import Trial

__all__ = ["FoundThresholds", "Trial", "find_thresholds"]
