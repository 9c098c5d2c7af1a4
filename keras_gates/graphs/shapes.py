"""The shape of every tensor of a graph, for inputs of a given size."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.calls import Tensor

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Call
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.calls import Shape


def shapes_of(graph: Graph, input_shape: Any = None) -> dict[Tensor, Shape]:
    """`{Tensor: shape}`, batch axis included.

    Args:
        graph: the `Graph` of a model.
        input_shape: sizes that the inputs leave open, without the batch
            axis: a tuple, or for several inputs a list of tuples or a dict
            of them by name. None for the shapes as they were recorded.

    Raises:
        ValueError: `input_shape` does not fit the model.
    """
    if input_shape is None:
        tensors = [t for c in graph.calls for t in (*c.inputs, *c.outputs)]
        return {t: t.shape for t in [*graph.inputs, *tensors]}
    given = _by_input(graph, input_shape)
    specs = {
        tensor: keras.KerasTensor(shape, tensor.dtype)
        for tensor, shape in zip(graph.inputs, given, strict=True)
    }
    for call in graph.calls:
        outputs = keras.tree.flatten(_outputs(call, specs))
        specs.update(zip(call.outputs, outputs, strict=True))
    return {tensor: tuple(spec.shape) for tensor, spec in specs.items()}


def _outputs(call: Call, specs: dict[Tensor, keras.KerasTensor]) -> Any:
    """What a call gives for inputs of these shapes; nothing is recorded."""
    args, kwargs = mapped(
        lambda x: specs[x] if isinstance(x, Tensor) else x,
        call.args,
        call.kwargs,
    )
    try:
        return call.op.compute_output_spec(*args, **kwargs)
    except Exception as error:
        shapes = [tuple(specs[t].shape) for t in call.inputs]
        raise ValueError(
            f"`input_shape` does not fit layer '{call.path}' (of type "
            f"{type(call.op).__name__}), which gets {shapes}: {error}"
        ) from error


def _by_input(graph: Graph, input_shape: Any) -> list[Shape]:
    """The full shape of each input, in the model's order."""
    names = [kt.name for kt in graph.functional.inputs]
    if isinstance(input_shape, dict):
        given = [input_shape.get(name) for name in names]
        strangers = [n for n in input_shape if n not in names]
    else:
        nested = any(isinstance(s, (tuple, list)) for s in input_shape)
        given = list(input_shape) if nested else [input_shape]
        strangers = given[len(names) :]
    if strangers or len(given) != len(names):
        raise ValueError(
            f"`input_shape` does not name the inputs of model "
            f"'{graph.model.name}'. Received: {input_shape!r}. Expected: a "
            f"shape for each of {names}, as a list in this order or a dict."
        )
    return [
        _filled(tensor.shape, shape, name)
        for tensor, shape, name in zip(graph.inputs, given, names, strict=True)
    ]


def _filled(shape: Shape, sizes: Shape | None, name: str) -> Shape:
    """A recorded shape with its open sizes filled in."""
    if sizes is None:
        return shape
    fits = len(sizes) == len(shape) - 1 and all(
        own in (None, size) for own, size in zip(shape[1:], sizes, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`input_shape` does not fit input '{name}'. Received: "
            f"{tuple(sizes)}. Expected: {shape[1:]}, without the batch axis, "
            "with sizes for None."
        )
    return (shape[0], *sizes)
