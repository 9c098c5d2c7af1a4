"""Scores of groups of coupled channels, without gates."""

from keras_gates.surgeon.scores.score import CRITERIA as CRITERIA
from keras_gates.surgeon.scores.score import score as score
