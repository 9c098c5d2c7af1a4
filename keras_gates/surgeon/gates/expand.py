"""Read a model with its composite layers written out."""

from __future__ import annotations

import collections
import functools
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates._checks import listed
from keras_gates.graphs import graph as gr
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.gate import Gate
from keras_gates.surgeon.rules.registry import rule_of_class

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.surgeon.rules.composite import Composite


class Trace:
    """Where the tensors of a model with its composites written out come from.

    Attributes:
        written_out: whether there was a composite at all; without one, the
            recorded calls are those of the model itself.
        parts: `{recorded call of a composite: (inputs, outputs)}`, symbolic
            tensors between which is what was made of it.
    """

    def __init__(self) -> None:
        self.written_out = False
        self.parts = {}
        self._origins = {}
        self._names = {}
        self._tensors = []  # kept, since an id is for living objects only

    def origin(self, site: Site, number: int) -> tuple[Any, int]:
        """The `(recorded call, output)` of the user's model, or None.

        Args:
            site: a `Site` of the graph that was read.
            number: one of its outputs.
        """
        if not self.written_out:
            return site.node, number
        kt = site.node.outputs[number]
        # A Sequential is called once more for its own record.
        key = self._names.get(id(site)), id(site.op), number
        return self._origins.get(id(kt)) or self._origins.get(key)

    def recording(self, graph: Graph, edit: Any) -> Any:
        """An `edit` for `rewrite` that keeps all this as it goes."""
        self.written_out = True
        own = _model_names(graph)

        def recorded(recall: Any) -> Any:
            outputs = edit(recall)
            composite = outputs is not None
            outputs = outputs if composite else recall()
            node, flat = recall.site.node, keras.tree.flatten(outputs)
            if composite:
                given = keras.tree.flatten((recall.args, recall.kwargs))
                given = [x for x in given if isinstance(x, keras.KerasTensor)]
                self.parts[node] = (given, flat)
            for number, kt in enumerate(flat):
                op, index = gr.maker(kt)
                key = own[id(recall.site)], id(op), index
                # What is handed on unchanged is what it was before.
                self._origins.setdefault(id(kt), (node, number))
                self._tensors.append(kt)
                taken = key in self._origins
                self._origins[key] = None if taken else (node, number)
            return outputs

        return recorded

    def finish(self, graph: Graph) -> Any:
        """The graph that was read in the end."""
        self._names = _model_names(graph)
        return graph


def _model_names(graph: Graph) -> Any:
    """`{id of a site: name of the model that it is in}`."""
    graphs = [graph, *graph.nested()]
    return {id(site): g.model.name for g in graphs for site in g.sites}


def read(
    model: int | keras.Layer | type[Any] | None, trace: Trace | None = None
) -> Graph:
    """The `Graph` of a model, or of one like it without composite layers.

    Args:
        model: a built model.
        trace: a `Trace` to be filled, or None.

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
        rule = _rule(places[0])
        if rule is not None and len(places) > 1 and not rule.shares:
            raise ValueError(
                f"Layer '{op.name}' (of type {type(op).__name__}) is called "
                f"{len(places)} times in '{model.name}', and the surgeon "
                "can write such a layer out at one place only. Use a layer "
                "of its own at each place."
            )
    if not sites:
        return graph
    made = collections.defaultdict(dict)
    edit = functools.partial(_written_out, made)
    if trace is None:
        found = gr.read(rewrite(graph, edit))
    else:
        edit = trace.recording(graph, edit)
        found = trace.finish(gr.read(rewrite(graph, edit)))
    for every in sites.values():
        _check_gate(every[0].op, found)
    return found


def _rule(site: Site) -> Composite | None:
    if gr.has_own_call(site.op):
        return None
    rule = rule_of_class(type(site.op))
    return None if rule is None else rule.composite


def _written_out(made: Any, recall: Any) -> Any:
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


def _check_outputs(recall: Any, outputs: Any) -> None:
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


def _check_gate(op: keras.Operation, graph: Graph) -> None:
    """Refuse an expansion without the gate that the rule speaks of."""
    rule = rule_of_class(type(op))
    spoken_of = rule and rule.composite and rule.composite.gate(op)
    if spoken_of is None:
        return
    kind, variable, *_ = spoken_of
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


def _named(op: keras.Operation) -> Any:
    return f"Layer '{op.name}' (of type {type(op).__name__})"
