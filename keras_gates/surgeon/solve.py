"""From closed gates to a decision: the checks and rounds around `decide`."""

import dataclasses

import keras
import numpy as np

from keras_gates.surgeon import analysis
from keras_gates.surgeon import decide
from keras_gates.surgeon import fold
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.gates import GateRule
from keras_gates.thresholds import Factors

_ROUNDS = 8


@dataclasses.dataclass
class Solution:
    """Everything that the rebuild and the report need."""

    graph: object
    closed: dict
    decision: object
    folds: object
    options: dict

    @property
    def labelling(self):
        return self.decision.labelling


def gates_of(graph):
    """`{path: gate layer}` of a graph, each gate once.

    Raises:
        ValueError: two gates have one path.
    """
    found, seen = {}, set()
    for call in graph.calls:
        if not isinstance(rule_of(call), GateRule) or id(call.op) in seen:
            continue
        seen.add(id(call.op))
        if call.path in found:
            raise ValueError(
                f"Two gates are called '{call.path}'. Rename one of them, so "
                "that thresholds and plans can tell them apart."
            )
        found[call.path] = call.op
    return found


def factors_of(graph):
    """The `Factors` of all gates.

    Raises:
        ValueError: a gate holds a NaN or an infinity.
    """
    found = []
    for name, gate in gates_of(graph).items():
        values = keras.ops.convert_to_numpy(gate.factor)
        if not np.isfinite(values).all():
            raise ValueError(
                f"Gate '{name}' has factors that are not finite; training "
                "went wrong before the surgeon came. Restore an earlier "
                "checkpoint."
            )
        found.append(Factors(name, gate.kind, values))
    return found


def solve(graph, closed, exact=True, round_to=1):
    """Find what stays when the gates in `closed` are zero.

    Args:
        graph: the `Graph` of the model.
        closed: `{gate name: boolean array}`.
        exact: whether only exact removals are made.
        round_to: a multiple that the channels of cut layers are kept to,
            by opening the largest of the closed gates again.

    Returns:
        A `Solution`, whose `closed` says which gates are closed after all.

    Raises:
        ValueError: an output would no longer depend on the inputs.
    """
    closed = {name: mask.copy() for name, mask in closed.items()}
    for _ in range(_ROUNDS):
        decision, by_id = _settle(graph, closed, exact)
        if round_to == 1 or not _reopen(decision, closed, round_to):
            break
    folds = fold.fold(decision, by_id)
    options = {"exact": exact, "round_to": round_to}
    return Solution(graph, closed, decision, folds, options)


def _settle(graph, closed, exact):
    """Decide, and do without the gathers that are not worth it."""
    uncut, gates = set(), gates_of(graph)
    while True:
        labelling = analysis.label(graph, frozenset(uncut))
        by_id = {id(gates[n]): mask for n, mask in closed.items()}
        values = analysis.constants(labelling, by_id)
        if not uncut:
            _check_outputs(labelling, values, by_id)
        decision = decide.decide(labelling, values, exact)
        poor = decide.poor_selections(decision) - uncut
        if not poor:
            return decision, by_id
        uncut |= poor


def _check_outputs(labelling, values, closed):
    """Refuse to make an output constant, and name the gates that would."""
    if not any(mask.any() for mask in closed.values()):
        return
    varying = decide.depends(labelling, values)
    graph = labelling.graph
    for number, tensor in enumerate(graph.outputs):
        if tensor in varying:
            continue
        before = decide.depends(labelling, {})
        if tensor not in before:
            continue
        gates = _culprits(labelling, varying, tensor, closed)
        name = graph.functional.output_names[number]
        raise ValueError(
            f"With these thresholds output {number} ('{name}') no longer "
            "depends on the model's inputs: every path to it goes through a "
            f"gate that lets nothing through: {', '.join(gates)}. Lower the "
            "threshold of one of them (thresholds takes a dict by gate "
            "name), pass keep_at_least=1 or more, or put a shortcut round "
            "the gate so that the rest can do without it."
        )


def _culprits(labelling, varying, tensor, closed):
    """The closed gates at which the paths to `tensor` end."""
    producer = {t: s for s in labelling.steps for t in s.outputs}
    found, todo, seen = [], [tensor], set()
    while todo:
        tensor = todo.pop()
        step = producer.get(tensor)
        if step is None or tensor in seen or tensor in varying:
            continue
        seen.add(tensor)
        shut = closed.get(id(step.call.op)) if step.is_gate else None
        if shut is not None and step.inputs[0] in varying:
            if step.path not in found:
                found.append(step.path)
            continue
        todo.extend(step.inputs)
    return [f"'{path}'" for path in sorted(found)] 


def _reopen(decision, closed, multiple):
    """Open gates again until widths are multiples; whether any was."""
    labelling = decision.labelling
    classes = labelling.classes
    size = np.zeros(len(classes))
    gates = []
    names = {id(op): name for name, op in gates_of(labelling.graph).items()}
    for step in labelling.steps:
        ids = step.flow.roles.get("channel") if step.is_gate else None
        name = names.get(id(step.call.op))
        if ids is None:
            continue
        factor = np.abs(keras.ops.convert_to_numpy(step.call.op.factor))
        shut = np.where(closed[name], factor, -1.0)
        np.maximum.at(size, classes[ids], np.where(shut >= 0, shut + 1e-9, 0))
        gates.append((name, classes[ids]))
    chosen, done = set(), set()
    for step in labelling.steps:
        ids = step.flow.roles.get("out")
        if ids is None or step not in decision.present:
            continue
        own = classes[ids]
        kept = decision.kept[own]
        if kept.all() or not kept.any() or own.tobytes() in done:
            continue
        done.add(own.tobytes())
        lacking = min(-int(kept.sum()) % multiple, int((~kept).sum()))
        gone = np.unique(own[~kept])
        gone = gone[size[gone] > 0]
        order = np.argsort(-size[gone], kind="stable")
        chosen.update(gone[order[:lacking]].tolist())
    if not chosen:
        return False
    chosen = np.array(sorted(chosen))
    for name, own in gates:
        closed[name] &= ~np.isin(own, chosen)
    return True
