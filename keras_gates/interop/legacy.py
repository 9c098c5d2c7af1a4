"""tf_keras (Keras 2), imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

import keras


def tf_keras(caller: str) -> ModuleType:
    """The module, for a function called `caller`.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ImportError: tf_keras is not installed.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"`{caller}` needs Keras on TensorFlow, and it runs on {backend}. "
            "Save the model, and load it again in a process that was started "
            "with KERAS_BACKEND=tensorflow."
        )
    try:
        return importlib.import_module("tf_keras")
    except ImportError as error:
        raise ImportError(
            f"`{caller}` needs tf_keras, of the version that fits TensorFlow: "
            "`pip install keras_gates[tfmot]` brings it, together with "
            "tensorflow-model-optimization."
        ) from error
