"""Inputs for comparing two models: given or random ones."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.scores.inputs import Inputs
from keras_gates.surgeon.scores.inputs import check_arrays

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Call
    from keras_gates.graphs.graph import Tensor

_L = keras.layers
_INDEXED = (
    *("numpy.GetItem", "numpy.Reshape", "numpy.Squeeze", "numpy.ExpandDims"),
    *("numpy.Transpose", "numpy.Ravel", "numpy.Repeat", "numpy.Flip"),
    *("numpy.Concatenate", "numpy.Stack", "numpy.Split", "numpy.Roll"),
    *("numpy.BroadcastTo", "numpy.Tile", "numpy.Pad", "core.Cast"),
    *("core.Slice", "core.Unstack", "core.ConvertToTensor", "core.Identity"),
)
# What moves numbers and leaves each as it is: an index stays one.
_MOVES = (
    *(_L.Reshape, _L.Flatten, _L.Permute, _L.RepeatVector, _L.Identity),
    *(_L.Concatenate, _L.Dropout, _L.SpatialDropout1D, _L.Activation),
    *(_L.ZeroPadding1D, _L.ZeroPadding2D, _L.ZeroPadding3D),
    *(_L.Cropping1D, _L.Cropping2D, _L.Cropping3D),
    *filter(None, map(gr.operation, _INDEXED)),
)
_TAKE = gr.operation("numpy.Take")
_ONE_HOT = gr.operation("nn.OneHot")


def batches(model: keras.Model, x: Any, samples: int, seed: int) -> list[Any]:
    """What to run a model on: a list of its inputs.

    Args:
        model: a Functional or Sequential model.
        x: as for `model.predict`; or None.
        samples: how many samples to draw, or to take of an iterable.
        seed: seed of what is drawn.

    Raises:
        TypeError: `x` is nothing that a model takes.
        ValueError: there is no sample; `x` does not fit the model, or is not
            finite; or an input has an unknown size, or is one that can't be
            drawn, and `x` is None.
    """
    check_arrays(x, "x")
    if x is None:
        found = _random(model, samples, seed)
    elif isinstance(x, (dict, list, tuple)) or hasattr(x, "shape"):
        found = [x]
    else:
        found = _first(x, samples)
    if x is not None:
        inputs = Inputs.of_model(model, "x")
        found = [inputs.pack(batch) for batch in found]
    if not found or any(
        np.shape(array)[:1] == (0,)
        for batch in found
        for array in keras.tree.flatten(batch)
        if array is not None
    ):
        raise ValueError(
            "`verify` needs at least one sample to compare on. Received an "
            "empty `x`."
        )
    if x is not None and not all(map(_finite, keras.tree.flatten(found))):
        raise ValueError(
            "`x` has NaN or infinity, on which two models can't be compared. "
            "Leave out such samples."
        )
    return found


def _finite(array: Any) -> bool:
    if array is None or not keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(array.dtype)
    ):
        return True
    return bool(np.isfinite(keras.ops.convert_to_numpy(array)).all())


def few(model: keras.Model, batch: Any) -> Any:
    """Two samples of a batch, for what each sample shows as well as all do."""
    functional: Any = gr.functional_of(model)
    if any(kt.shape[0] for kt in functional.inputs):
        return batch

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return array[:2] if np.ndim(array) else array

    return keras.tree.map_structure(cut, batch)


def count(found: list[Any]) -> int:
    """How many samples there are in batches."""
    return sum(_length(batch) for batch in found)


def _length(batch: Any) -> int:
    shapes = [np.shape(x) for x in keras.tree.flatten(batch) if x is not None]
    return max((shape[0] for shape in shapes if shape), default=1)


def _first(x: Any, samples: int) -> list[Any]:
    """The first batches of a dataset, enough for so many samples."""
    if isinstance(x, keras.utils.PyDataset):
        length = x.num_batches
        endless = length is None
        numbers = itertools.count() if endless else iter(range(length))
        x = map(x.__getitem__, numbers)
    elif isinstance(x, str) or not hasattr(x, "__iter__"):
        raise TypeError(
            "`x` must be what `model.predict` takes: arrays, a list or a dict "
            "of them, or a dataset of batches. Received: "
            f"{x!r} (of type {type(x).__name__})."
        )
    found = []
    for batch in x:
        if isinstance(batch, (list, tuple)):
            # As `predict` does: (x, y) and (x, y, sample_weight) are known.
            batch, *_ = keras.utils.unpack_x_y_sample_weight(tuple(batch))
        found.append(batch)
        if count(found) >= samples:
            break
    return found


# Random ones -----------------------------------------------------------------


def _random(model: keras.Model, samples: int, seed: int) -> list[Any]:
    """Random inputs in the structure that the model takes."""
    rng = np.random.default_rng(seed)
    graph = gr.read(model)
    if not all(keras.backend.is_float_dtype(x.dtype) for x in graph.inputs):
        graph = see_through.read(model)  # for the sizes of tables
    fixed = [kt.shape[0] for kt in graph.functional.inputs if kt.shape[0]]
    size = max(fixed, default=samples)
    number = math.ceil(samples / size) if size else 1
    bounds = [_bound(tensor) for tensor in graph.inputs]
    drawn = [
        [
            _drawn(kt, size, bound, rng)
            for kt, bound in zip(graph.functional.inputs, bounds, strict=True)
        ]
        for _ in range(number)
    ]
    structure, _ = gr.structures(model)
    return [keras.tree.pack_sequence_as(structure, flat) for flat in drawn]


def _drawn(
    kt: keras.KerasTensor,
    size: int,
    bound: int | list[Any] | None,
    rng: np.random.Generator,
) -> NDArray[Any]:
    """Random values of one input.

    Args:
        kt: the KerasTensor.
        size: how many samples.
        bound: how many numbers it may count up to, a list of words, or None
            where neither is known.
        rng: a NumPy generator.
    """
    shape = (size, *kt.shape[1:])
    if any(s is None for s in shape):
        raise ValueError(
            f"Input '{kt.name}' has the shape {tuple(kt.shape)}, and its "
            "unknown sizes can't be guessed: pass `x`, inputs of your own."
        )
    if isinstance(bound, list):
        words = np.array(bound, dtype=object)[
            rng.integers(len(bound), size=shape)
        ]
        return words if kt.dtype == "string" else _cast(words, kt)
    if kt.dtype == "string":
        raise ValueError(
            f"Input '{kt.name}' takes strings, which can't be guessed: pass "
            "`x`."
        )
    if bound is not None:
        found = rng.integers(0, max(1, bound), shape)
        if bound > 1 and len(shape) > 1:
            # A zero may stand for padding, and must not be all that there is.
            found[..., 0] = rng.integers(1, bound, shape[:-1])
        return _cast(found, kt)
    if kt.dtype == "bool":
        return _lengths(shape, rng)
    if keras.backend.is_float_dtype(kt.dtype):
        return _cast(rng.normal(size=shape), kt)
    if kt.dtype == "uint8":  # a picture
        return _cast(rng.integers(0, 256, shape), kt)
    drawn = rng.integers(0, 2, shape)
    if len(shape) > 1:
        drawn[..., 0] = 1  # it may be a mask, which must not hide everything
    return _cast(drawn, kt)


def _cast(array: NDArray[Any], kt: keras.KerasTensor) -> NDArray[Any]:
    """The array in the type of an input."""
    dtype: str = kt.dtype
    return array.astype(dtype)


def _lengths(
    shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A mask of sequences of random lengths, one step or more."""
    if len(shape) < 2:
        return rng.random(shape) < 0.5
    lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
    return np.arange(shape[-1]) < lengths


