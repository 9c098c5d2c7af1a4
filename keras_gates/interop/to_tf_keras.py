"""A Keras 3 model, rebuilt in tf_keras."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import graph as gr
from keras_gates.graphs.names import Names
from keras_gates.interop import configs
from keras_gates.interop.configs import copy_weights
from keras_gates.interop.legacy import tf_keras
from keras_gates.interop.operation import operation_layer
from keras_gates.interop.operations import as_layer
from keras_gates.surgeon.gates import see_through

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Tensor

# Layers whose activation can become an operation after them.
_SPLITS = tuple(
    getattr(keras.layers, name)
    for name in (
        "Dense EinsumDense Conv1D Conv2D Conv3D Conv1DTranspose "
        "Conv2DTranspose Conv3DTranspose DepthwiseConv1D DepthwiseConv2D "
        "SeparableConv1D SeparableConv2D"
    ).split()
)
# Layers of tf_keras that tfmot's magnitude pruning refuses.
_AS_OPERATION = (keras.layers.Rescaling,)


def to_tf_keras(model: keras.Model) -> Any:
    """Convert a model to `tf_keras`, for tensorflow-model-optimization.

    Its quantization-aware training, clustering and sparsity work on models
    of Keras 2 only, which is now `tf_keras`. Layers become the layers of the
    same name. Operations of `keras.ops` become layers if there are any for
    them, otherwise an `Operation` that calls them. Nested models and custom
    layers that can be seen through are written out. Weights are copied.

    Args:
        model: A built Functional or Sequential model of Keras 3, on the
            TensorFlow backend. Pruned, it has no gates.

    Returns:
        A functional `tf_keras.Model`, not compiled. It computes the same, to
        float rounding.

    Raises:
        RuntimeError: Keras runs on another backend.
        ImportError: tf_keras is not installed.
        TypeError: `model` is not a Keras model.
        ValueError: A layer, or an argument of one, has no counterpart.

    Example:
    ```python
    small = kg.surgeon.prune(gated, thresholds=0.05)
    legacy = kg.interop.to_tf_keras(small)
    aware = tfmot.quantization.keras.quantize_model(legacy)
    ```
    """
    k2 = tf_keras("keras_gates.interop.to_tf_keras")
    graph = see_through.read_to_write(model)
    return _Converter(k2, graph).model()


class _Converter:
    """Converts each layer once, and repeats its calls."""

    def __init__(self, k2: ModuleType, graph: Graph) -> None:
        self.k2 = k2
        self.graph = graph
        self.counterparts = configs.counterparts(keras, k2)
        # By id: a user's layer may compare by value.
        self.made: dict[int, list[Any]] = {}
        self.names = Names()

    def model(self) -> Any:
        """The model."""
        inputs, outputs = gr.structures(self.graph.model)
        tensors: dict[Tensor, Any] = {}
        new: dict[int, Any] = {}
        for tensor, kt in zip(
            self.graph.inputs, self.graph.functional.inputs, strict=True
        ):
            new[id(kt)] = tensors[tensor] = self._input(kt)
        for call in self.graph.calls:
            self._call(call, tensors)
        for tensor, kt in zip(
            self.graph.outputs, self.graph.functional.outputs, strict=True
        ):
            new[id(kt)] = tensors[tensor]
        inputs, outputs = keras.tree.map_structure(
            lambda kt: new[id(kt)], (inputs, outputs)
        )
        return self.k2.Model(inputs, outputs, name=self.graph.model.name)

    def _input(self, kt: keras.KerasTensor) -> Any:
        layer = gr.input_layer(kt)
        if kt.sparse:
            raise ValueError(
                f"Input '{layer.name}' is sparse, which can't be converted to "
                "tf_keras. Use a dense input."
            )
        self.names.add(layer.name)
        return self.k2.Input(
            batch_shape=kt.shape, dtype=kt.dtype, name=layer.name
        )

    def _call(self, call: Call, tensors: dict[Tensor, Any]) -> None:
        known = id(call.op) in self.made
        layers = self.made.get(id(call.op)) or self._layers(call)
        if not isinstance(call.op, keras.Layer) or not layers:
            layers = layers or [self._operation(call)]
            own = [tensors[t] for t in call.inputs]
            outputs = layers[0](own if len(own) > 1 else own[0])
        else:
            self.made[id(call.op)] = layers
            args, kwargs = _arguments(call, tensors)
            outputs = layers[0](*args, **kwargs)
            if not known:
                copy_weights(call.op, layers[0])
            for layer in layers[1:]:
                outputs = layer(outputs)
        flat = keras.tree.flatten(outputs)
        for tensor, new in zip(call.outputs, flat, strict=True):
            tensors[tensor] = new

    def _layers(self, call: Call) -> list[Any]:
        """What is called in place of a layer or an operation.

        None if it becomes an `Operation`, of which each call has its own, since
        it holds the other arguments.
        """
        op = call.op
        try:
            if not isinstance(op, keras.Layer):
                return self._stock(call)
            layers = []
            if type(op) in self.counterparts and type(op) not in _AS_OPERATION:
                layers = self._counterparts(call)
        except ValueError as error:
            raise ValueError(
                f"Layer '{call.path}' (of type {type(op).__name__}) can't be "
                f"converted to tf_keras: {error} Use what both versions have."
            ) from error
        of_keras = type(op).__module__.partition(".")[0] == keras.__name__
        plain = of_keras and not op.variables
        if not layers and (not plain or type(op) is keras.layers.Lambda):
            opaque = call.site.opaque
            seen = f", and it can't be written out: {opaque}" if opaque else ""
            raise ValueError(
                f"Layer '{call.path}' (of type {type(op).__name__}) has no "
                f"counterpart in tf_keras{seen}. Replace it by layers that "
                "both versions have."
            )
        return layers

    def _stock(self, call: Call) -> list[Any]:
        found = as_layer(call)
        if found is None:
            return []
        cls = getattr(self.k2.layers, found.name)
        return [cls(name=self._name(call), **found.config)]

    def _counterparts(self, call: Call) -> list[Any]:
        """A layer, followed by its activation if tf_keras lacks it."""
        layer = call.op
        config = {**layer.get_config(), "name": self._name(call)}
        own = config.get("activation")
        alone = type(layer) is keras.layers.Activation
        lacking = own is not None and own not in configs.ACTIVATIONS
        if lacking and alone:
            self.names.discard(config["name"])
            return []
        after = []
        if lacking and isinstance(layer, _SPLITS):
            config["activation"] = None
            function = keras.layers.Activation(own)
            name = self.names.free(f"{config['name']}_activation")
            after = [self._wrapped(function, [{"input": 0}], {}, name)]
        new = configs.converted(
            self.counterparts[type(layer)], config, keras, self.k2
        )
        return [new, *after]

    def _operation(self, call: Call) -> Any:
        numbers = {t: {"input": i} for i, t in enumerate(call.inputs)}
        args, kwargs = _arguments(call, numbers)
        return self._wrapped(call.op, args, kwargs, self._name(call))

    def _wrapped(
        self,
        op: keras.Operation,
        args: list[Any],
        kwargs: dict[str, Any],
        name: str,
    ) -> Any:
        saved = keras.saving.serialize_keras_object
        return operation_layer()(saved(op), saved([args, kwargs]), name=name)

    def _name(self, call: Call) -> str:
        return self.names.free(call.path.replace("/", "_"))


def _arguments(
    call: Call, tensors: Mapping[Tensor, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a recorded call, with `tensors` filled in.

    Keras 3 also records arguments that were not given, and the training flag,
    which have no effect here.
    """

    def filled(value: Any) -> Any:
        if isinstance(value, gr.Tensor):
            return tensors[value]
        if isinstance(value, (list, tuple)):
            return type(value)(map(filled, value))
        return value

    given = {k: v for k, v in call.kwargs.items() if v is not None}
    layer = isinstance(call.op, keras.Layer)
    if layer:
        given.pop("training", None)
    args = list(call.args)
    while layer and args and args[-1] is None:
        args.pop()
    return [filled(arg) for arg in args], {
        name: filled(value) for name, value in given.items()
    }
