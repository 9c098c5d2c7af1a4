"""What a gate costs: the share of the model that goes when it is closed."""

import math

import numpy as np

from keras_gates.surgeon import costs
from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import named_weights


class Shares:
    """Shares of a model's multiply-adds, or of its parameters.

    Args:
        calls: all calls of the model.
        shapes: `{Tensor: shape}`, with no size open.
        unit: "macs" or "params".
    """

    def __init__(self, calls, shapes, unit):
        self.shapes = shapes
        self.unit = unit
        # A model without a single kernel has no shares to speak of.
        self.total = self._cost(calls) or 1

    def of(self, calls):
        """The share of some calls."""
        return self._cost(calls) / self.total

    def of_classes(self, labelling):
        """For each class, the share that goes when it alone is removed."""
        found = np.zeros(len(labelling.classes))
        flows = {s.call: s.flow for s in labelling.steps if s.position is None}
        for call, roles, cost in self._parts(flows):
            for role in roles:
                ids = flows[call].roles.get(role)
                if ids is not None:
                    own = labelling.classes[ids]
                    np.add.at(found, own, cost / len(ids))
        for above, below in _picked(labelling):
            found[above] += found[below]
        return found / self.total

    def _cost(self, calls):
        return sum(cost for _, _, cost in self._parts(calls))

    def _parts(self, calls):
        """The cost of each weight, with the roles of its axes.

        Multiply-adds count at each call, the parameters of a layer once.
        """
        seen = set()
        for call in calls:
            if self.unit == "params" and id(call.op) in seen:
                continue
            seen.add(id(call.op))
            rule = rule_of(call)
            axes = rule.axes_of(call)
            if not gr.own_weights(call.op):
                continue
            for part in rule.parts(call.op):
                for name, weight in named_weights(part, axes):
                    roles = {role for role in axes.get(name, ()) if role}
                    yield call, roles, self._of(call, rule, name, weight)

    def _of(self, call, rule, name, weight):
        if self.unit == "params":
            return math.prod(weight.shape)
        ends = self.shapes[call.inputs[0]], self.shapes[call.outputs[0]]
        weights = [(name, tuple(weight.shape))]
        macs = costs.layer_macs(call, rule, weights, *ends, self.shapes)
        return macs or 0


def _picked(labelling):
    """Pairs of classes: one that is picked from, and what is picked of it.

    What a reader picks goes with what it is picked from. Last ones first, so
    that costs add up towards the front.
    """
    pairs = {}
    for step in reversed(labelling.steps):
        if step.position is not None:
            labels = labelling.labels[step.inputs[0]].ravel()
            above = labelling.classes[labels[step.flow.sources[0][0].ravel()]]
            below = labelling.classes[step.flow.labels[0].ravel()]
            both = zip(above.tolist(), below.tolist(), strict=True)
            pairs.update(dict.fromkeys(both))
    return list(pairs)
