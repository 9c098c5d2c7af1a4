"""Have a function of tensors run by XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras


class Compiled:
    """A function that XLA runs, where the backend has it.

    Not a bare `tf.function`: TensorFlow would save one that is an attribute
    of a layer with each model.

    Args:
        function: a function of tensors, without side effects.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = _through_xla(function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _through_xla(function: Callable[..., Any]) -> Callable[..., Any]:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # TensorFlow takes functions of the same code for one, and would warn
        # of the traces of all layers together. A partial has no code.
        function = functools.partial(function)
        compiled: Callable[..., Any] = tf.function(
            function, jit_compile=True, autograph=False
        )
        return compiled
    if backend == "jax":
        import jax

        compiled = jax.jit(function)
        return compiled
    return function
