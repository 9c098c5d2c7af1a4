"""What a model is repaired on: a few batches, some samples of them held out."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.scores.batches import batches_of

# The share of samples that a fit is judged on.
_HELD_OUT = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some samples.

    Attributes:
        x: flat list of the arrays of a model's inputs.
        held_out: whether each sample is held out; bool, `(samples,)`.
    """

    x: list[Any]
    held_out: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.held_out)


def read(
    model: keras.Model, x: Any, size: int, most: int, seed: int
) -> list[Batch]:
    """The first samples of `x`, in batches.

    Args:
        model: the model that they are for.
        x: as in `repair`.
        size: samples a batch, where `x` is arrays.
        most: how many samples at most.
        seed: of what is held out.

    Raises:
        TypeError, ValueError: `x` is of no known form, does not fit the
            model, holds NaN or infinity, or is less than two samples.
    """
    found: list[list[Any]] = []
    counts: list[int] = []
    whole = batches_of(model, x, "repair", size)
    for batch in itertools.takewhile(lambda _: sum(counts) < most, whole):
        flat = keras.tree.flatten(batch.x)
        fixed = model.inputs[0].shape[0] is not None
        left = batch.size if fixed else min(batch.size, most - sum(counts))
        flat = [None if a is None else _numpy(a)[:left] for a in flat]
        _check_finite(flat)
        found.append(flat)
        counts.append(left)
    held_out = _held_out(sum(counts), seed)
    parts = np.split(held_out, np.cumsum(counts)[:-1])
    return [Batch(*pair) for pair in zip(found, parts, strict=True)]


def _held_out(samples: int, seed: int) -> NDArray[np.bool_]:
    if samples < 2:
        raise ValueError(
            "A repair needs at least two samples, one to fit on and one to "
            "judge the fit by; some hundred are usual. Received: "
            f"{samples}."
        )
    count = max(1, round(_HELD_OUT * samples))
    mask = np.zeros(samples, bool)
    mask[np.random.default_rng(seed).permutation(samples)[:count]] = True
    return mask


def _numpy(array: Any) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    # Tensors of PyTorch, which other backends don't read on a device.
    if hasattr(array, "detach") and hasattr(array, "cpu"):
        array = array.detach()
    try:
        array = array.cpu() if hasattr(array, "cpu") else array
        return np.array(keras.ops.convert_to_numpy(array))
    except Exception as error:
        raise ValueError(
            f"The data to repair on can't be read as an array: {error} "
            f"Received: {type(array).__name__}. Pass NumPy arrays, or tensors "
            f"of the backend in use ({keras.backend.backend()})."
        ) from error


def _check_finite(arrays: list[Any]) -> None:
    for array in arrays:
        if array is None:
            continue
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                "The data to repair on hold NaN or infinity. Every layer is "
                "fitted to what the model makes of them: clean them first."
            )
