"""Reads a built Keras model as a flat graph of calls."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras

from keras_gates.graphs import carried
from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.graphs.arguments import recorded
from keras_gates.graphs.calls import Call
from keras_gates.graphs.calls import Graph
from keras_gates.graphs.calls import Scope
from keras_gates.graphs.calls import Site
from keras_gates.graphs.calls import Tensor
from keras_gates.graphs.functional import functional_of
from keras_gates.graphs.functional import has_own_call
from keras_gates.graphs.functional import is_functional
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.opened import Whole

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Shape
    from keras_gates.graphs.carried import Mask
    from keras_gates.graphs.opened import SeeThrough
    from keras_gates.graphs.private import Node

# By the id of a layer, the masks that its calls find: for each call, the names
# of arguments with the numbers of the model's inputs whose masks they are.
Finds: TypeAlias = (
    "dict[int, set[tuple[tuple[str, tuple[int | None, ...]], ...]]]"
)
Originals: TypeAlias = "IdentityDict[keras.Layer, keras.Layer]"
_NOT_PLAIN = (
    "which is called on other arguments than its own inputs, so that the "
    "surgeon can't read it. Call it on tensors like its inputs, with no "
    "other arguments, or call its layers directly."
)

_FOUND = (
    "it, or a layer in it, finds a mask of time steps on its input that the "
    "model does not record"
)


def read(model: keras.Model, see_through: SeeThrough | None = None) -> Graph:
    """Return the `Graph` of a built Functional or Sequential model.

    Args:
        model: the model.
        see_through: tells what a layer is made of, which is then read like a
            nested model; by default, none is looked into.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: `model` is subclassed, or not built.
    """
    if not isinstance(model, keras.Model):
        is_file = isinstance(model, (str, os.PathLike))
        remedy = " Load the file: keras.saving.load_model(path)." * is_file
        raise TypeError(
            "`model` must be a built Keras model. Received: "
            f"{model!r} (of type {type(model).__name__}).{remedy}"
        )
    if functional_of(model) is None:
        if isinstance(model, keras.Sequential):
            raise ValueError(
                f"Model '{model.name}' is not built, so it has no graph to "
                "read. Give it a `keras.Input`, call it once on data, or "
                "call `model.build(input_shape)` first."
            )
        raise ValueError(
            f"Model '{model.name}' (of type {type(model).__name__}) is "
            "subclassed: its `call` is Python code, which has no recorded "
            "graph. Pass `keras_gates.functional(model, x)` instead: a "
            "functional model that computes the same. x is a batch of "
            "inputs, or `keras.Input`s."
        )
    unread: dict[int, str] = {}
    while True:  # each round but the last finds one more
        before = len(unread)
        graph = _sites(model, {}, unread, see_through)
        graph.unread = unread
        graph.see_through = see_through
        graph.inputs = [_tensor(kt) for kt in graph.functional.inputs]
        reading = _Reading(unread, graph.masking)
        place = _Place()
        graph.outputs = reading.expand(graph, graph.inputs, graph.calls, place)
        for tensor in graph.outputs:
            tensor.put_out = True
        if len(unread) == before and not _torn(graph):
            return graph


def _sites(
    model: keras.Model,
    memo: dict[int, Graph],
    unread: dict[int, str],
    see_through: SeeThrough | None = None,
    originals: Originals | None = None,
) -> Graph:
    """The structural graph; a model met twice is read once.

    A model is read at all of its calls or at none: `unread` gets those that
    can't be read at one of them, with the reason. So it is with a layer that
    is seen through.

    Args:
        model: the model.
        memo: by the id of a model, its graph.
        unread: as in `Graph`.
        see_through: as in `read`.
        originals: the user's layers that those in the model are
            copies of; None if it is the user's.
    """
    if id(model) in memo:
        return memo[id(model)]
    functional = functional_of(model)
    sites = []
    for node in private.nodes_of(functional):
        op = node.operation
        inner, child = time_axis.layer_of(op), None
        folds: tuple[Site, ...] = ()
        readable = is_functional(inner) and not has_own_call(inner)
        found = None
        asks = inner is op if readable else not is_functional(inner)
        if asks and see_through is not None:
            found = see_through(node, originals is not None)
            readable = readable and not isinstance(found, Whole)
        if readable and not _plain_call(node, inner):
            unread.setdefault(id(inner), _NOT_PLAIN)
        if readable and id(inner) not in unread:
            child = _sites(inner, memo, unread, see_through, originals)
        if child is not None and inner is not op:
            kinds = time_axis.FoldTime, time_axis.UnfoldTime
            folds = tuple(Site(k(op.name), node, op.name) for k in kinds)
        original = None if originals is None else originals.get(op)
        site = Site(op, node, op.name, child, folds=folds, original=original)
        if isinstance(found, Opaque):
            site.opaque = found.reason
        elif isinstance(found, Opened) and id(op) in unread:
            site.opaque = _FOUND
        elif isinstance(found, Opened):
            site.opened = found
            inside = found.originals() if originals is None else originals
            site.child = _sites(found.model, memo, unread, see_through, inside)
        sites.append(site)
    memo[id(model)] = Graph(model, functional, sites)
    return memo[id(model)]


def _torn(graph: Graph) -> bool:
    """Whether a layer is seen through at some of its calls only.

    Or may be written out at some of them only.
    """
    sites = [site for each in [graph, *graph.nested()] for site in each.sites]
    opaque = {id(site.op) for site in sites if site.opaque}
    fixed = {id(s.op) for s in sites if s.opened and s.opened.fixed}
    return any(
        id(s.op) in opaque or (id(s.op) in fixed and not s.opened.fixed)
        for s in sites
        if s.opened
    )


def _plain_call(node: Node, model: keras.Model) -> bool:
    """Whether a nested model is called on exactly its inputs, as they are.

    Keras adds or drops a last axis of 1 where a rank is off by one. In
    TimeDistributed, it is given an axis more. A mask is no input: the tensors
    that it is called on carry it inside.
    """
    functional: keras.Model = functional_of(model)
    given, inputs = carried.data(node), functional.inputs
    if node.operation is not model:
        single = len(given) == len(inputs) == len(node.outputs) == 1
        trains = node.arguments.kwargs.get("training") is True
        deeper = single and len(given[0].shape) == len(inputs[0].shape) + 1
        return deeper and not trains and len(functional.outputs) == 1
    return len(given) == len(inputs) and all(
        len(a.shape) == len(b.shape) for a, b in zip(given, inputs, strict=True)
    )


def _tensor(kt: keras.KerasTensor, producer: Call | None = None) -> Tensor:
    # A size may be a number of NumPy, which no config can hold.
    shape = tuple(None if size is None else int(size) for size in kt.shape)
    return Tensor(shape, kt.dtype, producer)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where calls are made.

    Attributes:
        scopes: the calls of models around them, the outermost first.
        times: the tensors on whose steps they are made.
        nested: whether layers may find masks that no record has: those that
            the inputs of the model carry.
    """

    scopes: tuple[Scope, ...] = ()
    times: tuple[Tensor, ...] = ()
    nested: bool = False

    def call(
        self,
        site: Site,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        found: tuple[str, ...] = (),
    ) -> Call:
        path = "/".join([*(s.site.name for s in self.scopes), site.name])
        at = self.scopes, self.times, found
        return Call(site, args, kwargs, inputs, [], path, *at)


