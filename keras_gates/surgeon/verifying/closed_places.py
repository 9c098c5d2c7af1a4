"""The places where the user's own model is masked.

What is taken from where:

- Of gates, gammas and skeletons, the layer's own recorded calls and its own
  variables. Nothing that the surgeon has worked out takes part.
- Of a composite layer's gate, which output it is, or which variable holds it.
- Of channels that scores have closed, the labelling says which channels of
  which tensors they are. That is the one thing that is taken from the code
  to be verified, and it is checked: with these places masked, what the layer
  itself puts out for them must not matter any more. So there are two
  `Closing`s, one that masks the places alone and one that masks the layer as
  well, and a pruned model has to agree with both.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Hashable
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs import private
from keras_gates.graphs.variables import values_of
from keras_gates.layers import recurrence
from keras_gates.layers.gate import Gate
from keras_gates.surgeon.gates import expand
from keras_gates.surgeon.gates import groups
from keras_gates.surgeon.gates import loops
from keras_gates.surgeon.gates import see_through
from keras_gates.surgeon.gates.added_shortcuts import added
from keras_gates.surgeon.gates.find import gates_of
from keras_gates.surgeon.rules import inner_units as iu
from keras_gates.surgeon.rules import rule_of
from keras_gates.surgeon.rules.rule import along_role
from keras_gates.surgeon.verifying import masked_run
from keras_gates.surgeon.verifying.masked_run import Closing
from keras_gates.surgeon.verifying.masked_run import Mask
from keras_gates.surgeon.verifying.masked_run import StandIn

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.surgeon.gates.groups import Groups
    from keras_gates.surgeon.passes.label import Step
    from keras_gates.surgeon.rules.source import Source
    from keras_gates.surgeon.verifying.masked_run import Masks
    from keras_gates.surgeon.verifying.masked_run import Node
    from keras_gates.surgeon.verifying.masked_run import Values


def find(
    model: keras.Model,
    masks: Mapping[str, NDArray[np.bool_]],
    exact: bool = True,
    drop_shortcuts: bool = False,
    scored: Collection[str] | None = None,
    whole: Mapping[str, str] | None = None,
) -> list[Closing]:
    """The `Closing`s of a model that close what a plan closes.

    Args:
        model: the model.
        masks: `{name of a gate or group: boolean array}`.
        exact: as in `plan`.
        drop_shortcuts: as in `plan`.
        scored: the names that are those of groups; by default, all that are
            none of gates.
        whole: path of a layer that was not seen through -> why.

    Returns:
        A list: the `Closing` to compare with, and where scores have closed
        channels another one, which has to be the same function.

    Raises:
        ValueError: the rule of a layer does not say how its gate is closed.
    """
    places = _Places(model, whole)
    if drop_shortcuts:
        names = {name for name, mask in masks.items() if mask.any()}
        places.drop_shortcuts(names)
    sources = gates_of(places.graph)
    if scored is None:
        scored = [name for name in masks if name not in sources]
    by_scores: dict[str, NDArray[np.bool_]] = {}
    if scored:
        found = groups.find(places.graph, exact)
        groups.insert(places.graph, found)
        inserted = places.graph.groups
        by_scores = {n: m for n, m in masks.items() if n in inserted}
    for name, mask in masks.items():
        if name not in by_scores and mask.any():
            places.close(name, sources[name], mask)
    if not any(mask.any() for mask in by_scores.values()):
        return [places.finished()]
    places.close_groups(by_scores)
    places.close_loops(found, by_scores)
    return [places.finished(), places.with_layers(by_scores)]


class _Places:
    """A `Closing` in the making."""

    def __init__(
        self, model: keras.Model, whole: Mapping[str, str] | None
    ) -> None:
        self.model = model
        self.own = see_through.read(model)
        self.own_sources = _outside(self.own)
        self.trace = expand.Trace()
        self.graph = expand.read(model, self.trace, self.own, whole)
        self.closing = Closing()
        # Gates that a composite layer closes by a variable of its own.
        self._gates: list[tuple[Site, Mask]] = []
        self._functions: dict[Node, keras.Function] = {}
        # Site in a layer that is seen through -> the calls of that layer, or
        # of a model in it.
        self._calls_round: dict[Site, list[Site]] = {}
        self._find_calls_round(self.graph, inside=False)

    def _find_calls_round(self, graph: Graph, inside: bool) -> None:
        for outer in graph.sites:
            if outer.child is None:
                continue
            seen_through = outer.opened is not None
            within = inside or seen_through or outer.op in self.trace.models
            known = any(site in self._calls_round for site in outer.child.sites)
            for site in outer.child.sites if within else ():
                self._calls_round.setdefault(site, []).append(outer)
            if not known:
                self._find_calls_round(outer.child, within)

    def drop_shortcuts(self, closed: Collection[str]) -> None:
        """Let what adds the shortcuts of open gates pass on the gate's part."""
        for add, gate, subtract in added(self.own):
            if gate.path in closed:
                continue
            self.closing.handed_on[add.site.node] = 1
            if subtract is not None:
                self.closing.handed_on[subtract.site.node] = 0

    def close(self, name: str, source: Source, mask: NDArray[np.bool_]) -> None:
        """Close factors of a gate, of gammas or of a skeleton."""
        call = next(c for c in self.graph.calls if c.op is source.layer)
        sites = {c.site for c in self.graph.calls if c.op is source.layer}
        own = self.own_sources.get(name)
        factors = np.where(mask, 0.0, 1.0)
        if rule_of(call).closes_loop:
            if own is not None:
                value = closing_value(name, own, source.values())
                _assign(self.closing.values, own.variable, mask, value)
            self._close_in_loop(source.layer, sites, mask, own)
            return
        if rule_of(call).is_gate:
            each = Mask(factors, source.layer.axis if mask.ndim else None)
            behind = all(self.trace.origin(site, 0) for site in sites)
            if behind or own is None:
                for site in sites:
                    self._mask(site, 0, each)
                return
            self._gates += [(site, each) for site in sites]
        if own is not None:
            value = closing_value(name, own, source.values())
            _assign(self.closing.values, own.variable, mask, value)
            return
        for site in sites:
            for stand_in in self._stand_ins(site):
                _assign(stand_in.values, source.variable, mask, 0.0)

    def _close_in_loop(
        self,
        gate: keras.Layer,
        sites: set[Site],
        mask: NDArray[np.bool_],
        own: Source | None,
    ) -> None:
        """Close factors that are inside the loop of a recurrent layer.

        The user's layer has a variable for them. Of its parts it is the rows
        of the recurrent kernel, and what comes out.
        """
        inside = [] if own is not None else [*map(self._stand_ins, sites)]
        values = [each.values for some in inside for each in some]
        every = values if own is None else [self.closing.values]
        looped = {id(gate): op for op, gate in loops.gated(self.graph).items()}
        call = next(c for c in self.graph.calls if c.op is looped[id(gate)])
        for part in recurrence.cells(call.op):
            for each in every:
                _assign(each, part.recurrent_kernel, mask[:, None], 0.0)
        for site in sites:
            if site.node.arguments.kwargs.get("raw"):
                continue
            shape = site.node.outputs[0].shape
            repeats = (shape[gate.axis] or mask.size) // mask.size
            factors = np.tile(np.where(mask, 0.0, 1.0), repeats)
            if own is None:
                self._mask(site, 0, Mask(factors, gate.axis))
            else:
                self._gates.append((site, Mask(factors, gate.axis)))

    def _stand_ins(self, site: Site) -> list[StandIn]:
        """What is run in place of the layer that a site is part of."""
        if site not in self._calls_round:
            return [self._stand_in(self._part(site)[0])]
        found = []
        for outer in self._calls_round[site]:
            stand_in = StandIn(_function_of(outer), opened=outer.opened)
            for node in self._nodes(outer):
                found.append(self.closing.inside.setdefault(node, stand_in))
        return found

    def _nodes(self, outer: Site) -> list[Node]:
        """The recorded calls that are run for a layer with parts."""
        if outer in self._calls_round:
            self._stand_ins(outer)
            return [outer.node]
        origin = self.trace.origin(outer, 0)
        if origin is not None:
            return [origin.node]
        composite, calls = self._part(outer)
        self._stand_in(composite)
        return calls

    def _mask(self, site: Site, number: int, mask: Mask) -> None:
        """Mask an output, of the user's layer or of a part of it."""
        if site in self._calls_round:
            for stand_in in self._stand_ins(site):
                masked_run.add(stand_in.masks, site.node, number, mask)
            return
        origin = self.trace.origin(site, number)
        if origin is not None:
            masked_run.add(self.closing.masks, *origin, mask)
            return
        composite, calls = self._part(site)
        stand_in = self._stand_in(composite)
        for node in calls:
            masked_run.add(stand_in.masks, node, number, mask)

    def _part(self, site: Site) -> tuple[Node, list[Node]]:
        """The recorded call of a composite, and those of a part of it."""
        nodes = {
            composite: gr.nodes_of(self._function(composite))
            for composite in self.trace.parts
        }
        for composite, every in nodes.items():
            if site.node in every:
                return composite, [site.node]
        for composite, every in nodes.items():
            # A Sequential is called once more for its own record.
            calls = [node for node in every if node.operation is site.op]
            if calls:
                return composite, calls
        raise ValueError(
            f"`verify` can't locate '{site.name}' in '{self.model.name}'. "
            "Give its layers unique names."
        )

    def _stand_in(self, composite: Node) -> StandIn:
        function = self._function(composite)
        return self.closing.inside.setdefault(composite, StandIn(function))

    def _function(self, composite: Node) -> keras.Function:
        """The parts of a composite, to be run by themselves."""
        if composite not in self._functions:
            ends = self.trace.parts[composite]
            self._functions[composite] = keras.Function(*ends)
        return self._functions[composite]

    def finished(self) -> Closing:
        """The `Closing`.

        A composite layer that is run by its parts has its own gate closed in
        them, too.
        """
        for site, mask in self._gates if self.closing.inside else ():
            composite, calls = self._part(site)
            stand_in = self.closing.inside.get(composite)
            if stand_in is not None:
                for node in calls:
                    masked_run.add(stand_in.gates, node, 0, mask)
                    masked_run.add(stand_in.masks, node, 0, mask)
        return self.closing

    def close_groups(self, masks: dict[str, NDArray[np.bool_]]) -> None:
        """Mask the channels that scores have closed, where they are read."""
        closed = groups.masks(self.graph, masks)
        graphs = [self.graph, *self.graph.nested()]
        for site in [site for each in graphs for site in each.sites]:
            for number, virtual in site.behind.items():
                mask = closed[virtual.op]
                if mask.any():
                    factors = np.where(mask, 0.0, 1.0)
                    each = Mask(factors, virtual.op.axis)
                    self._mask(site, number, each)

    def close_loops(
        self, found: Groups, masks: dict[str, NDArray[np.bool_]]
    ) -> None:
        """Close units inside layers, by zeros in the layers' own weights.

        A unit that is zero inside a loop is one that no unit reads: its rows
        of the recurrent kernel are zero. A head of attention has rows in the
        kernel of the output.
        """
        labelling = found.labelling
        shut = np.zeros(len(labelling.classes), bool)
        for name, mask in masks.items():
            shut[found.groups[name].units[mask]] = True
        # Each call of a layer: those of a layer around it have parts each.
        for step in labelling.steps:
            if step.is_selection:
                continue
            for each in step.rule.inner_units(step.call):
                for weight, role in each.zeroed:
                    own = shut[labelling.classes[step.flow.roles[each.role]]]
                    rows = iu.along(step.flow.roles, each.role, own, role)
                    if rows.any():
                        self._close_inside(step, weight, role, rows)

    def _close_inside(
        self, step: Step, name: str, role: str, closed: NDArray[np.bool_]
    ) -> None:
        """Close a weight of a layer where a role of its axes is closed."""
        layer, places = self._own_layer(step)
        roles = step.rule.axes_of(step.call)[name]
        for part in step.rule.parts(layer):
            weight = getattr(part, name)
            mask = along_role(closed, role, roles, len(weight.shape))
            for values in places:
                # Rows that a gate inside a loop has closed stay closed.
                known = {**self.closing.values, **values}
                _assign(known, weight, mask, 0.0)
                values[id(weight)] = known[id(weight)]

    def _own_layer(self, step: Step) -> tuple[keras.Layer, list[Values]]:
        """The user's layer, or a part of it, and where its values go."""
        inside = step.site in self._calls_round
        origin = None if inside else self.trace.origin(step.site, 0)
        if origin is None or origin[0] in self.trace.parts:
            stand_ins = self._stand_ins(step.site)
            return step.call.op, [each.values for each in stand_ins]
        return origin[0].operation, [self.closing.values]

    def with_layers(self, masks: dict[str, NDArray[np.bool_]]) -> Closing:
        """A second `Closing`: what the layers put out is masked, too."""
        second = self.closing.copy()
        senses: dict[str, Hashable] = {}
        for call in self.graph.calls:
            name = groups.channels_of(call.path, self.graph.groups)
            mask = masks.get(name)
            if mask is None or not isinstance(call.op, keras.Layer):
                continue
            sense = rule_of(call).sense(call)
            if senses.setdefault(call.path, sense) != sense:
                continue  # it puts out something else than channels of its own
            shape = call.outputs[0].shape
            axis = rule_of(call).channels(call, "out", len(shape))
            at = self.graph.groups[name].channels[mask]
            width = shape[axis] or 0
            if at.max(initial=0) >= width:
                continue
            factors = np.ones(width)
            factors[at] = 0.0
            for masks_at, node, number in self._outputs(call.site, second):
                masked_run.add(masks_at, node, number, Mask(factors, axis))
        return second

    def _outputs(
        self, site: Site, closing: Closing
    ) -> list[tuple[Masks, Node, int]]:
        """Where the first output of a site is masked in a `Closing`."""
        if site not in self._calls_round:
            origin = self.trace.origin(site, 0)
            return [] if origin is None else [(closing.masks, *origin)]
        self._stand_ins(site)
        return [
            (stand_in.masks, site.node, 0)
            for node, stand_in in closing.inside.items()
            if stand_in.function in self._models_round(site)
        ]

    def _models_round(self, site: Site) -> list[keras.Model]:
        """The models of the layers that a site is part of."""
        return [_function_of(outer) for outer in self._calls_round[site]]


