"""What a model is called on, and data brought into that structure."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_gates.graphs import graph as gr


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of a model.

    Attributes:
        model: its name.
        structure: its input tensors, nested as the model takes them.
        names: their names, in the order of the flat structure.
        argument: the argument that data come in, for messages.
    """

    model: str
    structure: Any
    names: tuple[str, ...]
    argument: str = "data"

    @classmethod
    def of_model(cls, model: keras.Model, argument: str = "data") -> Inputs:
        structure, _ = gr.structures(model)
        names = tuple(t.name for t in keras.tree.flatten(structure))
        return cls(model.name, structure, names, argument)

    @property
    def tensors(self) -> list[keras.KerasTensor]:
        return list(keras.tree.flatten(self.structure))

    @property
    def batch_size(self) -> int | None:
        """The number of samples that the model is made for, or None."""
        sizes = [tensor.shape[0] for tensor in self.tensors]
        return next((size for size in sizes if size is not None), None)

    def __str__(self) -> str:
        return ", ".join(f"'{t.name}' {tuple(t.shape)}" for t in self.tensors)

    def are(self, data: Sequence[Any]) -> bool:
        """Whether a list is these inputs, and not batches of them."""
        flat = keras.tree.flatten(data)
        arrays = all(hasattr(a, "shape") or a is None for a in flat)
        if not arrays or len(flat) != len(self.names):
            return False
        plain = len(data) == len(flat)
        plain = plain and not any(isinstance(a, (list, tuple)) for a in data)
        return (
            plain
            and not any(isinstance(a, dict) for a in data)
            or (_skeleton(data) == _skeleton(self.structure))
        )

    def pack(self, x: Any) -> Any:
        """Arrays in the structure that the model is called on.

        Raises:
            TypeError, ValueError: they are not what the model takes.
        """
        flat = self._by_name(x) if isinstance(x, dict) else self._in_order(x)
        arrays = [
            self._checked(array, tensor)
            for array, tensor in zip(flat, self.tensors, strict=True)
        ]
        return keras.tree.pack_sequence_as(self.structure, arrays)

    def _by_name(self, x: dict[str, Any]) -> list[Any]:
        """The arrays of a dict, by the model's keys or its inputs' names."""
        if _skeleton(x) == _skeleton(self.structure):
            return list(keras.tree.flatten(x))
        own = self.structure
        keys: Sequence[str] = self.names
        if (
            isinstance(own, dict)
            and len(own) == len(keys)
            and set(own) <= set(x)
        ):
            keys = sorted(own)
        missing = [key for key in keys if key not in x]
        if missing:
            raise ValueError(
                f"`{self.argument}` does not fit model '{self.model}': no "
                f"array for {', '.join(map(repr, missing))}. Expected: {self}. "
                "Received: a dict with "
                f"{', '.join(map(repr, x)) or 'nothing'}."
            )
        return [x[key] for key in keys]

    def _in_order(self, x: Any) -> list[Any]:
        flat = list(keras.tree.flatten(x))
        own = self.structure
        ordered = not isinstance(own, dict) or list(own) == sorted(own)
        if len(flat) == len(self.names) and (ordered or len(flat) == 1):
            return flat
        raise ValueError(
            f"`{self.argument}` does not fit model '{self.model}'. Expected "
            f"for x: {self}. Received: {_described(x)}. Pass several inputs "
            "as a dict by name, or as a list in this order; a tuple is read "
            "as (x, y, sample_weight)."
        )

    def _checked(self, value: Any, tensor: keras.KerasTensor) -> Any:
        if value is None:
            if getattr(gr.input_layer(tensor), "optional", False):
                return None
            raise ValueError(
                f"`{self.argument}` has None for input '{tensor.name}' of "
                f"model '{self.model}', which is not optional."
            )
        name = f"input '{tensor.name}'"
        array = array_of(value, name, self.argument)
        if not _fits(tuple(array.shape), tuple(tensor.shape)):
            raise ValueError(
                f"`{self.argument}` does not fit model '{self.model}': input "
                f"'{tensor.name}' takes the shape {tuple(tensor.shape)}, and "
                f"received an array of {tuple(array.shape)}. "
                f"{self._remedy(tuple(array.shape), tensor)}"
            )
        return array

    def _remedy(self, shape: tuple[int, ...], tensor: keras.KerasTensor) -> str:
        """What to do about an array of a wrong shape."""
        if shape and _fits((1, *shape), tuple(tensor.shape)):
            return (
                "An axis of samples is missing: batch the dataset "
                f"({self.argument}.batch(32)), or pass x[None] for one sample."
            )
        return (
            f"Expected for x: {self}. A tuple is read as (x, y, "
            "sample_weight); pass several inputs as a list or a dict."
        )


def check_arrays(data: Any, argument: str) -> None:
    """Refuse numbers in lists of lists, which could be anything.

    Raises:
        TypeError: data hold such.
    """
    nested = data
    while isinstance(nested, (list, tuple)) and nested:
        nested = nested[0]
    if nested is not data and isinstance(nested, (numbers.Number, str)):
        raise TypeError(
            f"`{argument}` must hold arrays. Received: lists of numbers. Pass "
            "numpy.asarray(x), or (numpy.asarray(x), numpy.asarray(y))."
        )


def array_of(value: Any, name: str, argument: str) -> Any:
    """A tensor of this backend or a NumPy array, for anything like one.

    Args:
        value: the array.
        name: what it is, for messages.
        argument: the argument that it came in, for messages.

    Raises:
        TypeError: it is nothing like an array of samples.
        ValueError: it can't be read.
    """
    if isinstance(value, np.ndarray):
        array = value
    elif keras.ops.is_tensor(value) or (
        hasattr(value, "__array__") and hasattr(value, "shape")
    ):
        array = _readable(value, name, argument)
    else:
        array = None
    if array is None or not array.shape:
        raise TypeError(
            f"`{argument}` must have arrays with a first axis of samples. "
            f"Received for {name}: {value!r} (of type {type(value).__name__})."
        )
    return array


def _readable(value: Any, name: str, argument: str) -> Any:
    """A tensor of this backend, or what NumPy reads of another, or of pandas.

    Tensors of PyTorch that are on a device, or have a gradient, NumPy does not.

    Raises:
        ValueError: it can't be read at all.
    """
    try:
        if hasattr(value, "detach") and hasattr(value, "cpu"):
            own = keras.backend.backend() == "torch"
            value = value.detach() if own else value.detach().cpu()
        if not keras.ops.is_tensor(value):
            return np.asarray(value)
        _ = keras.ops.convert_to_numpy(value[:1])
    except Exception as error:
        raise ValueError(
            f"`{argument}` can't be read as an array for {name}: {error} "
            f"Received: {type(value).__name__}. Pass NumPy arrays, or tensors "
            f"of the backend in use ({keras.backend.backend()})."
        ) from error
    return value


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Whether Keras takes samples of this shape; it mends a last axis of 1."""
    if len(shape) == len(expected) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == len(expected) - 1 and expected[-1] == 1:
        shape = (*shape, 1)
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(
        axis == 0 or b is None or a == b for axis, (a, b) in enumerate(pairs)
    )


def _skeleton(value: Any) -> Any:
    """A structure alone, lists and tuples alike."""
    if isinstance(value, dict):
        return {key: _skeleton(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_skeleton(part) for part in value]
    return None


def _described(x: Any) -> str:
    if hasattr(x, "shape"):
        return f"one array of shape {tuple(x.shape)}"
    if isinstance(x, (list, tuple)):
        return f"a {type(x).__name__} of {len(x)}"
    return f"{x!r} (of type {type(x).__name__})"
