"""Runs a pruned model and its masked original, and compares the outputs."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.surgeon.verifying import closed_places
from keras_gates.surgeon.verifying import masked_run
from keras_gates.surgeon.verifying import other_sizes
from keras_gates.surgeon.verifying import sample_inputs

# A model with wrong channels is off by as much as its outputs vary. That has
# to stand out from what rounding does, some 1e-6 of their scale in float32.
_VISIBLE = 1e-4


def compare(
    model: keras.Model,
    pruned: keras.Model,
    x: Any,
    samples: int,
    seed: int,
    masks: Mapping[str, NDArray[np.bool_]],
    exact: bool,
    drop_shortcuts: bool,
    groups: Collection[str] | None,
    whole: Mapping[str, str],
) -> dict[str, float]:
    """Return the largest difference of each output, relative to its scale.

    Args:
        model: the model with gates.
        pruned: what became of it.
        x: as in `verify`.
        samples: as in `verify`.
        seed: as in `verify`.
        masks: what is closed, `{name of a gate or group: mask}`.
        exact: as in `plan`.
        drop_shortcuts: as in `plan`.
        groups: the names in `masks` that are those of groups with scores;
            None stands for all names that no gate has.
        whole: as in `Options`.

    Raises:
        ValueError: as `verify`.

    Warns:
        UserWarning: as `verify`, to whom called what calls this.
    """
    batches = sample_inputs.batches(model, x, samples, seed)
    closing, *others = closed_places.find(
        model, masks, exact, drop_shortcuts, groups, whole
    )
    few = sample_inputs.few(model, batches[0])
    closing, *others = (
        other_sizes.fitted(model, each, few) for each in (closing, *others)
    )
    masked_run.check_recorded(model, few)
    expected = masked_run.outputs(model, batches, closing)
    got = masked_run.outputs(pruned, batches)
    _check_shapes(model, expected, pruned, got)
    far = masked_run.differences(expected, got)
    for other in others:
        pair = [masked_run.outputs(model, [few], c) for c in (closing, other)]
        far = [*map(max, far, masked_run.differences(*pair))]
    names = output_names(model)
    _warn(model, names, expected, far, sample_inputs.count(batches))
    return dict(zip(names, far, strict=True))


def _check_shapes(
    model: keras.Model,
    expected: list[NDArray[Any]],
    pruned: keras.Model,
    got: list[NDArray[Any]],
) -> None:
    if [y.shape for y in expected] != [y.shape for y in got]:
        raise ValueError(
            f"The outputs of '{pruned.name}' have the shapes "
            f"{[y.shape for y in got]}, and those of '{model.name}' "
            f"{[y.shape for y in expected]}. `verify` compares a model with "
            "its result of `prune`."
        )


def _warn(
    model: keras.Model,
    names: list[str],
    expected: list[NDArray[Any]],
    far: list[float],
    samples: int,
) -> None:
    """Warn about outputs whose agreement proves nothing.

    Where they differ by much, that is proof enough.
    """
    visible = max(_VISIBLE, _coarsest(model))
    flat = {
        name: variation
        for name, variation, one in zip(
            names, map(_variation, expected), far, strict=True
        )
        if one <= visible and not variation > visible
    }
    if not flat:
        return
    if samples == 1:
        what = (
            "one sample does not show whether the outputs depend on the "
            "inputs at all"
        )
    else:
        what = "; ".join(
            f"output '{name}' varies by {variation:.1g} of its scale over the "
            f"{samples} samples, which a model with wrong channels would do "
            "as well"
            for name, variation in flat.items()
        )
    warnings.warn(
        f"`verify` can't tell whether the model that was made of "
        f"'{model.name}' is right: {what}. Pass inputs like those that it was "
        "trained on, verify(..., x=...), several and of different classes.",
        UserWarning,
        stacklevel=4,
    )


def _variation(output: NDArray[Any]) -> float:
    """The largest deviation of a coordinate over samples, by the scale."""
    output = output.astype("float64")
    scale = np.abs(output).max(initial=0.0)
    if not output.ndim or not 0 < scale < np.inf:
        return 0.0
    return float(output.std(axis=0).max(initial=0.0) / scale)


def _coarsest(model: keras.Model) -> float:
    """The rounding of the coarsest type that the model computes in."""
    types = {layer.compute_dtype for layer in private.sublayers(model)}
    return max(map(masked_run.resolution_of, types), default=0.0)


def output_names(model: keras.Model) -> list[str]:
    """The names of a model's outputs, each made its own by a number."""
    names: list[str] = []
    seen: dict[str, int] = {}
    functional: Any = gr.functional_of(model)
    for name in functional.output_names:
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}_{seen[name]}" if seen[name] else name)
    return names
