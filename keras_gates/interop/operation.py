"""A layer of tf_keras that calls an operation of Keras 3."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_gates.interop.legacy import tf_keras


@functools.cache
def operation_layer() -> type[Any]:
    """The class, which is created on first use.

    It inherits from Lambda, which every tool of tensorflow-model-optimization
    accepts, but holds no function: it is saved, cloned and loaded by its
    config, as long as `keras_gates` is imported.
    """
    k2 = tf_keras("keras_gates.interop")
    base: Any = k2.layers.Lambda

    @k2.saving.register_keras_serializable("keras_gates")
    class Operation(base):
        """Calls an operation, or a layer without weights, of Keras 3.

        Args:
            operation: the config of the operation.
            arguments: the config of `[args, kwargs]`; each tensor is
                represented as `{"input": its position}`.
            **kwargs: keyword arguments of a layer of tf_keras.
        """

        def __init__(
            self,
            operation: dict[str, Any],
            arguments: list[Any],
            **kwargs: Any,
        ) -> None:
            super().__init__(self.call, **kwargs)
            self.bound = Bound(operation, arguments)

        def call(self, inputs: Any) -> Any:
            given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            return self.bound.copy()(given)

        def get_config(self) -> dict[str, Any]:
            config = k2.layers.Layer.get_config(self)
            return {**config, **vars(self.bound)}

        @classmethod
        def from_config(
            cls, config: dict[str, Any], custom_objects: Any = None
        ) -> Operation:
            return cls(**config)

        def get_prunable_weights(self) -> list[Any]:
            """None; tfmot's magnitude pruning asks for it."""
            return []

    return Operation


@dataclasses.dataclass
class Bound:
    """An operation and the arguments of its call, by their configs.

    Not as lists, dicts or layers: tf_keras would wrap them.
    """

    operation: dict[str, Any]
    arguments: list[Any]

    def copy(self) -> Callable[..., Any]:
        """`inputs -> outputs`, with a new operation."""
        restored = keras.saving.deserialize_keras_object
        op, arguments = restored(self.operation), restored(self.arguments)

        def call(inputs: list[Any]) -> Any:
            args, kwargs = _filled(arguments, inputs)
            return op(*args, **kwargs)

        return call


def _filled(template: Any, inputs: list[Any]) -> Any:
    """Arguments with tensors filled in."""
    if isinstance(template, dict):
        if set(template) == {"input"}:
            return inputs[template["input"]]
        return {k: _filled(v, inputs) for k, v in template.items()}
    if isinstance(template, (list, tuple)):
        return type(template)(_filled(v, inputs) for v in template)
    return template
