"""The inputs on which a model's outputs depend, and how."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_gates.surgeon.rules.reach import NOTHING
from keras_gates.surgeon.rules.reach import VALUES

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Tensor
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.known import Known


class Dependence(NamedTuple):
    """What an output depends on.

    Attributes:
        output: the output.
        level: the highest level of `rules.reach` at which an input gets to it.
        inputs: which of the model's inputs get so far; bool, `(inputs,)`.
    """

    output: Tensor
    level: int
    inputs: NDArray[np.bool_]


def levels(
    labelling: Labelling, values: Mapping[Tensor, Known]
) -> dict[Tensor, NDArray[np.intp]]:
    """How far each of the model's inputs gets when `values` are known.

    Args:
        labelling: a `Labelling`.
        values: `{tensor: Known}`, as `label.constants` returns.

    Returns:
        `{tensor: array}` with a level of `rules.reach` for each input of the
        model; int, `(inputs,)`. Without the tensors that depend on none.
    """
    inputs = labelling.graph.inputs
    each = VALUES * np.eye(len(inputs), dtype=np.intp)
    found: dict[Tensor, NDArray[np.intp]]
    found = dict(zip(inputs, each, strict=True))
    for step in labelling.steps:
        if not any(t in found for t in step.inputs):
            continue
        level = _through(step, found, values)
        if not level.any():
            continue
        for tensor in step.outputs:
            value = values.get(tensor)
            if value is None or not value.complete:
                found[tensor] = level
    return found


def _through(
    step: Step,
    found: Mapping[Tensor, NDArray[np.intp]],
    values: Mapping[Tensor, Known],
) -> NDArray[np.intp]:
    """The levels after a step."""
    highest = _highest(step, [values.get(t) for t in step.inputs])
    given = [
        (found[tensor], most)
        for tensor, most in zip(step.inputs, highest, strict=True)
        if tensor in found
    ]
    if len(given) == 1 and given[0][1] == VALUES:
        return given[0][0]
    capped = [np.minimum(level, most) for level, most in given]
    return functools.reduce(np.maximum, capped)


def carried(step: Step) -> list[Tensor]:
    """The inputs whose values get to a step's outputs, if none is known."""
    highest = _highest(step, [None] * len(step.inputs))
    pairs = zip(step.inputs, highest, strict=True)
    return [tensor for tensor, most in pairs if most == VALUES]


def _highest(step: Step, known: Sequence[Known | None]) -> list[int]:
    """How far each input of a step gets at most."""
    if step.is_selection:
        return [VALUES]
    return step.rule.reaches(step.call, known)


def best(found: Mapping[Tensor, NDArray[np.intp]], tensor: Tensor) -> int:
    """The highest level at which any input gets to a tensor."""
    return int(found[tensor].max()) if tensor in found else NOTHING


def main(
    found: Mapping[Tensor, NDArray[np.intp]], outputs: Sequence[Tensor]
) -> list[Dependence]:
    """What each output computes with, if it depends on any input.

    That is the values where it depends on any, and not the masks beside them.
    """
    return [
        Dependence(tensor, level, found[tensor] == level)
        for tensor in outputs
        if (level := best(found, tensor))
    ]


def lost(
    found: Mapping[Tensor, NDArray[np.intp]], needed: Sequence[Dependence]
) -> bool:
    """Whether an input of `needed` no longer gets to its output as far."""
    return any(
        output not in found or bool((found[output][inputs] < level).any())
        for output, level, inputs in needed
    )
