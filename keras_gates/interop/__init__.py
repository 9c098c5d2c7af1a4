"""Conversion to and from tf_keras, for tensorflow-model-optimization."""

from keras_gates.interop.from_tf_keras import from_tf_keras
from keras_gates.interop.to_tf_keras import to_tf_keras

__all__ = ["from_tf_keras", "to_tf_keras"]
