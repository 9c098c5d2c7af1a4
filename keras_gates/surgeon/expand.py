"""Read a model with its composite layers written out."""

import collections
import functools

import keras

from keras_gates._checks import listed
from keras_gates.layers.gate import Gate
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
    found = gr.read(rewrite(graph, functools.partial(_written_out, made)))
    for every in sites.values():
        _check_gate(every[0].op, found)
    return found


def _rule(site):
    rule = rule_of_class(type(site.op))
    return rule if isinstance(rule, Composite) else None


def _written_out(made, recall):
    rule = _rule(recall.site)
    if rule is None:
        return None
    shared = [made[id(recall.op)]] if rule.shares else []
    try:
        outputs = rule.expand(recall.op, *recall.args, *shared, **recall.kwargs)
    except Exception as error:
        takes = "(layer, x, made)" if rule.shares else "(layer, x)"
        raise ValueError(
            f"{_named(recall.op)} could not be written out: `expand` of its "
            f"Composite rule raised a {type(error).__name__} (above). It is "
            f"called as expand{takes}, with the further arguments of the "
            "recorded call, and makes new layers: the old ones have a model."
        ) from error
    _check_outputs(recall, outputs)
    return outputs


def _check_outputs(recall, outputs):
    """Refuse an expansion of other shapes than the layer has."""
    flat = keras.tree.flatten(outputs)
    expected = [tuple(kt.shape) for kt in recall.site.node.outputs]
    if all(isinstance(kt, keras.KerasTensor) for kt in flat):
        got = [tuple(kt.shape) for kt in flat]
        if got == expected:
            return
    else:
        got = outputs
    raise ValueError(
        f"{_named(recall.op)} was not written out as it is: its outputs have "
        f"the shapes {expected}, and `expand` of its Composite rule returned "
        f"{got}. It must return tensors of the same shapes."
    )


def _check_gate(op, graph):
    """Refuse an expansion without the gate that the rule speaks of."""
    spoken_of = rule_of_class(type(op)).gate(op)
    if spoken_of is None:
        return
    kind, variable = spoken_of
    named = {c.op.name: c.op for c in graph.calls if isinstance(c.op, Gate)}
    gate = named.get(op.name)
    if gate is not None and gate.kind == kind:
        if tuple(gate.factor.shape) == tuple(variable.shape):
            return
        what = f"a gate with factors of the shape {tuple(gate.factor.shape)}"
    elif gate is not None:
        what = f"a gate of the kind {gate.kind!r}"
    else:
        what = f"no gate of that name; its gates are: {listed(named)}"
    raise ValueError(
        f"{_named(op)} has factors of the kind {kind!r} and the shape "
        f"{tuple(variable.shape)}, as `gate` of its Composite rule says, but "
        f"`expand` makes {what}. Give the gate in it the name of the layer: "
        f"name=layer.name, here {op.name!r}."
    )


def _named(op):
    return f"Layer '{op.name}' (of type {type(op).__name__})"