class _Reading:
    """Writes out the calls of nested models, with the masks that they find.

    Args:
        unread: as in `Graph`; gets the models that can't be read.
        masking: as in `Graph`; gets what it says.
    """

    def __init__(self, unread: dict[int, str], masking: list[Graph]) -> None:
        self.unread = unread
        self.masking = masking
        self.carried: list[Mask] = []

    def expand(
        self,
        graph: Graph,
        bound: list[Tensor],
        calls: list[Call],
        place: _Place,
        carry: Sequence[Mask] = (),
    ) -> list[Tensor]:
        """Append the calls of `graph` on tensors `bound`.

        Args:
            graph: the `Graph` of a model.
            bound: flat tensors that it is called on.
            calls: gets the calls.
            place: where they are made.
            carry: the masks that `bound` carry, where they do.

        Returns:
            Its outputs; in `self.carried`, the masks that they carry.
        """
        tensors: dict[int, Tensor] = {}
        masks: dict[int, Mask] = {}
        for kt, tensor in zip(graph.functional.inputs, bound, strict=True):
            tensors[id(kt)] = tensor
            tensor.shape = _sharpest(tensor.shape, kt.shape)
        for kt, mask in zip(graph.functional.inputs, carry, strict=False):
            masks[id(kt)] = mask
        for site in graph.sites:
            make = self._call if site.child is None else self._nested
            made, after = make(site, tensors, masks, calls, place)
            kts = site.node.outputs
            tensors.update(zip(map(id, kts), made, strict=True))
            masks.update(zip(map(id, kts), after, strict=True))
        ends = graph.functional.outputs
        self.carried = [masks.get(id(kt)) for kt in ends]
        return [tensors[id(kt)] for kt in ends]

    def _call(
        self,
        site: Site,
        tensors: dict[int, Tensor],
        masks: dict[int, Mask],
        calls: list[Call],
        place: _Place,
    ) -> tuple[list[Tensor], list[Mask]]:
        """Append one call; return its outputs and the masks they carry."""
        node = site.node
        args, kwargs = recorded(node, tensors)
        inputs = [tensors[id(kt)] for kt in node.input_tensors]
        found = carried.found(node, masks) if place.nested else {}
        if found:
            flat = [m for m in keras.tree.flatten(found) if m is not None]
            self._note(site, place, carried.UNKNOWN in flat)
            inputs += [m for m in flat if m is not carried.UNKNOWN]
            kwargs = {**kwargs, **found}
        call = place.call(site, args, kwargs, inputs, tuple(found))
        call.outputs = [_tensor(kt, call) for kt in node.outputs]
        _add(call, calls)
        known = _known(tensors)
        return call.outputs, carried.behind(node, masks, known)

    def _note(self, site: Site, place: _Place, unknown: bool) -> None:
        """Note that a layer finds a mask; refuse the model if it can't be."""
        folded = [s for s in place.scopes if s.site.folds]
        # The innermost call that the mask can't be followed into.
        barred = place.scopes if unknown else folded
        if barred:
            model = time_axis.layer_of(barred[-1].site.op)
            self.unread.setdefault(id(model), _masked(site))
        self.masking += [s.site.child for s in place.scopes if s.site.child]

    def _nested(
        self,
        site: Site,
        tensors: dict[int, Tensor],
        masks: dict[int, Mask],
        calls: list[Call],
        place: _Place,
    ) -> tuple[list[Tensor], list[Mask]]:
        """Append the calls of a nested model, as `_call` does one."""
        assert site.child is not None
        node, known = site.node, _known(tensors)
        opened = site.opened is not None
        if opened and carried.found(node, masks):
            # Its parts are those of a call without the mask.
            self.unread.setdefault(id(site.op), _masked(site))
        read = node.input_tensors if opened else carried.data(node)
        inputs = [tensors[id(kt)] for kt in read]
        bound, times = inputs, place.times
        if site.folds:
            bound = _fold(site.folds[0], inputs, calls, place)
            times = (*times, inputs[0])
        site.child.bounds.append(bound)
        inner = Scope(site, bound)
        within = _Place((*place.scopes, inner), times, nested=True)
        before = (
            [masks.get(id(kt)) for kt in read]
            if opened
            else carried.within(node, masks, known)
        )
        shapes = [tensor.shape for tensor in bound]
        inner.outputs = outputs = self.expand(
            site.child, bound, calls, within, before
        )
        after: list[Mask] | None = self.carried
        if site.folds:
            after = None
            outputs = _fold(site.folds[1], [*outputs, *inputs], calls, place)
        for kt, tensor in zip(node.outputs, outputs, strict=True):
            tensor.shape = _sharpest(tensor.shape, kt.shape)
        if site.opened is not None and site.opened.fixed:
            # Sizes that it was traced on are not those of the graph.
            for tensor, shape in zip(bound, shapes, strict=True):
                tensor.shape = shape
            for kt, tensor in zip(node.outputs, outputs, strict=True):
                tensor.shape = tuple(kt.shape)
        return outputs, carried.behind(node, masks, known, after)


