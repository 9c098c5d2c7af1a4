"""Finds what a smaller model has kept of another one by its weights.

For models without a plan. A number hardly ever occurs twice in a kernel, so it
shows from which position it was taken.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.build.weight_map import Cut
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.repair.held import Held
from keras_gates.surgeon.repair.pairs import Pairs
from keras_gates.surgeon.repair.pairs import matched
from keras_gates.surgeon.repair.readers import readers_of

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.surgeon.repair.readers import Reader

# A constant that was absorbed, or merged with others, changes a few numbers.
_SAME = 0.5


def pairs_of(model: keras.Model, small: keras.Model) -> Pairs:
    """The `Pairs` of a model and what `prune` once made of it.

    Raises:
        TypeError: one of them is not a Keras model.
        ValueError: the second was not made of the first, or its kernels were
            trained, or multiplied by the factors of gates.
    """
    old, new = expand.read(model), see_through.read(small)
    before, now = holds = Held(old), Held(new)
    calls = matched(old.calls, new)
    cuts: dict[int, Cut] = {}
    lost = []
    for call, source in calls.items():
        olds = {reader.name: reader for reader in readers_of(source)}
        for reader in readers_of(call):
            found = olds.get(reader.name)
            cut = None if found is None else _cut(found, reader)
            if found is None or cut is None:
                lost.append(reader.path)
                continue
            own = before.original(found.kernel)
            cut = dataclasses.replace(cut, old=own)
            cuts[id(now.original(reader.kernel))] = cut
    if not cuts or len(lost) > len(cuts):
        raise ValueError(_misfit(old, new, lost))
    return Pairs(old, new, calls, cuts, holds)


def _misfit(old: Graph, new: Graph, lost: list[str]) -> str:
    which = f": {', '.join(map(repr, lost[:5]))}" if lost else ""
    return (
        f"'{new.model.name}' is not the result of prune for "
        f"'{old.model.name}': the kernels of its layers are not parts of the "
        f"kernels of the layers with the same names{which}. Pass the model "
        "that was pruned, before any training; or, if gates were folded into "
        "kernels, the plan: repair(plan, x)."
    )


def _cut(old: Reader, new: Reader) -> Cut | None:
    """The `Cut` that made one kernel of another; None if none did."""
    before = np.asarray(keras.ops.convert_to_numpy(old.kernel))
    after = np.asarray(keras.ops.convert_to_numpy(new.kernel))
    if before.ndim != after.ndim or any(
        a > b for a, b in zip(after.shape, before.shape, strict=True)
    ):
        return None
    if before.shape == after.shape:
        every = [np.arange(size) for size in before.shape]
    else:
        every = _positions(before, after)
    same = np.mean(before[np.ix_(*every)] == after)
    rising = all((np.diff(positions) > 0).all() for positions in every)
    if same < _SAME or not rising:
        return None
    return Cut(old.kernel, dict(enumerate(every)))


def _positions(
    before: NDArray[Any], after: NDArray[Any]
) -> list[NDArray[np.intp]]:
    """Where most numbers of each slice of `after` are in `before`, by axis."""
    values, first, counts = np.unique(
        before, return_index=True, return_counts=True
    )
    at = np.clip(np.searchsorted(values, after), 0, len(values) - 1)
    known = (values[at] == after) & (counts[at] == 1)
    # (axes, ...): where each number of `after` comes from.
    sources = np.array(np.unravel_index(first[at], before.shape))
    found = []
    for axis, size in enumerate(after.shape):
        votes = np.zeros((size, before.shape[axis]), int)
        here = np.broadcast_to(
            np.arange(size).reshape(
                [-1 if a == axis else 1 for a in range(after.ndim)]
            ),
            after.shape,
        )
        np.add.at(votes, (here[known], sources[axis][known]), 1)
        found.append(votes.argmax(axis=1))
    return found
