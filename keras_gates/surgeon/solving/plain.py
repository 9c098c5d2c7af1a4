"""Graphs in which all coupled channels can be removed, without trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_gates.surgeon.rules.rule import ALL

if TYPE_CHECKING:
    from keras_gates.surgeon.passes.label import Labelling
    from keras_gates.surgeon.passes.label import Step


def reads_plainly(labelling: Labelling, exact: bool = True) -> bool:
    """Whether each group of a graph loses channels where it is closed.

    A group has gates wherever its channels are read. They stay only if
    something reads them in spite of these zeros: a kernel takes any zero for
    what it is, and what reads all channels together has no group before it.
    So all groups can go where nothing else reads. Other graphs have to be
    solved to tell.

    Args:
        labelling: that of the graph's `Groups`.
        exact: as in `solve`.
    """
    graph, steps = labelling.graph, labelling.steps
    if graph.masking or graph.unread:
        return False
    # Calls of one layer, or of one model, agree on what stays.
    alone = len({id(step.call.op) for step in steps}) == len(steps)
    return alone and all(_is_plain(step, exact) for step in steps)


def _is_plain(step: Step, exact: bool) -> bool:
    rule, call, flow = step.rule, step.call, step.flow
    inside = call.scopes or call.times
    trained = call.kwargs.get("training") is True
    if inside or trained or step.is_gate or flow.reason is not None:
        return False
    if flow.untied or flow.states or rule.inner_units(call):
        return False
    if not flow.mixes:
        return True
    if rule.reading(call) == ALL:
        return exact or not rule.approximates(call)
    return rule.linear and len(step.inputs) == 1
