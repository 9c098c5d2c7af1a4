"""A model of tf_keras, rebuilt in Keras 3."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.interop import configs
from keras_gates.interop.legacy import tf_keras
from keras_gates.interop.operation import operation_layer


def from_tf_keras(model: Any) -> keras.Model:
    """Convert a `tf_keras` model to Keras 3, for example after tfmot.

    Args:
        model: A built functional or Sequential `tf_keras.Model`, without the
            wrappers of tfmot: `strip_pruning` and `strip_clustering` remove
            them. Quantization-aware models have no counterpart in Keras 3:
            convert them to LiteRT.

    Returns:
        A functional `keras.Model`, not compiled. It computes the same, to float
        rounding.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.
        ImportError: tf_keras is not installed.
        TypeError: `model` is not a model of tf_keras.
        ValueError: A layer, or an argument of one, has no counterpart.

    Example:
    ```python
    sparse = tfmot.sparsity.keras.strip_pruning(trained)
    small = kg.interop.from_tf_keras(sparse)
    ```
    """
    k2 = tf_keras("keras_gates.interop.from_tf_keras")
    if not isinstance(model, k2.Model):
        raise TypeError(
            "`from_tf_keras` takes a model of tf_keras. Received: "
            f"{model!r} (of type {type(model).__name__})."
        )
    return _Converter(k2).model(model)


class _Converter:
    """Converts each layer and each nested model once."""

    def __init__(self, k2: ModuleType) -> None:
        self.k2 = k2
        self.counterparts = configs.counterparts(k2, keras)
        self.made: dict[int, keras.Layer] = {}

    def model(self, old: Any) -> keras.Model:
        """The converted model, nested or not."""
        if not private.keras2_has_graph(old):
            raise ValueError(
                f"Model '{old.name}' (of type {type(old).__name__}) is "
                "subclassed or not built, so it has no graph to read. Call "
                "it once on data, or rebuild it with the functional API."
            )
        tensors: dict[int, keras.KerasTensor] = {}
        for node in private.keras2_nodes_of(old):
            self._node(node, tensors)
        inputs, outputs = keras.tree.map_structure(
            lambda kt: tensors[id(kt)], private.keras2_structures_of(old)
        )
        return keras.Model(inputs, outputs, name=old.name)

    def _node(self, node: Any, tensors: dict[int, keras.KerasTensor]) -> None:
        layer = node.layer
        if node.is_input:
            outputs = keras.Input(
                batch_shape=tuple(node.outputs.shape),
                dtype=node.outputs.dtype.name,
                name=layer.name,
            )
        elif isinstance(layer, operation_layer()):
            own = [tensors[id(t)] for t in node.keras_inputs]
            outputs = layer.bound.copy()(own)
        else:
            args, kwargs = self._arguments(node, tensors)
            known = id(layer) in self.made
            if not known:
                self.made[id(layer)] = self._layer(layer)
            new = self.made[id(layer)]
            outputs = new(*args, **kwargs)
            if not known and not isinstance(layer, self.k2.Model):
                configs.copy_weights(layer, new)
        pairs = (node.outputs, outputs)
        for kt, new in zip(*map(keras.tree.flatten, pairs), strict=True):
            tensors[id(kt)] = new

    def _layer(self, layer: Any) -> keras.Layer:
        if isinstance(layer, self.k2.Model):
            return self.model(layer)
        cls = self.counterparts.get(type(layer))
        if cls is None:
            raise ValueError(
                f"Layer '{layer.name}' (of type {type(layer).__name__}) has "
                "no counterpart in Keras 3. Remove the wrappers of tfmot "
                "with `strip_pruning` or `strip_clustering`; convert a "
                "quantization-aware model to LiteRT; replace other layers by "
                "layers that both versions have."
            )
        try:
            config = {**layer.get_config(), "name": layer.name}
            config["dtype"] = layer.dtype_policy.name
            return configs.converted(cls, config, self.k2, keras)
        except ValueError as error:
            raise ValueError(
                f"Layer '{layer.name}' (of type {type(layer).__name__}) can't "
                f"be converted to Keras 3: {error} Use what both versions "
                "have."
            ) from error

    def _arguments(
        self, node: Any, tensors: dict[int, keras.KerasTensor]
    ) -> tuple[list[Any], dict[str, Any]]:
        def carried(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(carried, value))
            return tensors.get(id(value), value)

        given = {k: v for k, v in node.call_kwargs.items() if v is not None}
        if "training" in given:
            raise ValueError(
                f"Layer '{node.layer.name}' is called with "
                f"training={given['training']!r}, which Keras 3 does not "
                "keep. Call it without this argument, and set `trainable` to "
                "freeze it."
            )
        args = list(node.call_args)
        if isinstance(node.layer, self._recurrent()) and _several(args[0]):
            # tf_keras puts the initial state among the inputs.
            (args[0], *given["initial_state"]) = args[0]
        return list(map(carried, args)), {
            name: carried(value) for name, value in given.items()
        }

    def _recurrent(self) -> tuple[type[Any], type[Any]]:
        return self.k2.layers.RNN, self.k2.layers.Bidirectional


def _several(value: Any) -> bool:
    return isinstance(value, (list, tuple))
