"""Finds the nested models that change in the smaller model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.surgeon.build.weights import Weights
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


class Changes:
    """Says what a decision leaves unchanged.

    Args:
        decision: the `Decision`.
        folds: the `Folds`: where the factors of gates go.
        weights: the `Weights` of both.
    """

    def __init__(
        self, decision: Decision, folds: Folds, weights: Weights
    ) -> None:
        self.decision = decision
        self.folds = folds
        self.weights = weights

    def inside(self, graph: Graph) -> bool:
        """Whether anything in a nested graph changes."""
        for each in [graph, *graph.nested()]:
            for site in each.sites:
                if site.child is None and site in self._changed:
                    return True
                if not self._scaled_behind.isdisjoint(site.behind.values()):
                    return True
        return False

    @functools.cached_property
    def _changed(self) -> set[Site]:
        sites: set[Site] = set()
        norms: set[int] = set()
        for step in self.decision.labelling.steps:
            if self._is_changed(step):
                sites.add(step.site)
            if self.decision.absorbed(step):
                norm = self.weights.sole_norm(step)
                norms.update([] if norm is None else [id(norm)])
        for step in self.decision.labelling.steps if norms else ():
            if id(step.call.op) in norms:
                sites.add(step.site)
        return sites

    @functools.cached_property
    def _scaled_behind(self) -> set[Site]:
        return {key.site for key in self.folds.scales}

    def _is_changed(self, step: Step) -> bool:
        decision = self.decision
        labels = [decision.labelling.labels[t] for t in step.inputs]
        units = [*labels, *step.flow.labels, *step.flow.roles.values()]
        return (
            step not in decision.present
            or step.is_gate
            or step.key in decision.dropped
            or step.key in self.folds.scales
            or not all(decision.mask(x).all() for x in units)
            or bool(decision.absorbed(step))
            or step.call.op in self.folds.by_weight
        )
