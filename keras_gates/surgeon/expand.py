"""Read a model with its composite layers written out."""

import collections
import functools

from keras_gates.surgeon import graph as gr
from keras_gates.surgeon.rewrite import rewrite
from keras_gates.surgeon.rules.composite import Composite
from keras_gates.surgeon.rules.registry import rule_of_class


def read(model):
    """The `Graph` of a model, or of one like it without composite layers.

    Raises:
        TypeError, ValueError: as `graph.read`; or a composite layer whose
            rule does not share is called at several places.
    """
    graph = gr.read(model)
    sites = {}
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            if _rule(site) is not None:
                sites.setdefault(id(site.op), []).append(site)
    for places in sites.values():
        op = places[0].op
        if len(places) > 1 and not rule_of_class(type(op)).shares:
            raise ValueError(
                f"Layer '{op.name}' (of type {type(op).__name__}) is called "
                f"{len(places)} times in '{model.name}', and the surgeon "
                "can write such a layer out at one place only. Use a layer "
                "of its own at each place."
            )
    if not sites:
        return graph
    made = collections.defaultdict(dict)
    return gr.read(rewrite(graph, functools.partial(_written_out, made)))


def _rule(site):
    if gr.has_own_call(site.op):
        return None
    rule = rule_of_class(type(site.op))
    return rule if isinstance(rule, Composite) else None


def _written_out(made, recall):
    rule = _rule(recall.site)
    if rule is None:
        return None
    shared = [made[id(recall.op)]] if rule.shares else []
    return rule.expand(recall.op, *recall.args, *shared, **recall.kwargs)
