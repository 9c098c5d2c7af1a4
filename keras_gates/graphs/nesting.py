"""Which models of a graph are nested in which, and which can be dissolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import carried
from keras_gates.graphs import private
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.names import Names
from keras_gates.graphs.names import without_count

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.calls import Site
    from keras_gates.graphs.private import Node


@dataclasses.dataclass(frozen=True, eq=False)
class Inlining:
    """Nested models whose calls are made in the model around them.

    Attributes:
        graphs: those of the models.
        names: the new names of the operations in them.
        parts: for the graph of a model that gets such calls, by the new name
            of each operation, its old one, after those of the nested models
            that it was in.
    """

    graphs: frozenset[Graph] = frozenset()
    names: IdentityDict[keras.Operation, str] = dataclasses.field(
        default_factory=IdentityDict
    )
    parts: Mapping[Graph, dict[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=dict
    )


class Nesting:
    """Which models of a graph are nested in which.

    Args:
        graph: the `Graph` of the outermost model.
    """

    def __init__(self, graph: Graph) -> None:
        self._graphs = [graph, *graph.nested()]
        self._around: dict[Graph, list[tuple[Graph, Site]]] = {}
        for each in self._graphs:
            for site in each.sites:
                if site.child is not None:
                    around = self._around.setdefault(site.child, [])
                    around.append((each, site))
        self._depths = dict.fromkeys(self._graphs, 0)
        for _ in self._graphs:
            before = dict(self._depths)
            for inner, around in self._around.items():
                deepest = max(self._depths[outer] for outer, _ in around)
                self._depths[inner] = deepest + 1
            if self._depths == before:
                break

    def dissolved(self, home: Collection[Graph]) -> set[Graph]:
        """The models to dissolve for some to become one."""
        left = set(home)
        found: set[Graph] = set()
        while len(left) > 1:
            inner = max(left, key=self._depths.__getitem__)
            found.add(inner)
            left.remove(inner)
            left |= {outer for outer, _ in self._around[inner]}
        return found

    def why_not(self, graphs: Collection[Graph]) -> str:
        """Why one of some models can't be dissolved; "" if all can."""
        for inner in self._graphs:
            for _, site in self._around[inner] if inner in graphs else ():
                if site.folds:
                    return f"'{site.name}' calls its model step by step"
                if site.opened is None and not _carries_its_mask(site.node):
                    return (
                        f"'{site.name}' is called with a mask that its input "
                        "does not carry"
                    )
                deaf = _deaf(inner) if _is_told(site) else None
                if deaf is not None:
                    return (
                        f"'{site.name}' is called with `training`, which "
                        f"'{deaf.name}' in it does not take"
                    )
        return ""

    def inlining(
        self, graphs: Collection[Graph], before: Collection[str]
    ) -> Inlining:
        """What becomes of the operations of models that are dissolved."""
        paths: dict[Graph, tuple[str, ...]] = {}
        homes: dict[Graph, Graph] = {}
        for inner in sorted(graphs, key=self._depths.__getitem__):
            outer, site = self._around[inner][0]
            paths[inner] = (*paths.get(outer, ()), site.name)
            homes[inner] = homes.get(outer, outer)
        names, stay = Names(), [g for g in self._graphs if g not in paths]
        for each in stay:
            names.update(kt.name for kt in each.functional.inputs)
            names.update(site.name for site in each.sites)
        own = IdentityDict((s.op, None) for g in stay for s in g.sites)
        new: IdentityDict[keras.Operation, str] = IdentityDict()
        parts: dict[Graph, dict[str, tuple[str, ...]]] = {}
        for op, inside in self._moved(graphs).items():
            if op in own:
                continue
            added = op.name not in before
            name = without_count(op.name) if added else op.name
            if len(inside) == 1:
                name = "_".join((*paths[inside[0]], name))
            new[op] = names.free(name)
            path = (*paths[inside[0]], op.name)
            parts.setdefault(homes[inside[0]], {})[new[op]] = path
        return Inlining(frozenset(paths), new, parts)

    def _moved(
        self, graphs: Collection[Graph]
    ) -> IdentityDict[keras.Operation, list[Graph]]:
        """Each operation in some models, and those of them that it is in."""
        found: IdentityDict[keras.Operation, list[Graph]] = IdentityDict()
        for inner in self._graphs:
            for site in inner.sites if inner in graphs else ():
                inside = found.setdefault(site.op, [])
                if site.child in graphs:
                    del found[site.op]
                elif inner not in inside:
                    inside.append(inner)
        return found


def _is_told(site: Site) -> bool:
    """Whether a nested model is called with `training`."""
    told = site.node.arguments.kwargs.get("training") is not None
    return told and site.opened is None


def _carries_its_mask(node: Node) -> bool:
    """Whether a nested model is called with no mask but that of its input."""
    given = keras.tree.flatten(node.arguments.kwargs.get("mask"))
    own = [private.mask_of(kt) for kt in carried.data(node)]
    return all(
        mask is None or _is_same(mask, other)
        for mask, other in zip(given, own, strict=False)
    )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two symbolic tensors are equal, by how they were made.

    Each time that a layer makes a mask, Keras records other operations.
    """
    if one is other or type(one) is not type(other):
        return one is other
    if not isinstance(one, keras.KerasTensor):
        return isinstance(one, (bool, int, float, str)) and one == other
    made = [private.origin_of(x) for x in (one, other)]
    ops = [op for op, _, _ in made]
    alike = type(ops[0]) is type(ops[1]) and not isinstance(ops[0], keras.Layer)
    if made[0][2] != made[1][2] or not (alike or ops[0] is ops[1]):
        return False
    if alike and any(vars(op).keys() - private.operation_names() for op in ops):
        return False
    nodes = [private.calls_of(op)[number] for op, number, _ in made]
    args = [
        keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        for node in nodes
    ]
    return len(args[0]) == len(args[1]) and all(
        _is_same(a, b) for a, b in zip(*args, strict=True)
    )


def _deaf(graph: Graph) -> keras.Layer | None:
    """A layer that can't be told of training, though layers in it may ask."""
    for each in [graph, *graph.nested()]:
        for site in each.sites:
            whole = site.child is None or site.opened is not None
            asks = whole and private.has_sublayers(site.op)
            if asks and not private.takes_training(site.op):
                return site.op
    return None
