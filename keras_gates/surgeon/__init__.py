"""Plans what can be removed, builds the smaller model, and checks it."""

from keras_gates.surgeon.iterative import prune_iteratively
from keras_gates.surgeon.plan import Plan
from keras_gates.surgeon.plan import plan
from keras_gates.surgeon.plan import prune
from keras_gates.surgeon.repair.repair import repair
from keras_gates.surgeon.repair.report import Repair
from keras_gates.surgeon.rules import register
from keras_gates.surgeon.scores.score import score
from keras_gates.surgeon.sensitivity import Sensitivity
from keras_gates.surgeon.sensitivity import sensitivity
from keras_gates.surgeon.surgery import Surgeon
from keras_gates.surgeon.surgery import delete_channels
from keras_gates.surgeon.surgery import delete_layer
from keras_gates.surgeon.surgery import get_apoz
from keras_gates.surgeon.surgery import high_apoz
from keras_gates.surgeon.surgery import insert_layer
from keras_gates.surgeon.surgery import replace_layer
from keras_gates.surgeon.verify import verify

__all__ = [
    "Plan",
    "Repair",
    "Sensitivity",
    "Surgeon",
    "delete_channels",
    "delete_layer",
    "get_apoz",
    "high_apoz",
    "insert_layer",
    "plan",
    "prune",
    "prune_iteratively",
    "register",
    "repair",
    "replace_layer",
    "score",
    "sensitivity",
    "verify",
]