def _function_of(outer: Site) -> keras.Model:
    """What computes what a layer with parts does, as one function."""
    if outer.child is None or outer.folds:
        raise ValueError(
            f"`verify` can't run '{outer.name}' (of type "
            f"{type(outer.op).__name__}) by its parts inside a layer without "
            "a rule. Call the wrapped layer directly, or give the outer "
            "layer a rule (keras_gates.surgeon.register)."
        )
    return outer.child.functional


def _outside(graph: Graph) -> dict[str, Source]:
    """The gates of a graph that are in no layer that is seen through."""
    inside = {
        call.path
        for call in graph.calls
        if any(scope.site.opened is not None for scope in call.scopes)
    }
    found = gates_of(graph).items()
    return {name: source for name, source in found if name not in inside}


def _assign(
    into: Values,
    variable: keras.Variable,
    mask: NDArray[np.bool_],
    value: float,
) -> None:
    """Note other values of a variable, on top of those that are noted."""
    _, before = into.get(id(variable), (None, values_of(variable)))
    into[id(variable)] = (variable, np.where(mask, value, before))


def closing_value(name: str, source: Source, factors: NDArray[Any]) -> float:
    """The value of a source's variable at which its factor is zero.

    Args:
        name: the name of the gate.
        source: the `Source` of a user's layer own model.
        factors: the factors that thresholds see.

    Raises:
        ValueError: nothing says what it is.
    """
    variable, layer = source.variable, source.layer
    if source.closed is not None and variable.shape == factors.shape:
        return source.closed
    gates = [x for x in private.sublayers(layer) if isinstance(x, Gate)]
    if any(gate.factor is variable for gate in gates):
        return 0.0
    values = values_of(variable)
    if values.shape == factors.shape and np.allclose(values, factors):
        return 0.0
    raise ValueError(
        f"Layer '{name}' (of type {type(layer).__name__}) has a gate whose "
        f"factors are not the values of '{variable.path}', the variable that "
        "its rule names, so the value for a factor of zero is unknown. "
        f"Received: factors of the shape {factors.shape} from values of the "
        f"shape {values.shape}. Expected: the same, or a rule that gives it: "
        "Composite(gate=lambda layer: (kind, variable, value)), with the "
        "value of the variable at which the factor is zero."
    )
