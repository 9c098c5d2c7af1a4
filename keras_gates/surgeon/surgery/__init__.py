"""Keras-Surgeon's functions: delete, insert and replace layers and channels."""

from keras_gates.surgeon.surgery.identify import get_apoz
from keras_gates.surgeon.surgery.identify import high_apoz
from keras_gates.surgeon.surgery.operations import delete_channels
from keras_gates.surgeon.surgery.operations import delete_layer
from keras_gates.surgeon.surgery.operations import insert_layer
from keras_gates.surgeon.surgery.operations import replace_layer
from keras_gates.surgeon.surgery.surgeon import Surgeon

__all__ = [
    "Surgeon",
    "delete_channels",
    "delete_layer",
    "get_apoz",
    "high_apoz",
    "insert_layer",
    "replace_layer",
]
