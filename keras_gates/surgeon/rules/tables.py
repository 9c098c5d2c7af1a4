"""Registers the rules of the tables for the installed Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_gates.graphs.graph import layer_class
from keras_gates.graphs.graph import operation
from keras_gates.graphs.graph import operation_of
from keras_gates.surgeon.rules.layer_table import HIDDEN_LAYERS
from keras_gates.surgeon.rules.layer_table import LAYERS
from keras_gates.surgeon.rules.not_followed import NOT_FOLLOWED
from keras_gates.surgeon.rules.operation_table import OPERATIONS
from keras_gates.surgeon.rules.registry import explain
from keras_gates.surgeon.rules.registry import register
from keras_gates.surgeon.rules.registry import registered


def fill() -> None:
    """Register every row once."""
    for name, rule in LAYERS.items():
        if hasattr(keras.layers, name):
            register(getattr(keras.layers, name), rule)
    for name, rule in OPERATIONS.items():
        cls = operation(name)
        if cls is not None and cls not in registered():
            register(cls, rule)
    for name, reason in NOT_FOLLOWED.items():
        function = _function(name)
        cls = None if function is None else operation_of(function)
        if cls is not None and cls not in registered():
            explain(cls, reason)
    for name, rule in HIDDEN_LAYERS.items():
        cls = layer_class(name)
        if cls is not None:
            register(cls, rule)


def _function(name: str) -> Callable[..., Any] | None:
    """The function of `keras.ops` with a name, wherever it is."""
    for module in (keras.ops, keras.ops.image, keras.ops.linalg, keras.ops.nn):
        function: Callable[..., Any] | None = getattr(module, name, None)
        if function is not None:
            return function
    return None
