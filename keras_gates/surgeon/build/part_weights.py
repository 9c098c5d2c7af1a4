"""Maps the parts of a layer, at their final sizes, to its own weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr
from keras_gates.graphs.attribute_paths import Path
from keras_gates.graphs.attribute_paths import parts_of
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.variables import values_of
from keras_gates.surgeon.build.weights import cut
from keras_gates.surgeon.build.weights import kept_positions

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Opened
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.opened import Place
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.label import Step

    Operations = IdentityDict[keras.Operation, keras.Operation]


class NoPlace(Exception):
    """The layer has no place for what its smaller parts hold."""


class Rest(NamedTuple):
    """What is left of a weight of which the parts hold but some numbers.

    Attributes:
        variable: the weight as it was.
        positions: for each of its axes, the positions that are left.
        held: where among the numbers that are left those are that the parts
            hold, counted flat; an array of integers.
    """

    variable: keras.Variable
    positions: tuple[NDArray[np.intp], ...]
    held: NDArray[np.intp]


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """What a weight of a smaller layer is to be.

    Attributes:
        shape: its shape.
        variable: the one that holds its values; in another shape if it is
            that of a bare weight.
        fixed: whether the variable stays as it is, since what the parts hold
            was computed of it.
        rest: where the values come from that `variable` does not hold.
    """

    shape: tuple[int, ...]
    variable: keras.Variable
    fixed: bool = False
    rest: Rest | None = None

    def values(self) -> NDArray[np.generic]:
        """Its values."""
        values = values_of(self.variable)
        if self.rest is None:
            return values.reshape(self.shape)
        whole = values_of(self.rest.variable)[np.ix_(*self.rest.positions)]
        whole = np.array(whole).reshape(-1)
        whole[self.rest.held] = values.reshape(-1)
        return whole.reshape(self.shape)

    def settle(self) -> None:
        """Let `variable` hold each number of the weight once, or alike."""
        if self.rest is not None:
            held = self.values().reshape(-1)[self.rest.held]
            self.variable.assign(held.reshape(self.variable.shape))


class PartWeights:
    """Finds where the weights of smaller parts belong in their layer.

    Args:
        decision: the `Decision`.
        steps: by layer, one of its steps that are still there.
        operations: old layer or operation -> the new one, for what is not
            there as its parts.
    """

    def __init__(
        self,
        decision: Decision,
        steps: IdentityDict[keras.Operation, Step],
        operations: Operations,
    ) -> None:
        self.decision = decision
        self.steps = steps
        self.operations = operations

    def of_ways(
        self, ways: Iterable[tuple[Opened, Graph]]
    ) -> dict[Path, Wanted]:
        """As `of`, for a layer that is called in several ways.

        Args:
            ways: for each, what the layer is made of, and the graph of that.
        """
        found: dict[Path, Wanted] = {}
        for opened, child in ways:
            for path, wanted in self.of(opened, child).items():
                before = found.get(path)
                if before is None or (before.fixed and not wanted.fixed):
                    found[path] = wanted
                elif not (wanted.fixed or before.variable is wanted.variable):
                    name = "/".join(map(str, path))
                    raise NoPlace(f"its `{name}` becomes two different ones")
        return found

    def of(self, opened: Opened, child: Graph) -> dict[Path, Wanted]:
        """By the path in the layer, what each weight is to be.

        Args:
            opened: what the layer is made of.
            child: the graph of that, whose smaller model is made.

        Raises:
            NoPlace: no layer of the class holds these weights.
        """
        twin = parts_of(opened.twin)
        where = twin.variable_paths()
        paths = twin.layer_paths()
        found: dict[Path, Wanted] = {}
        held: set[int] = set()
        sites = [*_sites(child, self.operations)]
        inner = [x.opened for x in sites if _is_open(x, self.operations)]
        bare = [pair for each in (opened, *inner) if each for pair in each.bare]
        places = {id(place.layer) for _, place in bare}
        for op in (s.op for s in sites if not _is_open(s, self.operations)):
            if id(op) not in places:
                found.update(self._held(op, paths, where))
                held.update(map(id, gr.own_weights(op)))
        for variable, place in bare:
            self._note_bare(found, where, variable, place)
            held.add(id(variable))
        for path, variable in twin.variables.items():
            if id(variable) not in held:  # nothing reads it
                found[path] = Wanted(tuple(variable.shape), variable, True)
        return found

    def of_model(self, graph: Graph) -> dict[Path, Wanted]:
        """The same, for a functional model of a user's class.

        Args:
            graph: its graph, whose smaller model is made.
        """
        parts = parts_of(graph.model)
        where = parts.variable_paths()
        paths = parts.layer_paths()
        found: dict[Path, Wanted] = {}
        held: set[int] = set()
        for site in _layers(graph, self.operations):
            held.update(map(id, gr.own_weights(site.op)))
            if not _is_open(site, self.operations):
                found.update(self._held(site.op, paths, where))
            elif site.opened is not None and site.child is not None:
                own = parts_of(site.opened.layer).variables
                for path, wanted in self.of(site.opened, site.child).items():
                    if path not in own or own[path] not in where:
                        raise NoPlace(f"'{site.name}' in it gets a new weight")
                    found[where[own[path]]] = wanted
        for path, variable in parts.variables.items():
            if id(variable) not in held:  # nothing reads it
                found[path] = Wanted(tuple(variable.shape), variable, True)
        return found

    def _held(
        self,
        old: keras.Operation,
        paths: IdentityDict[keras.Layer, Path],
        where: IdentityDict[keras.Variable, Path],
    ) -> dict[Path, Wanted]:
        """The weights of a layer inside, in its new form.

        Args:
            old: the layer.
            paths: those of all layers inside.
            where: the paths of all variables.
        """
        if not isinstance(old, keras.Layer) or not old.weights:
            return {}
        if old not in paths:
            raise NoPlace(
                f"'{old.name}' in it is not held by any of its attributes"
            )
        new = self.operations.get(old)
        if new is None:
            step = self.steps.get(old)
            if step is not None and step.is_gate:
                return {}
            raise NoPlace(f"'{old.name}' in it would be removed as a whole")
        if type(new) is not type(old):
            raise NoPlace(
                f"'{old.name}' in it becomes a layer of another class"
            )
        before = parts_of(old).variables
        found: dict[Path, Wanted] = {}
        for rest, variable in parts_of(new).variables.items():
            path = (*paths[old], *rest)
            if rest in before:
                path = where.get(before[rest], path)
            found[path] = Wanted(tuple(variable.shape), variable)
        return found

    def _note_bare(
        self,
        found: dict[Path, Wanted],
        where: IdentityDict[keras.Variable, Path],
        variable: keras.Variable,
        place: Place,
    ) -> None:
        """Add what becomes of a variable that operations use."""
        path = where.get(variable)
        if path is None:
            raise NoPlace(
                f"its variable '{variable.name}' can't be found in it"
            )
        wanted = self._bare(variable, place)
        before = found.setdefault(path, wanted)
        same = before.shape == wanted.shape and np.array_equal(
            before.values(), wanted.values()
        )
        if not same:
            raise NoPlace(
                f"its variable '{variable.name}' becomes two different ones"
            )

    def _bare(self, variable: keras.Variable, place: Place) -> Wanted:
        old = getattr(place.layer, place.name)
        new_layer = self.operations.get(place.layer)
        if new_layer is None:
            raise NoPlace(
                f"its variable '{variable.name}' would be removed as a whole"
            )
        new = getattr(new_layer, place.name, None)
        if new is None:
            raise NoPlace(f"its variable '{variable.name}' is not needed")
        shape = tuple(variable.shape)
        if place.derived:
            if tuple(new.shape) == tuple(old.shape) and np.array_equal(
                values_of(new), values_of(old)
            ):
                return Wanted(shape, variable, True)
            if place.part is not None:
                return self._some(variable, place, new)
            raise NoPlace(
                "it computes with values other than those of its variable "
                f"'{variable.name}'"
            )
        kept = self._positions(place)
        wanted = shape if kept.size == math.prod(shape) else _box(kept, shape)
        if wanted is None or math.prod(wanted) != math.prod(new.shape):
            raise NoPlace(
                f"the rest of its variable '{variable.name}' is not an array"
            )
        return Wanted(wanted, new)

    def _some(
        self, variable: keras.Variable, place: Place, new: keras.Variable
    ) -> Wanted:
        """The same, for a weight of which the parts hold but some numbers.

        What has gone there goes from all of it: a channel from the positions
        of a table that are not looked up as well.
        """
        assert place.part is not None
        shape = tuple(variable.shape)
        kept = place.part[self._positions(place).reshape(-1)]
        pairs = zip(
            np.unravel_index(place.part, shape),
            np.unravel_index(kept, shape),
            strict=True,
        )
        index = tuple(
            np.setdiff1d(np.arange(size), np.setdiff1d(before, after))
            for size, (before, after) in zip(shape, pairs, strict=True)
        )
        left = np.ravel_multi_index(np.ix_(*index), shape).reshape(-1)
        read = np.intersect1d(left, place.part)
        if not np.array_equal(read, np.unique(kept)):
            raise NoPlace(
                f"the rest of its variable '{variable.name}' is not an array"
            )
        sizes = tuple(map(len, index))
        held = np.searchsorted(left, kept)
        wanted = Wanted(sizes, new, rest=Rest(variable, index, held))
        found = wanted.values().reshape(-1)[held]
        if not np.array_equal(found, values_of(new).reshape(-1)):
            raise NoPlace(
                f"what it looks up in its variable '{variable.name}' would "
                "differ between places"
            )
        return wanted

    def _positions(self, place: Place) -> NDArray[np.intp]:
        """Where what is left of a variable was in it, counted flat."""
        old = tuple(getattr(place.layer, place.name).shape)
        every = np.arange(math.prod(old)).reshape(old)
        step = self.steps.get(place.layer)
        if step is None:
            return every
        roles = step.rule.axes_of(step.call).get(place.name, ())
        index = kept_positions(self.decision, step)
        return cut(every, roles, index, step.flow.roles)


def _sites(graph: Graph, operations: Operations) -> Iterator[Site]:
    """The calls in a layer, those in layers and models inside included."""
    for site in graph.sites:
        if site.child is None or site.opened is not None:
            yield site
        if site.child is not None and site.op not in operations:
            yield from _sites(site.child, operations)


def _layers(graph: Graph, operations: Operations) -> Iterator[Site]:
    """The calls in a model, those in models inside included."""
    for site in graph.sites:
        kept = site.opened is not None or site.op in operations
        if site.child is None or kept:
            yield site
        else:
            yield from _layers(site.child, operations)


def _is_open(site: Site, operations: Operations) -> bool:
    """Whether a layer is there as its parts, and in no layer of its class."""
    return site.opened is not None and site.op not in operations


def _box(
    kept: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The shape of what is left of an array; None if it is not an array.

    Args:
        kept: its positions in the array, counted flat.
        shape: the shape of the array.
    """
    axes = np.unravel_index(kept.ravel(), shape)
    along = [np.unique(axis) for axis in axes]
    grid = np.ravel_multi_index(np.ix_(*along), shape) if along else kept
    if not np.array_equal(grid.ravel(), kept.ravel()):
        return None
    return tuple(len(axis) for axis in along)
