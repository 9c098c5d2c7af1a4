"""Builds the smaller model: nested models as before, each layer once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import carried
from keras_gates.graphs import classes
from keras_gates.graphs import create
from keras_gates.graphs import graph as gr
from keras_gates.graphs import origins
from keras_gates.graphs import private
from keras_gates.graphs import time_axis
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.arguments import recorded
from keras_gates.graphs.attribute_paths import parts_of
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.opened import unpacked
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.variables import copy_running_states
from keras_gates.graphs.variables import running_states
from keras_gates.surgeon import faults
from keras_gates.surgeon import labels as lb
from keras_gates.surgeon.build import original_class
from keras_gates.surgeon.build.changes import Changes
from keras_gates.surgeon.build.kept_class import KeptClasses
from keras_gates.surgeon.build.kept_class import edited
from keras_gates.surgeon.build.part_weights import NoPlace
from keras_gates.surgeon.build.part_weights import PartWeights
from keras_gates.surgeon.build.replacements import Pieces
from keras_gates.surgeon.build.smaller import NotKept
from keras_gates.surgeon.build.smaller import Smaller
from keras_gates.surgeon.passes.label import StepKey
from keras_gates.surgeon.solving.returns import How
from keras_gates.surgeon.solving.returns import Return

if TYPE_CHECKING:
    from keras_gates.graphs.graph import Graph
    from keras_gates.graphs.graph import Site
    from keras_gates.graphs.graph import Tensor
    from keras_gates.graphs.twins import Twins
    from keras_gates.surgeon.build.kept_class import Found
    from keras_gates.surgeon.build.replacements import Piece
    from keras_gates.surgeon.passes.decision import Decision
    from keras_gates.surgeon.passes.fold import Folds
    from keras_gates.surgeon.passes.label import Step


def rebuild(
    graph: Graph,
    decision: Decision,
    folds: Folds,
    returns: Iterable[Return] = (),
) -> keras.Model:
    """The new model of a graph.

    Args:
        graph: the `Graph` that was read.
        decision: the `Decision` for it.
        folds: the `Folds`: where the factors of gates go.
        returns: how layers that were seen through come back, in which
            anything changes, and models of classes whose constructors make
            their layers; by default, all are written out.

    Returns:
        A `keras.Sequential` for a Sequential, if what is left is a chain of
        layers, else a functional `keras.Model`.
    """
    builder = Builder(decision, folds, graph.masking, returns)
    new = builder.model(graph, graph.inputs)
    if running_states(graph.model):
        for old, made in builder.pieces.operations.items():
            copy_running_states(old, made)
    return new


class Builder:
    """Carries the sites of each model over to a new one.

    Args:
        decision: the `Decision`.
        folds: the `Folds`.
        masking: the nested graphs in which a layer finds a mask.
        returns: as in `rebuild`.
        trial: whether what is made is for comparison only.
        found: the configs that were found before, and those found here.
    """

    def __init__(
        self,
        decision: Decision,
        folds: Folds,
        masking: list[Graph],
        returns: Iterable[Return] = (),
        trial: bool = False,
        found: Found | None = None,
    ) -> None:
        self.decision = decision
        self.labels = decision.labelling.labels
        self.pieces = Pieces(decision, folds)
        self.changes = Changes(decision, folds, self.pieces.weights)
        self.classes = KeptClasses(self.pieces.copies, found)
        # Each old model -> the new one; and what is called in its place.
        self.models: IdentityDict[keras.Model, keras.Model] = IdentityDict()
        self.wrappers: IdentityDict[keras.Layer, keras.Layer] = IdentityDict()
        # Of those, the ones that a user's class has made.
        self.made_again: IdentityDict[keras.Model, keras.Model] = IdentityDict()
        # Those that put out what they get, by the numbers of their inputs.
        self.empty: IdentityDict[keras.Model, list[int]] = IdentityDict()
        self.masking = masking
        self.trial = trial
        self.kept: IdentityDict[keras.Layer, Return] = IdentityDict(
            (each.layer, each) for each in returns if each.how is How.CLASS
        )
        self.called = {scope.site for scope in decision.called}
        # By site and position; of those that are there in several scopes,
        # the first.
        self.steps: dict[StepKey, Step] = {}
        for step in decision.labelling.steps:
            if step in decision.present:
                self.steps.setdefault(step.key, step)

    def model(self, graph: Graph, bound: list[Tensor]) -> keras.Model:
        """The new model of a graph, nested or not.

        Args:
            graph: its `Graph`.
            bound: the flat tensors that its inputs are, where it is called
                first.
        """
        if graph.model in self.models:
            return self.models[graph.model]
        pairs = zip(graph.functional.inputs, bound, strict=True)
        tensors = {id(kt): self._input(kt, tensor) for kt, tensor in pairs}
        new: keras.Model | None = None
        # What a class makes again is but compared with what is made here.
        trial, self.trial = self.trial, self.trial or graph.model in self.kept
        if isinstance(graph.model, keras.Sequential):
            new = self._sequential(graph, tensors)
        if new is None:
            new = self._functional(graph, tensors)
        new = self._in_its_class(graph, new)
        self.trial = trial
        private.copy_trainable(graph.model, new)
        private.mark_called(new)
        self.models[graph.model] = new
        self._check_masks(graph, new)
        if not self.trial:
            self._carry(graph, new)
        return new

    def _in_its_class(self, graph: Graph, new: keras.Model) -> Any:
        """The same in the user's class, which makes its layers, if it can be.

        As with a layer: by a smaller config that leads to just these weights.
        """
        kept = self.kept.get(graph.model)
        if kept is None:
            return new
        edits = {path: value for path, (_, value) in kept.edits.items()}
        origin = origins.origin_of(graph.model)
        if origin is None:
            made = self.classes.made(self.smaller_model(graph, new), edits)
        else:
            made = original_class.made(origin, new, edits)
        self.made_again[graph.model] = made
        # What else calls a layer of it calls the one that it has made.
        parts = parts_of(made).layers
        for path, layer in parts_of(graph.model).layers.items():
            if path in parts and layer in self.pieces.operations:
                self.pieces.operations[layer] = parts[path]
        return made

    def smaller_model(self, graph: Graph, new: keras.Model) -> Smaller:
        """What a model of a class whose constructor makes layers is to be.

        Args:
            graph: its graph.
            new: the smaller model that it is to compute the same as.

        Raises:
            NoPlace: its class has no place for what its layers become.
        """
        inputs, _ = gr.structures(new)
        weights = self._weights().of_model(graph)
        return Smaller(graph.model, (inputs,), {}, new, weights)

    def _check_masks(self, graph: Graph, new: keras.Model) -> None:
        """Refuse a nested model in which a layer would find another mask."""
        if not any(each is graph for each in self.masking):
            return
        outer = graph is self.decision.labelling.graph
        old, made = (gr.finds(x, not outer) for x in (graph.model, new))
        for site in graph.sites:
            op = self.pieces.operations.get(site.op)
            if not made.get(id(op), set()) <= old.get(id(site.op), set()):
                raise ValueError(
                    f"Layer '{site.name}' (of type {type(site.op).__name__}) "
                    f"in '{graph.model.name}' finds a mask of time steps on "
                    "its input, and would not find it in a smaller model. "
                    f"Make the mask a separate input of '{graph.model.name}' "
                    "and pass it on with mask=..., or call its layers "
                    "directly."
                )

    def _carry(self, graph: Graph, new: keras.Model) -> None:
        """The user's attributes and class of a model."""

        def twins() -> Twins:
            made = new_copies().twins
            for pair in self._counterparts(graph):
                made.note_layer(*pair)
            again = self.made_again.get(graph.model)
            if again is not None:  # with layers of its own
                parts = parts_of(again).layers
                for path, layer in parts_of(graph.model).layers.items():
                    if path in parts:
                        made.note_layer(layer, parts[path])
            return made

        classes.carry(graph, new, twins)

    def _counterparts(
        self, graph: Graph
    ) -> Iterator[tuple[keras.Operation, keras.Operation]]:
        """Pairs of old and new, for what has a counterpart."""
        for each in [graph, *graph.nested()]:
            if each.model in self.models:
                yield each.model, self.models[each.model]
            for site in each.sites:
                if site.op in self.pieces.operations:
                    yield site.op, self.pieces.operations[site.op]
                if site.op in self.wrappers:
                    yield site.op, self.wrappers[site.op]

    def _input(
        self, kt: keras.KerasTensor, tensor: Tensor
    ) -> keras.KerasTensor:
        """A new input of a model, narrower if what feeds it is."""
        layer = gr.input_layer(kt)
        masks = self.decision.masks(self.labels[tensor])
        shape = lb.cut_shape(tuple(kt.shape), masks)
        config = {**layer.get_config(), "batch_shape": shape}
        return type(layer).from_config(config).output

    def _functional(
        self, graph: Graph, tensors: dict[int, keras.KerasTensor]
    ) -> keras.Model:
        for site in graph.sites:
            if site.child is not None:
                self._nested(site, site.child, tensors)
            elif StepKey(site, None) in self.steps:
                self._site(site, tensors)
        inputs_of = {id(tensors[id(kt)]): kt for kt in graph.functional.inputs}
        self._note_empty(graph, tensors)

        def made(kt: keras.KerasTensor) -> keras.KerasTensor:
            new = tensors[id(kt)]
            # Called on a known size, Keras takes this for a cycle.
            unknown = None in new.shape[1:]
            if unknown and inputs_of.get(id(new), kt) is not kt:
                return keras.layers.Identity()(new)
            return new

        inputs, outputs = gr.structures(graph.model)
        inputs = keras.tree.map_structure(lambda kt: tensors[id(kt)], inputs)
        outputs = keras.tree.map_structure(made, outputs)
        return classes.functional(
            graph.model, inputs, outputs, graph.model.name
        )

    def _note_empty(
        self, graph: Graph, tensors: dict[int, keras.KerasTensor]
    ) -> None:
        """Record it if nothing remains in a model."""
        inputs = [id(tensors[id(kt)]) for kt in graph.functional.inputs]
        outputs = [id(tensors[id(kt)]) for kt in graph.functional.outputs]
        if graph.sites and set(outputs) <= set(inputs):
            self.empty[graph.model] = [inputs.index(x) for x in outputs]

    def _sequential(
        self, graph: Graph, tensors: dict[int, keras.KerasTensor]
    ) -> keras.Model:
        """A Sequential again; None unless what is left is such a chain."""
        if not all(self._is_link(site) for site in graph.sites):
            return None
        layers = [gr.input_layer(kt) for kt in tensors.values()]
        with contextlib.ExitStack() as stack:
            for site in graph.sites:
                if site.child is not None:
                    layers.append(self._part(site, site.child))
                    continue
                for piece in self._pieces(site):
                    hints = create.prepared(piece.op, piece.spec, piece.arrays)
                    stack.enter_context(hints)
                    layers.append(piece.op)
            if not all(isinstance(layer, keras.Layer) for layer in layers):
                return None
            if len(layers) == len(tensors):
                return None
            with faults.of_layer(graph.model.name, graph.model):
                new = classes.sequential(graph.model, layers, graph.model.name)
        for site in graph.sites:
            if site.child is None:
                self.pieces.finish(self.steps[StepKey(site, None)])
        return new

    def _pieces(self, site: Site) -> list[Piece]:
        """What a site becomes; for a chain, with the gate after it."""
        step = self.steps.get(StepKey(site, None))
        pieces = [] if step is None else self.pieces.make(step)
        for gate in site.behind.values():
            pieces += self._pieces(gate)
        return pieces

    def _is_link(self, site: Site) -> bool:
        """Whether a site can be a link of a chain: it is there, ungathered."""
        if site.child is not None:
            return site in self.called
        selection = self.steps.get(StepKey(site, 0))
        gathers = selection is not None and self.pieces.gathers(selection)
        return StepKey(site, None) in self.steps and not gathers

    def _inner(self, site: Site, child: Graph) -> keras.Layer:
        """The replacement of a nested model, or of its wrapper."""
        model = self.model(child, child.bounds[0])
        if site.op not in self.wrappers:
            step = model if site.opened is None else self._step(site, child)
            self.wrappers[site.op] = (
                model if step is None else time_axis.again(site.op, step)
            )
        return self.wrappers[site.op]

    def _step(self, site: Site, child: Graph) -> keras.Model | None:
        """What a TimeDistributed that was seen through calls at each step.

        None for another layer, and where that is more than one layer.
        """
        calls = [
            node
            for node in private.nodes_of(self.models[child.model])
            if isinstance(node.operation, keras.Layer) and not node.is_input
        ]
        if not time_axis.distributes(site.op) or len(calls) != 1:
            return None
        ((x,), layer) = calls[0].input_tensors, calls[0].operation
        step = keras.Input(batch_shape=x.shape, dtype=x.dtype)
        return keras.Model(step, layer(step), name=f"{layer.name}_step")

    def _nested(
        self,
        site: Site,
        child: Graph,
        tensors: dict[int, keras.KerasTensor],
    ) -> None:
        """Call the new one of a nested model, if it is still called."""
        if site not in self.called:
            return
        if self._passes(site, child, tensors):
            return
        if site.opened is not None:
            self._opened(site, child, tensors)
            return
        # A mask that nothing inside reads need not be there any more.
        found: dict[int, Any] = {id(kt): None for kt in site.node.input_tensors}
        args, kwargs = recorded(site.node, {**found, **tensors})
        _bind(site.node, self._inner(site, child)(*args, **kwargs), tensors)

    def _passes(
        self,
        site: Site,
        child: Graph,
        tensors: dict[int, keras.KerasTensor],
    ) -> bool:
        """Leave out a model or layer in which nothing remains."""
        if site.folds or not self.changes.inside(child):
            return False
        if site.opened is not None and site.op in self.kept:
            return False
        self.model(child, child.bounds[0])
        left = self.empty.get(child.model)
        if left is None or child.model in self.made_again:
            return False
        node, opened = site.node, site.opened is not None
        given = node.input_tensors if opened else carried.data(node)
        outputs = [tensors[id(given[number])] for number in left]
        _bind(site.node, outputs, tensors)
        return True

    def _opened(
        self,
        site: Site,
        child: Graph,
        tensors: dict[int, keras.KerasTensor],
    ) -> None:
        """Call what stands in place of a layer that was seen through."""
        new = self._part(site, child)
        model = self.models.get(child.model)
        if model is not None and new is model:
            inputs = [tensors[id(kt)] for kt in site.node.input_tensors]
            outputs = new(unpacked(inputs))
        else:
            args, kwargs = recorded(site.node, tensors)
            outputs = new(*args, **kwargs)
        _bind(site.node, outputs, tensors)

    def _part(self, site: Site, child: Graph) -> keras.Layer:
        """What stands in place of a model, or of a layer seen through.

        That is the layer itself where nothing in it changes; else one of its
        class, or the model of its parts.
        """
        if site.opened is None:
            return self._inner(site, child)
        if not self.changed(site):
            return self.pieces.carried(site.op)
        if self.trial and site.opened.sized and site.op not in self.kept:
            # What it is made of can't be called on sizes that are open.
            self.kept[site.op] = self._tried_in_its_class(site)
        kept = self.kept.get(site.op)
        if kept is None:
            return self._inner(site, child)
        if site.op not in self.wrappers:
            edits = {path: new for path, (_, new) in kept.edits.items()}
            self.wrappers[site.op] = self.classes.made(
                self.smaller(site), edits
            )
        return self.wrappers[site.op]

    def _tried_in_its_class(self, site: Site) -> Return:
        """How a layer whose parts are for single sizes is there in a trial.

        Raises:
            NoPlace, NotKept: its class can't be kept.
        """
        assert site.opened is not None
        layer = site.opened.layer
        try:
            edits = self.classes.edits(self.smaller(site), recorded=True)
        except (NoPlace, NotKept) as error:
            what = f"'{site.name}' in it can't keep its class"
            raise NotKept(f"{what}: {error}") from error
        return Return(layer, site.name, How.CLASS, edited(layer, edits))

    def changed(self, site: Site) -> bool:
        """Whether anything in a layer that was seen through changes."""
        return any(
            self.changes.inside(each.child)
            for each in self.ways(site)
            if each.child is not None
        )

    def ways(self, site: Site) -> list[Site]:
        """A site for each way in which its layer is called, itself first."""
        graph = self.decision.labelling.graph
        found = {id(site.child): site}
        for each in [graph, *graph.nested()]:
            for other in each.sites:
                if other.op is site.op and other.opened is not None:
                    found.setdefault(id(other.child), other)
        return [*found.values()]

    def smaller(self, site: Site) -> Smaller:
        """The target of a layer that was seen through.

        Raises:
            NoPlace: its class has no place for what its parts become.
        """
        assert site.opened is not None and site.child is not None
        ways = [
            (each.opened, each.child)
            for each in self.ways(site)
            if each.opened is not None and each.child is not None
        ]
        # They are but compared, and read.
        trial, self.trial = self.trial, True
        with private.any_call_recorded():
            for _, child in ways:
                self.model(child, child.bounds[0])
        self.trial = trial
        weights = self._weights().of_ways(ways)
        model = self.models[site.child.model]
        given = site.node.arguments
        layer = site.opened.layer
        return Smaller(layer, given.args, given.kwargs, model, weights)

    def _weights(self) -> PartWeights:
        steps: IdentityDict[keras.Operation, Step] = IdentityDict()
        for step in self.steps.values():
            if step.position is None:
                steps.setdefault(step.call.op, step)
        made = IdentityDict(self.pieces.operations.items())
        for layer, new in self.wrappers.items():
            if layer in self.kept:
                made[layer] = new
        return PartWeights(self.decision, steps, made)

    def _site(self, site: Site, tensors: dict[int, keras.KerasTensor]) -> None:
        """Carry one recorded call over to the new graph."""
        step = self.steps[StepKey(site, None)]
        kts = site.node.input_tensors
        # By the id of each tensor among the arguments, which may be any.
        own = {
            id(tensor): tensors.get(id(kt))
            # Masks that layers find on their inputs are found again.
            for tensor, kt in zip(step.call.inputs, kts, strict=False)
        }
        selection = self.steps.get(StepKey(site, 0))
        if selection is not None and self.pieces.gathers(selection):
            gather = self.pieces.gather(selection)
            first = id(step.call.inputs[0])
            own[first] = gather.op(own[first], **gather.kwargs)
        x = own[id(self.pieces.source(step))]
        with faults.of_layer(step.path, step.call.op):
            for piece in self.pieces.make(step):
                x = _call(piece, x, own, step.call.found)
        self.pieces.finish(step)
        flat = keras.tree.flatten(x)
        for number, gate in site.behind.items():
            for piece in self._pieces(gate):
                flat[number] = _call(piece, flat[number], own)
        _bind(site.node, flat, tensors)


def _call(
    piece: Piece,
    x: keras.KerasTensor,
    own: dict[int, keras.KerasTensor],
    found: tuple[str, ...] = (),
) -> Any:
    """The output of a piece, on its own arguments or on `x`."""
    args: tuple[Any, ...] = (x,)
    kwargs = {k: v for k, v in piece.kwargs.items() if k not in found}
    if piece.args is not None:
        args, kwargs = mapped(lambda a: own.get(id(a), a), piece.args, kwargs)
    return create.call(piece.op, args, kwargs, piece.spec, piece.arrays)


def _bind(
    node: Any, outputs: Any, tensors: dict[int, keras.KerasTensor]
) -> None:
    """Note the outputs of a recorded call, in any structure."""
    flat = [x for x in keras.tree.flatten(outputs) if x is not None]
    for kt, new in zip(node.outputs, flat, strict=True):
        tensors[id(kt)] = new
