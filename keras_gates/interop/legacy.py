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
            f"`{caller}` needs the TensorFlow backend. Received: {backend}. "
            "Save the model, and load it in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    try:
        return importlib.import_module("tf_keras")
    except ImportError as error:
        raise ImportError(
            f"`{caller}` needs tf_keras in the version of TensorFlow. Run: "
            "pip install 'keras_gates[tfmot]', which also installs "
            "tensorflow-model-optimization."
        ) from error