def _bound(tensor: Tensor) -> int | list[Any] | None:
    """How many numbers an input may count up to, as far as it is looked up.

    Returns:
        The size of the smallest table that its numbers index, a list of
        words, or None if they index nothing.
    """
    found: list[int] = []
    todo, seen = [tensor], set()
    while todo:
        tensor = todo.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for call in tensor.consumers:
            size = _table(call, tensor)
            if isinstance(size, list):
                return size
            if size is not None:
                found.append(size)
            elif isinstance(call.op, _MOVES) or _rounds(call.op):
                todo.extend(call.outputs)
    return min(found, default=None)


def _rounds(op: keras.Operation) -> bool:
    return type(op).__name__ == "Cast"


def _table(call: Call, tensor: Tensor) -> int | list[Any] | None:
    """The size of the table that a call looks the tensor's numbers up in."""
    op: Any = getattr(call.op, "layer", call.op)  # TimeDistributed
    size: int
    if isinstance(op, _L.CategoryEncoding):
        size = op.num_tokens
        return size
    if isinstance(op, (_L.StringLookup, _L.IntegerLookup)):
        words = op.get_vocabulary(include_special_tokens=False)
        return list(words) or None
    if _ONE_HOT is not None and isinstance(op, _ONE_HOT):
        size = op.num_classes
        return size
    if _TAKE is not None and isinstance(op, _TAKE):
        return _taken(call, tensor)
    parts = [op, *private.sublayers(op)] if isinstance(op, keras.Layer) else []
    sizes = [x.input_dim for x in parts if isinstance(x, _L.Embedding)]
    return min(sizes, default=None)


def _taken(call: Call, tensor: Tensor) -> int | None:
    """The size of the axis that `ops.take` takes from."""
    source = call.argument("x")
    if source is tensor:
        return None
    shape, axis = tuple(source.shape), call.op.axis
    size: int | None = math.prod(shape) if axis is None else shape[axis]
    return size
