"""Which inputs of a model its outputs depend on, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import VALUES

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.known import Known


def levels(
    labelling: Labelling, values: dict[Tensor, Known]
) -> dict[Tensor, NDArray[np.int64]]:
    """How far each of the model's inputs gets when `values` are known.

    Args:
        labelling: a `Labelling`.
        values: `{tensor: Known}`, as `analysis.constants` returns.

    Returns:
        `{tensor: array}` with a level of `rules.reach` for each input of the
        model; without the tensors that depend on none.
    """
    inputs = labelling.graph.inputs
    each = VALUES * np.eye(len(inputs), dtype=int)
    found = dict(zip(inputs, each, strict=True))
    for step in labelling.steps:
        if not any(t in found for t in step.inputs):
            continue
        level = _through(step, found, values)
        if not level.any():
            continue
        for tensor in step.outputs:
            value = values.get(tensor)
            if value is None or np.isnan(value.values).any():
                found[tensor] = level
    return found


def _through(
    step: Step,
    found: dict[Tensor, NDArray[np.int64]],
    values: dict[Tensor, Known],
) -> NDArray[np.int64]:
    """The levels behind a step."""
    own = [VALUES]
    if step.position is None:
        known = [values.get(tensor) for tensor in step.inputs]
        own = step.rule.reaches(step.call, known)
    given = [
        (found[tensor], most)
        for tensor, most in zip(step.inputs, own, strict=True)
        if tensor in found
    ]
    if len(given) == 1 and given[0][1] == VALUES:
        return given[0][0]
    return np.max([np.minimum(level, most) for level, most in given], axis=0)


def best(found: dict[Tensor, NDArray[np.int64]], tensor: Tensor) -> int:
    """The highest level at which any input gets to a tensor."""
    return int(found[tensor].max()) if tensor in found else NOTHING


def main(found: dict[Tensor, NDArray[np.int64]], outputs: list[Tensor]) -> Any:
    """Pairs of an output and its level, with the inputs that get so far.

    These are what it computes with: the values where it depends on any, and
    not the masks beside them.

    Returns:
        A list of `(tensor, level, mask of the inputs)`, one for each output
        that depends on an input.
    """
    pairs = []
    for tensor in outputs:
        level = best(found, tensor)
        if level:
            pairs.append((tensor, level, found[tensor] == level))
    return pairs


def lost(found: dict[Tensor, NDArray[np.int64]], pairs: Any) -> bool:
    """Whether an input of `pairs` no longer gets to its output as far."""
    return any(
        tensor not in found or (found[tensor][inputs] < level).any()
        for tensor, level, inputs in pairs
    )
