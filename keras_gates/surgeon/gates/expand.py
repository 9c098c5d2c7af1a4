"""Reads a model with its composite layers written out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import keras

from keras_gates._checks import listed
from keras_gates.graphs import graph as gr
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.opened import flat_tensors
from keras_gates.graphs.rewrite import rewrite
from keras_gates.layers.gate import Gate
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.rules.registry import rule_of_class

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.rewrite import Edit
    from keras_gates.graphs.rewrite import Note
    from keras_gates.graphs.rewrite import Recall
    from keras_gates.surgeon.rules.composite import Composite

    # Of each composite layer, what its expansions share.
    Made = IdentityDict[keras.Layer, dict[Any, Any]]


class Origin(NamedTuple):
    """An output of a recorded call of the user's model.

    Attributes:
        node: the call, as Keras recorded it.
        number: that of the output.
    """

    node: Any
    number: int


class Expansion(NamedTuple):
    """The symbolic tensors between which a composite layer is written out."""

    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


class Trace:
    """Where the tensors of a model with its composites written out come from.

    Attributes:
        written_out: whether there was a composite at all; without one, the
            recorded calls are those of the model itself.
        parts: recorded call of a composite -> its `Expansion`.
        models: those of layers that were written out, since a composite is
            inside.
    """

    def __init__(self) -> None:
        self.written_out = False
        self.parts: dict[Any, Expansion] = {}
        self.models: set[keras.Model] = set()
        self._by_tensor: dict[int, Origin] = {}
        # By the model's name, the id of the operation, and the number of its
        # output; None for what several calls have in common.
        self._by_maker: dict[tuple[str | None, int, int], Origin | None] = {}
        self._model_names: dict[Site, str] = {}
        # Kept, since an id is for living objects only.
        self._tensors: list[keras.KerasTensor] = []

    def origin(self, site: Site, number: int) -> Origin | None:
        """The output in the user's model, or None for an output of a part.

        Args:
            site: a `Site` of the graph that was read.
            number: one of its outputs.
        """
        if not self.written_out:
            return Origin(site.node, number)
        kt = site.node.outputs[number]
        # A Sequential is called once more for its own record.
        key = self._model_names.get(site), id(site.op), number
        return self._by_tensor.get(id(kt)) or self._by_maker.get(key)

    def recording(self, graph: Graph, edit: Edit) -> tuple[Edit, Note]:
        """An `edit` and a `note` for `rewrite` that record this."""
        self.written_out = True
        names = _model_names(graph)

        def recorded(recall: Recall) -> Any:
            outputs = edit(recall)
            if outputs is not None and recall.site in names:
                given = flat_tensors((recall.args, recall.kwargs))
                flat = keras.tree.flatten(outputs)
                self.parts[recall.site.node] = Expansion(given, flat)
            return outputs

        def noted(site: Site, flat: list[keras.KerasTensor]) -> None:
            if site not in names:  # in a layer that is seen through
                return
            for number, kt in enumerate(flat):
                op, index = gr.maker(kt)
                key = names[site], id(op), index
                # What is passed on unchanged is what it was before.
                self._by_tensor.setdefault(id(kt), Origin(site.node, number))
                self._tensors.append(kt)
                taken = key in self._by_maker
                origin = Origin(site.node, number)
                self._by_maker[key] = None if taken else origin
                if site.opened is not None and isinstance(op, keras.Model):
                    self.models.add(op)

        return recorded, noted

    def finish(self, graph: Graph) -> Graph:
        """The final graph."""
        self._model_names = _model_names(graph)
        return graph


def _model_names(graph: Graph) -> dict[Site, str]:
    """For each site of the user's models, the name of the model it is in."""
    found = dict.fromkeys(graph.sites, graph.model.name)
    for site in graph.sites:
        if site.child is not None and site.opened is None:
            found |= _model_names(site.child)
    return found


def read(
    model: keras.Model,
    trace: Trace | None = None,
    like: Graph | None = None,
    whole: Mapping[str, str] | None = None,
) -> Graph:
    """The `Graph` of a model, or of one like it without composite layers.

    Args:
        model: a built model.
        trace: a `Trace` to be filled, or None.
        like: as in `see_through.read`.
        whole: path of a layer that is not to be seen through -> why.

    Raises:
        TypeError, ValueError: as `graph.read`; or a composite layer whose
            rule does not share is called at several places.
    """
    graph = _seen(model, like, whole)
    sites: IdentityDict[keras.Layer, list[Site]] = IdentityDict()
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            if _rule(site) is not None:
                sites.setdefault(site.op, []).append(site)
    for op, places in sites.items():
        rule = _rule(places[0])
        if rule is not None and len(places) > 1 and not rule.shares:
            raise ValueError(
                f"Layer '{op.name}' (of type {type(op).__name__}) is called "
                f"{len(places)} times in '{model.name}', and the surgeon can "
                "write out such a layer only once. Use a separate layer for "
                "each call."
            )
    if not sites:
        return graph
    made: Made = IdentityDict((op, {}) for op in sites)
    edit: Edit = functools.partial(_written_out, made)
    if trace is None:
        found = _seen(rewrite(graph, edit), graph, whole)
    else:
        edit, note = trace.recording(graph, edit)
        written = rewrite(graph, edit, note=note)
        found = trace.finish(_seen(written, graph, whole))
    for places in sites.values():
        _check_gate(places[0], found)
    return found


