"""How layers that were seen through are rebuilt in the smaller model.

In this order: the same class with a smaller config; written out as a model of
its parts; kept whole, for which the model is solved again. The outermost layer
whose class can be kept is kept, with everything inside it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_gates.graphs import classes
from keras_gates.graphs import origins
from keras_gates.graphs.trace import told
from keras_gates.surgeon.build import original_class
from keras_gates.surgeon.build.kept_class import edited
from keras_gates.surgeon.build.part_weights import NoPlace
from keras_gates.surgeon.build.rebuild import Builder
from keras_gates.surgeon.build.smaller import NotKept
from keras_gates.surgeon.solving.returns import How
from keras_gates.surgeon.solving.returns import Return

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.origins import Origin
    from keras_gates.surgeon.build.kept_class import Found
    from keras_gates.surgeon.build.smaller import Smaller
    from keras_gates.surgeon.solving.solve import Solution


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the layers that were seen through are rebuilt.

    Attributes:
        returns: those in which something changes, the outermost first.
        whole: path of a layer that can't come back -> why.
    """

    returns: tuple[Return, ...]
    whole: dict[str, str]


def find(
    solution: Solution, written_out: bool | None, found: Found | None = None
) -> Outcome:
    """How the layers of a solution are rebuilt.

    Args:
        solution: the `Solution`.
        written_out: as in `plan`.
        found: the configs that were found for other solutions of the model;
            those that are found now are added.
    """
    search = _Search(solution, written_out, {} if found is None else found)
    search.graph(solution.graph, solution.graph.inputs, ())
    return Outcome(tuple(search.returns), search.whole)


class _Search:
    """Finds a replacement for each layer that was seen through.

    Args:
        solution: the `Solution`.
        written_out: as in `plan`.
        found: as in `find`.
    """

    def __init__(
        self, solution: Solution, written_out: bool | None, found: Found
    ) -> None:
        self.solution = solution
        self.written_out = written_out
        self.found = found
        self.returns: list[Return] = []
        self.whole: dict[str, str] = {}
        self._seen: set[int] = set()

    @functools.cached_property
    def builder(self) -> Builder:
        """Writes out all layers, for a trial."""
        return self._builder()

    def _builder(self, inside: Sequence[Return] = ()) -> Builder:
        solution = self.solution
        return Builder(
            solution.decision,
            solution.folds,
            solution.graph.masking,
            inside,
            trial=True,
            found=self.found,
        )

    def graph(
        self, graph: Graph, bound: list[Tensor], path: tuple[str, ...]
    ) -> None:
        """Look at a model and the layers in it, the outermost first.

        Args:
            graph: the graph of the model.
            bound: what its inputs are.
            path: of the model, or of the layer that it is the parts of.
        """
        model, name = graph.model, "/".join(path) or graph.model.name
        again = self.written_out is not True and classes.is_made_otherwise(
            model
        )
        why, start = "", len(self.returns)
        try:
            if again:
                self.returns.append(self._kept_model(graph, bound, name))
                return
        except (NoPlace, NotKept) as error:
            why = str(error)
        self._inside(graph, path)
        origin = origins.origin_of(model)
        if origin is not None and self.written_out is not True:
            self._return_to(origin, graph, bound, name)
        if not again:
            return
        # Once more, with layers that keep their classes: their parts may hold
        # for single sizes only.
        inside = self.returns[start:]
        kept = [each for each in inside if each.how is How.CLASS]
        try:
            if not kept or self.whole:
                raise NotKept(why)
            made = self._kept_model(graph, bound, name, kept)
        except (NoPlace, NotKept) as error:
            made = Return(model, name, How.WRITTEN_OUT, {}, str(error))
        self.returns.insert(start, made)

    def _inside(self, graph: Graph, path: tuple[str, ...]) -> None:
        """Look at the layers in a model."""
        for site in graph.sites:
            if site.child is None or id(site.op) in self._seen:
                continue
            self._seen.add(id(site.op))
            here = (*path, site.name)
            if site.opened is None or self._is_open(site, here):
                self.graph(site.child, site.child.bounds[0], here)

    def _kept_model(
        self,
        graph: Graph,
        bound: list[Tensor],
        name: str,
        inside: Sequence[Return] = (),
    ) -> Return:
        """How a class whose constructor makes its layers is kept.

        Args:
            graph: the graph of the model.
            bound: what its inputs are.
            name: the model's path.
            inside: the layers in it that keep their classes; by default, all
                are written out for the trial.

        Raises:
            NoPlace, NotKept: it can't be kept.
        """
        builder = self._builder(inside)
        try:
            new = builder.model(graph, bound)
        except Exception as error:  # parts that are for single sizes
            raise NotKept(f"its parts can't be tried: {error}") from error
        smaller = builder.smaller_model(graph, new)
        edits = builder.classes.edits(smaller)
        changes = edited(graph.model, edits)
        return Return(graph.model, name, How.CLASS, changes)

    def _return_to(
        self, origin: Origin, graph: Graph, bound: list[Tensor], name: str
    ) -> None:
        """Look whether a model can be of the class that it was of.

        The layers in it that keep their class do so for the trial, too.
        """
        model, cls = graph.model, origin.cls
        try:
            new = self._builder(self.returns).model(graph, bound)
            edits = original_class.edits(origin, new)
        except Exception as error:
            why = str(error) if isinstance(error, NotKept) else told(error)
            self.returns.append(
                Return(model, name, How.WRITTEN_OUT, {}, why, cls)
            )
            return
        changed = original_class.changed(origin, edits)
        self.returns.append(Return(model, name, How.CLASS, changed, "", cls))

    def _is_open(self, site: Site, path: tuple[str, ...]) -> bool:
        """Whether what is inside a layer is to be looked at by itself."""
        builder, name = self.builder, "/".join(path)
        assert site.child is not None and site.opened is not None
        ways = builder.ways(site)
        called = any(each in builder.called for each in ways)
        if not called or not builder.changed(site):
            return False
        layer, why = site.opened.layer, ""
        fixed = site.opened.fixed
        barred = bool(fixed) or self.written_out is False
        if self.written_out is not True:
            try:
                smaller, *others = [_tried(builder, each) for each in ways]
                edits = builder.classes.edits(smaller, recorded=barred)
                for other in others:
                    builder.classes.check(other, edits, recorded=barred)
            except (NoPlace, NotKept) as error:
                why = str(error)
            else:
                changes = edited(layer, edits)
                self.returns.append(Return(layer, name, How.CLASS, changes))
                return False
        if barred:
            self.whole[name] = _whole(fixed, why)
            return False
        self.returns.append(Return(layer, name, How.WRITTEN_OUT, {}, why))
        return True


def _tried(builder: Builder, site: Site) -> Smaller:
    """What a layer is to be, of parts that are put together for a trial.

    Raises:
        NoPlace: a weight of it is in no part.
        NotKept: its parts can't be put together, since what they are made
            of is for single sizes.
    """
    try:
        return builder.smaller(site)
    except (NoPlace, NotKept):
        raise
    except Exception as error:
        raise NotKept(f"its parts can't be tried: {told(error)}") from error


def _whole(fixed: str, why: str) -> str:
    """Why a layer can't be rebuilt: a clause."""
    out = f"written out ({fixed or 'written_out=False'})"
    if not why:
        return f"it can't be {out}"
    return f"it can neither be {out} nor keep its class ({why})"
