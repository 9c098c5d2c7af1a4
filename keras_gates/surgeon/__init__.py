"""The surgeon: plans what can go, makes the smaller model, checks it."""

from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.plan import prune
from keras_gates.surgeon.rules import register
from keras_gates.surgeon.scores.score import score
from keras_gates.surgeon.verify import verify

__all__ = ["Plan", "plan", "prune", "register", "score", "verify"]
