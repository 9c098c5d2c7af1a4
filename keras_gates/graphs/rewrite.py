"""Rebuilds a model call by call, with some calls changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias

import keras
from numpy.typing import NDArray

from keras_gates.graphs import carried
from keras_gates.graphs import classes
from keras_gates.graphs import create
from keras_gates.graphs import origins
from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.graphs.arguments import recorded
from keras_gates.graphs.copies import Copies
from keras_gates.graphs.functional import has_own_call
from keras_gates.graphs.functional import input_layer
from keras_gates.graphs.functional import structures
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.nesting import Inlining
from keras_gates.graphs.opened import flat_tensors
from keras_gates.graphs.opened import unpacked
from keras_gates.graphs.reading import read
from keras_gates.graphs.variables import copy_state
from keras_gates.graphs.variables import values_of

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph
    from keras_gates.graphs.calls import Site

# Returns the outputs of a call in the new model; None for the call as it was.
Edit: TypeAlias = "Callable[[Recall], Any]"
Note: TypeAlias = "Callable[[Site, list[keras.KerasTensor]], None]"
# From a new input and the old one to what the calls are to read.
EditInput: TypeAlias = (
    "Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]"
)


@dataclasses.dataclass(eq=False)
class Recall:
    """One recorded call, about to be made in the new model.

    Calling it makes the call: on the arguments as they were, carried over,
    or on others.

    Attributes:
        site: the `Site` of the old model that is being carried over.
        args: its positional arguments, with tensors of the new model.
        kwargs: its keyword arguments, likewise.
    """

    site: Site
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    _rewriter: _Rewriter
    _tensors: dict[int, Any]
    _plain: Any = None
    _touched: bool = False

    @property
    def op(self) -> keras.Operation:
        """The old layer or operation. Don't call it: it has a model."""
        return self.site.op

    def copy(self) -> keras.Operation:
        """The new layer, with the weights of the old; always the same.

        Whoever asks for it is taken to change it.
        """
        self._touched = True
        return self._rewriter.copy(self.site)

    def tensor(self, old: keras.KerasTensor) -> keras.KerasTensor:
        """The new tensor for a KerasTensor of the same old model.

        Only what comes before this call is there.
        """
        return self._tensors[id(old)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call; on its own arguments if none are given."""
        if args or kwargs:
            return self._rewriter.call(self.site, args, kwargs)
        self._plain = self._rewriter.call(self.site, self.args, self.kwargs)
        return self._plain

    def changed(self, outputs: Any) -> bool:
        """Whether an edit that returned this has changed anything."""
        same = outputs is None or outputs is self._plain
        return self._touched or not same


def new_copies() -> Copies:
    """`Copies` for one new model."""
    return Copies(_twin_model)


def _twin_model(model: keras.Model) -> keras.Model:
    """A functional model that a layer holds, made again by itself."""
    return rewrite(read(model))


def rewrite(
    graph: Graph,
    edit: Edit | None = None,
    edit_input: EditInput | None = None,
    name: str | None = None,
    stock: bool = False,
    note: Note | None = None,
    parts: bool = False,
    inlining: Inlining | None = None,
) -> keras.Model:
    """A new model of a graph, with copies of its layers and weights.

    The old model stays as it is. Nested models are rebuilt as nested
    models, each once, a Sequential as a Sequential if it is still a chain of
    layers.

    Args:
        graph: the `Graph` of a model, as `graph.read` returns it.
        edit: called for each recorded call of a layer or operation, in order,
            those of nested models included, with a `Recall`. It returns the
            outputs of the call in the new model: `recall()` for the call as
            it was, or anything else of the same structure. None stands for
            `recall()`. All calls are made as they were if no function is
            given. A layer that is seen through comes first itself; for None,
            the calls in it follow, and it is written out if one is changed.
        edit_input: called with each new input tensor of the outermost model
            and the old one; returns what the calls are to read.
        name: the name of the new model; that of the old one by default.
        stock: whether models of the user's classes become stock ones, for
            measurements that her `train_step` or `compute_loss` has no part
            in; a class with a `call` of its own is kept all the same.
        note: called with each `Site` but those of nested models, and the
            flat outputs of its call in the new model.
        parts: whether layers that are seen through are written out though
            nothing in them is changed.
        inlining: nested models that are not to be nested any more.

    Returns:
        A `keras.Sequential` or a functional `keras.Model`.

    Raises:
        ValueError: a layer can't be made from its config.
    """
    rewriter = _Rewriter(edit, edit_input, stock, note, parts, inlining)
    return rewriter.model(graph, name, outer=True)


class _Rewriter:
    """What is made so far, by the id of what it stands for.

    Attributes:
        models: the new models.
        made: the new layers and operations.
        pending: the old ones of those that still lack their weights.
        edited: whether an edit has changed anything so far.
        parts: as in `rewrite`.
        inlining: likewise.
        inside: whether the calls of such a model are being made.
        training: what that model is told.
        written_out: layer that is seen through -> the new model of its parts,
            None where nothing in it was edited.
    """

    def __init__(
        self,
        edit: Edit | None,
        edit_input: EditInput | None,
        stock: bool,
        note: Note | None,
        parts: bool,
        inlining: Inlining | None,
    ) -> None:
        self.stock = stock
        self.parts = parts
        self.inlining = inlining or Inlining()
        self.inside = False
        self.training: bool | None = None
        self.note = note
        self.edit = edit or (lambda recall: None)
        self.edit_input = edit_input or (lambda new, old: new)
        self.models: dict[int, keras.Model] = {}
        self.copies = new_copies()
        self.made: dict[int, keras.Operation] = {}
        self.pending: dict[int, keras.Operation] = {}
        self.edited = False
        self.written_out: IdentityDict[keras.Layer, keras.Model | None]
        self.written_out = IdentityDict()

    def model(
        self, graph: Graph, name: str | None = None, outer: bool = False
    ) -> keras.Model:
        """The new model of a graph; always the same."""
        if id(graph.model) in self.models:
            return self.models[id(graph.model)]
        before = self.inside, self.training
        self.inside, self.training = False, None
        inputs = {id(kt): _input(kt) for kt in graph.functional.inputs}
        tensors = dict(inputs)
        if outer:
            for kt in graph.functional.inputs:
                tensors[id(kt)] = self.edit_input(tensors[id(kt)], kt)
        for site in graph.sites:
            self._site(site, tensors)
        self.inside, self.training = before
        structure, results = structures(graph.model)
        ends = (
            keras.tree.map_structure(lambda kt: inputs[id(kt)], structure),
            keras.tree.map_structure(lambda kt: tensors[id(kt)], results),
        )
        name = name or graph.model.name
        stock = self.stock and not has_own_call(graph.model)
        if stock:
            new = keras.Model(*ends, name=name)
        else:
            new = classes.functional(graph.model, *ends, name)
        if isinstance(graph.model, keras.Sequential) and not stock:
            new = _sequential(graph.model, new) or new
        private.copy_trainable(graph.model, new)
        private.mark_called(new)
        self.models[id(graph.model)] = new
        origins.note_parts(new, self.inlining.parts.get(graph, {}))
        if not stock:
            classes.carry(graph, new, lambda: self.copies.twins)
        return new

    def _site(self, site: Site, tensors: dict[int, keras.KerasTensor]) -> None:
        if site.child in self.inlining.graphs:
            self._inlined(site, tensors)
            return
        args, kwargs = recorded(site.node, tensors)
        if self.inside:
            kwargs = {**kwargs, **carried.found_again(site.node, tensors)}
        outputs = None
        called = site.child is None or site.opened is not None
        if called:
            recall = Recall(site, args, kwargs, self, tensors)
            outputs = self.edit(recall)
            self.edited |= recall.changed(outputs)
        if outputs is None:
            outputs = self.call(site, args, kwargs)
        flat = keras.tree.flatten(outputs)
        if called and self.note is not None:
            self.note(site, flat)
        for kt, new in zip(site.node.outputs, flat, strict=True):
            tensors[id(kt)] = new

    def _inlined(
        self, site: Site, tensors: dict[int, keras.KerasTensor]
    ) -> None:
        """Make the calls of a nested model, instead of a call of it."""
        assert site.child is not None
        told = site.node.arguments.kwargs.get("training")
        bound = [tensors[id(kt)] for kt in carried.data(site.node)]
        inner: dict[int, keras.KerasTensor] = {}
        for kt, x in zip(site.child.functional.inputs, bound, strict=True):
            inner[id(kt)] = x
            if x.dtype != kt.dtype:
                # A model converts its inputs to the type that it is for.
                inner[id(kt)] = keras.ops.cast(x, kt.dtype)
                private.set_mask(inner[id(kt)], private.mask_of(x))
        before = self.inside, self.training
        self.inside, self.training = True, before[1] if told is None else told
        for each in site.child.sites:
            self._site(each, inner)
        self.inside, self.training = before
        ends = site.child.functional.outputs
        for kt, end in zip(site.node.outputs, ends, strict=True):
            tensors[id(kt)] = new = inner[id(end)]
            mask = private.mask_of(kt)
            if mask is not None and private.mask_of(new) is None:
                private.set_mask(new, tensors.get(id(mask)))

    def _parts(self, site: Site, child: Graph) -> keras.Model | None:
        """The model of a layer's parts; None if none of them is edited."""
        if site.op not in self.written_out:
            before, self.edited = self.edited, False
            model = self.model(child)
            changed = self.edited or self.parts
            self.written_out[site.op] = model if changed else None
            self.edited |= before
        return self.written_out[site.op]

    def copy(self, site: Site) -> keras.Operation:
        if site.child is not None and site.opened is None:
            if id(site.op) not in self.made:
                model = self.model(site.child)
                new = time_axis.again(site.op, model)
                self.made[id(site.op)] = self._renamed(site.op, new)
            return self.made[id(site.op)]
        if id(site.op) not in self.made:
            new, complete = self.copies.whole(site.op)
            self.made[id(site.op)] = self._renamed(site.op, new)
            if not complete:
                self.pending[id(site.op)] = site.op
        return self.made[id(site.op)]

    def _renamed(
        self, op: keras.Operation, new: keras.Operation
    ) -> keras.Operation:
        if op in self.inlining.names:
            private.rename(new, self.inlining.names[op])
        return new

    def call(
        self, site: Site, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if site.opened is not None and site.child is not None:
            parts = self._parts(site, site.child)
            if parts is not None:
                self.edited = True
                return parts(unpacked(flat_tensors((args, kwargs))))
        new = self.copy(site)
        nested = site.child is not None and site.opened is None
        if self.training is not None and private.takes_training(site.op):
            named = carried.arguments(site.node)
            if named.get("training") is None:
                kwargs = {**kwargs, "training": self.training}
        if not isinstance(new, keras.Layer) or nested:
            return new(*args, **kwargs)
        fresh = self.pending.pop(id(site.op), None) is not None
        with create.prepared(new, arrays=_arrays(site.op) if fresh else None):
            outputs = new(*args, **kwargs)
        if fresh:
            copy_state(site.op, new)
            self.copies.twins.note_layer(site.op, new)
        return outputs


def _arrays(layer: keras.Layer) -> dict[str, NDArray[Any]] | None:
    """The weights by name, to be created with: no initializer runs then."""
    names = [w.name for w in layer.weights]
    if private.has_sublayers(layer) or len(set(names)) < len(names):
        return None
    return {w.name: values_of(w) for w in layer.weights}


def _input(kt: keras.KerasTensor) -> keras.KerasTensor:
    layer = input_layer(kt)
    return type(layer).from_config(layer.get_config()).output


def _sequential(
    old: keras.Sequential, model: keras.Model
) -> keras.Sequential | None:
    """The layers of a functional model as a Sequential, if it is a chain."""
    graph = read(model)
    ops = [site.op for site in graph.sites]
    layers = all(isinstance(op, keras.Layer) for op in ops)
    single = len(model.inputs) == 1 and len(model.outputs) == 1
    if not layers or not single or len({id(op) for op in ops}) < len(ops):
        return None
    before = model.inputs[0]
    for site in graph.sites:
        tensors = [*site.node.input_tensors, *site.node.outputs]
        plain = not any(
            isinstance(x, keras.KerasTensor)
            for x in keras.tree.flatten(site.node.arguments.kwargs)
        )
        if len(tensors) != 2 or tensors[0] is not before or not plain:
            return None
        before = tensors[1]
    if before is not model.outputs[0]:
        return None
    first = input_layer(model.inputs[0])
    return classes.sequential(old, [first, *ops], model.name)