def _seen(
    model: keras.Model,
    like: Graph | None,
    whole: Mapping[str, str] | None,
) -> Graph:
    """The graph of a model, whose layers are seen through but for some."""
    graph = see_through.read(model, like)
    opened = _opened(graph)
    refused: IdentityDict[keras.Layer, str] = IdentityDict(
        (opened[p], why) for p, why in (whole or {}).items() if p in opened
    )
    fixed = _fixed(graph)
    if refused or fixed:
        every = IdentityDict([*fixed.items(), *refused.items()])
        graph = see_through.read(model, graph, every)
        graph.whole = refused
    return graph


def _fixed(graph: Graph) -> IdentityDict[keras.Layer, str]:
    """Layers that would be written out for inner gates, but can't be."""
    found: IdentityDict[keras.Layer, str] = IdentityDict()
    for call in graph.calls:
        for scope in call.scopes if _rule(call.site) is not None else ():
            opened = scope.site.opened
            if opened is not None and opened.fixed:
                found[opened.layer] = opened.fixed
    return found


def _opened(graph: Graph, path: tuple[str, ...] = ()) -> dict[str, keras.Layer]:
    """The layers that are seen through, by their paths in the model."""
    found: dict[str, keras.Layer] = {}
    for site in graph.sites:
        if site.child is not None:
            here = (*path, site.name)
            if site.opened is not None:
                found["/".join(here)] = site.opened.layer
            found.update(_opened(site.child, here))
    return found


def _rule(site: Site) -> Composite | None:
    if gr.has_own_call(site.op):
        return None
    rule = rule_of_class(type(site.op))
    return None if rule is None else rule.composite_of(site.op, site.calls)


def _written_out(made: Made, recall: Recall) -> Any:
    """What a composite layer is written out as; None for any other."""
    rule = _rule(recall.site)
    if rule is None:
        return None
    shared = [made[recall.op]] if rule.shares else []
    kwargs = _taken(rule.expand, recall.kwargs)
    try:
        outputs = rule.expand(recall.op, *recall.args, *shared, **kwargs)
    except Exception as error:
        takes = "(layer, x, made)" if rule.shares else "(layer, x)"
        raise ValueError(
            f"{_named(recall.op)} could not be written out: `expand` of its "
            f"Composite rule raised a {type(error).__name__} (above). It is "
            f"called as expand{takes}, with the other arguments of the "
            "recorded call, and must create new layers, since the old ones "
            "belong to a model."
        ) from error
    _check_outputs(recall, outputs)
    return outputs


def _taken(expand: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call that say something to its expansion.

    Keras records some that nobody gave, and whether it is trained.
    """
    known = inspect.signature(expand).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in known):
        return given
    names = {p.name for p in known}

    def says(name: str, value: Any) -> bool:
        silent = value is None or (name == "training" and value is not True)
        return name in names or not silent

    return {name: value for name, value in given.items() if says(name, value)}


def _check_outputs(recall: Recall, outputs: Any) -> None:
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
        f"{_named(recall.op)} was not written out correctly: its outputs have "
        f"the shapes {expected}, and `expand` of its Composite rule returned "
        f"{got}. It must return tensors of the same shapes."
    )


def _check_gate(site: Site, graph: Graph) -> None:
    """Refuse an expansion without the gate that the rule speaks of."""
    op, rule = site.op, _rule(site)
    spoken_of = None if rule is None else rule.gate(op)
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
        what = f"no gate of that name; its gates are: {listed(list(named))}"
    raise ValueError(
        f"{_named(op)} has factors of the kind {kind!r} and the shape "
        f"{tuple(variable.shape)}, as `gate` of its Composite rule says, but "
        f"`expand` creates {what}. Give the gate the name of the layer: "
        f"name=layer.name, here {op.name!r}."
    )


def _named(op: keras.Operation) -> str:
    return f"Layer '{op.name}' (of type {type(op).__name__})"
