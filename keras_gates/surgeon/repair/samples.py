"""What a model is repaired on: a few batches, some samples of them held out."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.scores.batches import batches_of

# The share of samples that each fit is chosen by, and then made of as well.
_CHOOSING = 0.2
# The share of which nothing is ever made, to tell how good the whole is; and of
# few samples so many, or as many as may be.
_JUDGING, _ENOUGH, _MOST = 0.1, 32, 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some samples.

    Attributes:
        x: flat list of the arrays of a model's inputs.
        choosing: whether the fits are chosen by each sample; bool,
            `(samples,)`.
        judging: whether the whole is judged by each of them, and no fit looks
            at it; likewise.
    """

    x: list[Any]
    choosing: NDArray[np.bool_]
    judging: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.choosing)


def read(
    model: keras.Model,
    x: Any,
    size: int,
    most: int,
    seed: int,
    argument: str,
) -> list[Batch]:
    """The first samples of `x`, in batches.

    Args:
        model: the model that they are for.
        x: as in `repair`.
        size: samples a batch, where `x` is arrays.
        most: how many samples at most.
        seed: of which samples are for what.
        argument: the argument that `x` came in, for messages.

    Raises:
        TypeError, ValueError: `x` is of no known form, does not fit the
            model, holds NaN or infinity, or is less than three samples.
    """
    found: list[list[Any]] = []
    counts: list[int] = []
    whole = batches_of(model, x, "repair", size, argument)
    for batch in itertools.takewhile(lambda _: sum(counts) < most, whole):
        flat = keras.tree.flatten(batch.x)
        fixed = model.inputs[0].shape[0] is not None
        left = batch.size if fixed else min(batch.size, most - sum(counts))
        flat = [None if a is None else _numpy(a)[:left] for a in flat]
        _check_finite(flat, argument)
        found.append(flat)
        counts.append(left)
    purposes = [
        np.split(mask, np.cumsum(counts)[:-1])
        for mask in _masks(sum(counts), seed)
    ]
    return [Batch(*parts) for parts in zip(found, *purposes, strict=True)]


def _masks(samples: int, seed: int) -> list[NDArray[np.bool_]]:
    """Which samples are for choosing, and which for judging."""
    if samples < 3:
        raise ValueError(
            "A repair needs at least three samples: one to fit, one to "
            "choose the fit, and one to judge the whole; a few hundred are "
            f"usual. Received: {samples}."
        )
    order = np.random.default_rng(seed).permutation(samples)
    enough = max(_JUDGING * samples, min(_ENOUGH, _MOST * samples))
    first = max(1, round(enough))
    last = first + max(1, round(_CHOOSING * samples))
    masks = [np.zeros(samples, bool) for _ in range(2)]
    for mask, part in zip(
        masks, (order[first:last], order[:first]), strict=True
    ):
        mask[part] = True
    return masks


def _numpy(array: Any) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    return np.array(keras.ops.convert_to_numpy(array))


def _check_finite(arrays: list[Any], argument: str) -> None:
    for array in arrays:
        if array is None:
            continue
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`{argument}` has NaN or infinity. A repair fits layers to "
                "all of it: leave out such samples."
            )
