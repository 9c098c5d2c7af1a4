"""Compiles a function of tensors with XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras


class Compiled:
    """A function compiled with XLA, if the backend has it.

    Not a bare `tf.function`: TensorFlow would save it with each model if it is
    an attribute of a layer.

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

        # TensorFlow treats functions with the same code as one, and would warn
        # about the traces of all layers together. A partial has no code.
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
