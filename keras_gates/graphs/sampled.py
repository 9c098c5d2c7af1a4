"""Tests by random inputs whether a layer and its parts compute the same."""

from __future__ import annotations

import enum
import functools
import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
from keras_gates.graphs.functional import structures

# For axes of unknown size, what is tried: small, and with many divisors.
_SIZES = (6, 8, 12, 16, 32)
# How many samples: what takes windows for samples puts images together again.
SAMPLES = (2, 4, 6, 8, 9, 16, 25, 36, 49, 64)
# By the outputs' scale; other operations may round in another way.
NEAR = 1e-4
_ALIKE = {"float16": 0.05, "bfloat16": 0.2}


class Likeness(enum.Enum):
    """What came of a trial.

    Attributes:
        ALIKE: both give the same.
        UNLIKE: they give something else.
        FAILS: the model can't be run where the layer can.
        UNTRIED: the layer takes inputs of none of the sizes.
    """

    ALIKE = "alike"
    UNLIKE = "unlike"
    FAILS = "fails"
    UNTRIED = "untried"


def compared(
    layer: keras.Layer,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    model: keras.Model,
    inputs: list[keras.KerasTensor],
    some_size: bool = False,
    near: float = NEAR,
    samples: Sequence[int] = SAMPLES,
) -> Likeness:
    """Whether both give the same for random inputs.

    Args:
        layer: a layer, which is called in inference.
        given: the arguments of its call, with symbolic tensors.
        model: takes the tensors among them, in order.
        inputs: what the tensors among the arguments are like.
        some_size: whether the model may take inputs of one size only.
        near: how far both may be apart, by the scale of the outputs, unless
            these have half the precision.
        samples: how many samples are tried, where their number is open.
    """
    inside, _ = structures(model)
    sizes = _SIZES if any(None in kt.shape[1:] for kt in inputs) else _SIZES[:1]
    open_ = any(kt.shape[0] is None for kt in inputs)
    counts = samples if open_ else (2,)
    for count, size in itertools.product(counts, sizes):
        random = np.random.default_rng(0)
        arrays = [_drawn(kt, size, random, count) for kt in inputs]
        with warnings.catch_warnings():
            # What is told of an input here has been told before.
            warnings.simplefilter("ignore")
            _carry_masks(inputs, arrays)
            try:
                expected = _flat(_called(layer, given, arrays))
            except Exception:  # the layer may need another size
                continue
            _carry_masks(inputs, arrays)
            try:
                packed = keras.tree.pack_sequence_as(inside, arrays)
                got = _flat(model(packed, training=False))
            except Exception:  # it holds for other sizes only
                if some_size:
                    continue
                return Likeness.FAILS
        same = len(expected) == len(got) and all(
            _alike(a, b, near) for a, b in zip(expected, got, strict=True)
        )
        return Likeness.ALIKE if same else Likeness.UNLIKE
    return Likeness.UNTRIED


def models_agree(old: keras.Model, new: keras.Model, inputs: Any) -> bool:
    """Whether two models give the same in inference, in the same structure.

    Also where the old one takes inputs of none of the sizes that are tried.

    Args:
        old: a model.
        new: another one.
        inputs: symbolic tensors in the structure that both take.
    """
    told = {"training": False} if private.takes_training(old) else {}
    for size in _SIZES:
        random = np.random.default_rng(0)
        draw = functools.partial(_drawn, size=size, random=random)
        arrays = keras.tree.map_structure(draw, inputs)
        try:
            expected = _by_path(old(arrays, **told))
        except Exception:  # it may need another size
            continue
        got = _by_path(new(arrays, training=False))
        return expected.keys() == got.keys() and all(
            _alike(expected[path], got[path]) for path in expected
        )
    return True


def _by_path(outputs: Any) -> dict[Any, NDArray[Any]]:
    pairs = keras.tree.flatten_with_path(outputs)
    return {
        path: np.asarray(keras.ops.convert_to_numpy(x)) for path, x in pairs
    }


def _drawn(
    kt: keras.KerasTensor,
    size: int,
    random: np.random.Generator,
    count: int = 2,
) -> Any:
    shape = [size if x is None else x for x in kt.shape]
    shape[:1] = [count if kt.shape[0] is None else kt.shape[0]]
    floats = keras.backend.is_float_dtype(kt.dtype)
    values = (
        random.normal(size=shape) if floats else random.integers(2, size=shape)
    )
    return keras.ops.convert_to_tensor(values, kt.dtype)


def _carry_masks(inputs: list[keras.KerasTensor], arrays: list[Any]) -> None:
    """Let arrays carry masks where the tensors that they stand for do."""
    for kt, array in zip(inputs, arrays, strict=True):
        mask = private.mask_of(kt)
        if mask is not None and len(array.shape) > 1:
            steps = np.arange(array.shape[1])
            length = max(1, array.shape[1] - 2)
            padded = np.broadcast_to(steps < length, array.shape[:2])
            padded = keras.ops.convert_to_tensor(padded, "bool")
            private.set_mask(array, padded)


def _called(
    layer: keras.Layer,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    arrays: list[Any],
) -> Any:
    args, kwargs = filled(given, arrays)
    if private.takes_training(layer):
        kwargs = {**kwargs, "training": False}
    return layer(*args, **kwargs)


def filled(given: Any, values: list[Any]) -> Any:
    """A structure with values in place of its symbolic tensors.

    Args:
        given: the structure.
        values: one for each symbolic tensor, in the order of `tree.flatten`.
    """
    # Not by `map_structure`, which may take dicts in another order.
    rest = iter(values)
    flat = [
        next(rest) if isinstance(x, keras.KerasTensor) else x
        for x in keras.tree.flatten(given)
    ]
    return keras.tree.pack_sequence_as(given, flat)


def _flat(outputs: Any) -> list[NDArray[np.float64]]:
    flat = keras.tree.flatten(outputs)
    return [
        np.asarray(keras.ops.convert_to_numpy(x)) for x in flat if x is not None
    ]


def _alike(
    expected: NDArray[Any], got: NDArray[Any], near: float = NEAR
) -> bool:
    if (expected.shape, expected.dtype) != (got.shape, got.dtype):
        return False
    near = _ALIKE.get(expected.dtype.name, near)
    expected, got = expected.astype("float64"), got.astype("float64")
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-6)
    return bool(
        np.allclose(expected, got, rtol=0, atol=near * scale, equal_nan=True)
    )
