"""Why a closed branch, layer or block stays all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_gates.surgeon.report.futile_factors import Futile
from keras_gates.surgeon.solving import removable
from keras_gates.surgeon.solving import solve
from keras_gates.surgeon.solving.bars import few
from keras_gates.surgeon.solving.bars import weight_roles

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.solving.solve import Solution


def kept_branches(solution: Solution) -> list[Futile]:
    """Closed gates of one factor whose branch stays all the same."""
    found: list[Futile] = []
    sources = solution.gates
    for name, mask in solution.closed.items():
        if mask.ndim or not mask.any() or name not in sources:
            continue
        reader = _kept_branch(solution, sources[name].layer)
        if reader is None:
            continue
        closed = {**solution.closed, name: np.zeros_like(mask)}
        other = solve.solve(
            solution.graph,
            closed,
            exact=solution.decision.exact,
            check=False,
            trials=solution.trials,
        )
        left = [removable.parameters(s.decision) for s in (solution, other)]
        if left[0] == left[1]:
            found.append(Futile(name, 1, 1, True, *reader, 0))
    return found


def _kept_branch(
    solution: Solution, layer: keras.Layer
) -> tuple[str, str] | None:
    """Why the branch of a scalar gate stays, and a remedy; None if it goes."""
    decision, labelling = solution.decision, solution.labelling
    producer = {t: s for s in labelling.steps for t in s.outputs}
    steps = [s for s in labelling.steps if s.call.op is layer]
    todo = [t for s in steps for t in s.inputs]
    makers: dict[Step, None] = {}
    readers: dict[str, None] = {}
    while todo:
        tensor = todo.pop()
        if tensor in labelling.graph.outputs:
            readers["the model's outputs"] = None
        for call in tensor.consumers:
            if call.op is not layer:
                readers[f"'{call.path}'"] = None
        step = producer.get(tensor)
        if step is None:
            continue
        if weight_roles(step):
            makers[step] = None
        else:
            todo.extend(step.inputs)
    if not makers:
        return "its branch has no layer with weights", ""
    if not all(step in decision.present for step in makers):
        return None
    names = few([f"'{step.path}'" for step in makers])
    whom = few(list(readers)) or "other layers"
    return (
        f"{names} is also read by {whom}",
        "Gate a branch whose tensors nothing else reads.",
    )