def finds(model: keras.Model, masked: bool) -> Finds:
    """The masks that the calls in a model find on their inputs.

    Args:
        model: a functional model.
        masked: whether each of its inputs carries a mask.

    Returns:
        `{id of a layer: {(name of an argument, numbers of inputs)}}`;
        another mask than those of inputs is number -1.
    """
    graph = _sites(model, {}, {})
    inputs = [_tensor(kt) for kt in graph.functional.inputs]
    masks = [Tensor(x.shape[:2], "bool") for x in inputs]
    number = {mask: n for n, mask in enumerate(masks)}
    calls: list[Call] = []
    carry = masks if masked else ()
    place = _Place(nested=True)
    _Reading({}, []).expand(graph, inputs, calls, place, carry)
    found: Finds = {}
    for call in calls:
        each = found.setdefault(id(call.op), set())
        flat = {k: keras.tree.flatten(call.kwargs[k]) for k in call.found}
        each.add(
            tuple(
                (k, tuple(m and number.get(m, -1) for m in flat[k]))
                for k in sorted(flat)
            )
        )
    return found


def _known(
    tensors: Mapping[int, Tensor],
) -> Callable[[keras.KerasTensor], Mask]:
    """From a symbolic mask to what stands for it."""
    return lambda kt: tensors.get(id(kt), carried.UNKNOWN)


def _masked(site: Site) -> str:
    return (
        f"which is called with a mask of time steps that '{site.name}' (of "
        f"type {type(site.op).__name__}) in it finds on its input; the "
        "surgeon can't determine this mask. Make the mask a separate input "
        "of the model and pass it on with mask=..., or call its layers "
        "directly."
    )


def _add(call: Call, calls: list[Call]) -> None:
    for tensor in call.inputs:
        tensor.consumers.append(call)
    call.site.calls.append(call)
    calls.append(call)


def _fold(
    site: Site, args: list[Tensor], calls: list[Call], place: _Place
) -> list[Tensor]:
    """Append the call of a fold on its first argument; return its output."""
    call = place.call(site, tuple(args), {}, [args[0]])
    spec = site.op.compute_output_spec(*args)
    call.outputs = [Tensor(tuple(spec.shape), args[0].dtype, call)]
    _add(call, calls)
    return call.outputs


def _sharpest(shape: Shape, other: Shape) -> Shape:
    """Merge two shapes of one tensor: a known size beats None."""
    return tuple(
        a if a is not None else b for a, b in zip(shape, other, strict=True)
    )
