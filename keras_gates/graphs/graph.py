"""Read a built Keras model as a flat graph of calls.

This is the only file of the package that knows Keras' internals: the
recorded nodes of a functional model, the classes behind `keras.ops`, and
the hooks that let a layer be built from arrays without a trace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.masking import set_keras_mask
from keras.src.models.functional import Functional
from keras.src.ops.node import Node
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils.tracking import Tracker
from numpy.typing import NDArray

from keras_gates.graphs import carried
from keras_gates.graphs import time_axis
from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.arguments import recorded
from keras_gates.graphs.identity import IdentityDict

_OPERATIONS = "keras.src.ops"
# What finds the variables and layers among the attributes of a layer, and
# the base of what Keras saves: layers, metrics, generators of random numbers.
TRACKER, SAVEABLE = Tracker, KerasSaveable
_NOT_PLAIN = (
    "which is called on other arguments than its own inputs, so that the "
    "surgeon can't read it. Call it on tensors like its inputs, with no "
    "other arguments, or call its layers directly."
)


@dataclasses.dataclass(eq=False)
class Tensor:
    """A symbolic value of one scope; `shape` includes the batch axis."""

    shape: tuple
    dtype: str
    producer: Call | None = None
    consumers: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Site:
    """One recorded call in one model: what the rebuild walks over.

    `child` is the graph of a nested model; `calls` are the flat calls that
    this site became: one for each time the model round it is called.
    `behind` holds, by the number of an output, the site of a gate that the
    model does not have. `folds` are the sites in front of a model in
    TimeDistributed and behind it, for its axis of time.
    """

    op: object
    node: object
    name: str
    child: Graph | None = None
    calls: list = dataclasses.field(default_factory=list)
    behind: dict = dataclasses.field(default_factory=dict)
    folds: tuple = ()


@dataclasses.dataclass(eq=False)
class Scope:
    """One call of a nested model: the tensors that go in and come out."""

    site: Site
    inputs: list
    outputs: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Call:
    """A site in one scope, with nested models written out.

    `scopes` are those that it is in, the outermost first. `args` and
    `kwargs` hold `Tensor`s where the recorded call holds KerasTensors.
    `path` names the layer from the outermost model. It is made once for each
    step in the axis of time of the tensors in `times`. `found` names the
    arguments that the record does not have: masks that the layer finds on
    its inputs at run time. They are the last of the `inputs`.
    """

    site: Site
    args: tuple
    kwargs: dict
    inputs: list
    outputs: list
    path: str
    scopes: tuple = ()
    times: tuple = ()
    found: tuple = ()
    op: object = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.op = self.site.op

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument `name` of the recorded call, however it was passed."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = list(inspect.signature(self.op.call).parameters)
        index = names.index(name) if name in names else len(self.args)
        return self.args[index] if index < len(self.args) else default


@dataclasses.dataclass(eq=False)
class Graph:
    """A functional model: its sites in order, and the flat calls.

    `bounds` of a nested model's graph are the tensors of each of its calls.
    By name, `groups` are channels with scores, and `scores` those of gates.
    `loops` holds, by a layer that reads its own output, the place of each of
    its units among those of all groups, -1 for none. `unread`
    says of models inside that are taken for layers why they are, by id, and
    `masking` holds the nested graphs in which a layer finds a mask.
    """

    model: keras.Model
    functional: Functional
    sites: list
    calls: list = dataclasses.field(default_factory=list)
    inputs: list = dataclasses.field(default_factory=list)
    outputs: list = dataclasses.field(default_factory=list)
    bounds: list = dataclasses.field(default_factory=list)
    groups: dict = dataclasses.field(default_factory=dict)
    scores: dict = dataclasses.field(default_factory=dict)
    loops: IdentityDict[keras.Layer, NDArray[np.intp]] = dataclasses.field(
        default_factory=IdentityDict
    )
    unread: dict = dataclasses.field(default_factory=dict)
    masking: list = dataclasses.field(default_factory=list)

    def nested(self) -> list[Graph]:
        """The graphs of all models inside, each once."""
        found = {}
        for site in self.sites:
            if site.child is not None and id(site.child) not in found:
                found[id(site.child)] = site.child
                found.update({id(g): g for g in site.child.nested()})
        return list(found.values())


def is_functional(model: Any) -> bool:
    """Whether `model` records a graph (Functional or built Sequential)."""
    return functional_of(model) is not None


def functional_of(model: Any) -> keras.Model | None:
    """The functional graph of a model, or None where there is none."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, Functional) else None


def has_own_call(op: Any) -> bool:
    """Whether a layer or model computes what Keras doesn't know of.

    That is what was put in the place of its `call`, or a `call` that the
    class of a functional model has instead of running its graph.
    """
    if "call" in vars(op):
        return True
    known = (Functional.call, keras.Sequential.call)
    return is_functional(op) and type(op).call not in known


def read(model: int | keras.Layer | type[Any] | None) -> Graph:
    """Return the `Graph` of a built Functional or Sequential model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: `model` is subclassed, or not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "The surgeon works on a built Keras model. Received: "
            f"{model!r} (of type {type(model).__name__})."
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
            "graph. Rebuild it with the functional API, or prune the "
            "functional models inside it one by one."
        )
    unread = {}
    while True:  # each round but the last finds one more
        before = len(unread)
        graph = _sites(model, {}, unread)
        graph.unread = unread
        graph.inputs = [_tensor(kt) for kt in graph.functional.inputs]
        reading = _Reading(unread, graph.masking)
        place = _Place()
        graph.outputs = reading.expand(graph, graph.inputs, graph.calls, place)
        if len(unread) == before:
            return graph


def _sites(
    model: keras.Model, memo: dict[int, Graph], unread: dict[Any, Any]
) -> Graph:
    """The structural graph; a model met twice is read once.

    A model is read at all of its calls or at none: `unread` gets those that
    can't be read at one of them, with the reason.
    """
    if id(model) in memo:
        return memo[id(model)]
    functional = functional_of(model)
    sites = []
    for node in nodes_of(functional):
        op = node.operation
        inner, child, folds = time_axis.layer_of(op), None, ()
        inside = is_functional(inner) and not has_own_call(inner)
        if inside and not _plain_call(node, inner):
            unread.setdefault(id(inner), _NOT_PLAIN)
        if inside and id(inner) not in unread:
            child = _sites(inner, memo, unread)
        if child is not None and inner is not op:
            kinds = time_axis.FoldTime, time_axis.UnfoldTime
            folds = tuple(Site(k(op.name), node, op.name) for k in kinds)
        sites.append(Site(op, node, op.name, child, folds=folds))
    memo[id(model)] = Graph(model, functional, sites)
    return memo[id(model)]


def nodes_of(function: keras.Model) -> list[Any]:
    """The recorded calls of a functional model or `keras.Function`, in order.

    That is the order in which Keras makes them.
    """
    by_depth = function._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if node.operation is not None and not node.is_input
    ]


def _plain_call(node: Any, model: keras.Model) -> bool:
    """Whether a nested model is called on exactly its inputs, as they are.

    Keras adds or drops a last axis of 1 where a rank is off by one. In
    TimeDistributed, it is given an axis more. A mask is no input: the tensors
    that it is called on carry it inside.
    """
    given, inputs = carried.data(node), functional_of(model).inputs
    if node.operation is not model:
        single = len(given) == len(inputs) == len(node.outputs) == 1
        trains = node.arguments.kwargs.get("training") is True
        deeper = single and len(given[0].shape) == len(inputs[0].shape) + 1
        return deeper and not trains and len(functional_of(model).outputs) == 1
    return len(given) == len(inputs) and all(
        len(a.shape) == len(b.shape) for a, b in zip(given, inputs, strict=True)
    )


def _tensor(kt: keras.KerasTensor, producer: Call | None = None) -> Tensor:
    # A size may be a number of NumPy, which no config can hold.
    shape = tuple(None if size is None else int(size) for size in kt.shape)
    return Tensor(shape, kt.dtype, producer)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where calls are: the `Scope`s round them, and a model's prefix.

    `times` are the tensors whose steps they are made on.
    """

    scope: tuple = ()
    times: tuple = ()

    def path(self, site: Site) -> str:
        return "/".join([*(s.site.name for s in self.scope), site.name])

    def call(
        self,
        site: Site,
        args: tuple[NDArray[np.float64] | Tensor | float, ...],
        kwargs: dict[Any, Any],
        inputs: list[Tensor],
        found: dict[Any, Any] = (),
    ) -> Call:
        path = self.path(site)
        at = self.scope, self.times, tuple(found)
        return Call(site, args, kwargs, inputs, [], path, *at)


class _Reading:
    """Writes out the calls of nested models, with the masks that they find.

    Args:
        unread: as in `Graph`; gets the models that can't be read.
        masking: as in `Graph`.
    """

    def __init__(self, unread: dict[Any, Any], masking: list[Any]) -> None:
        self.unread = unread
        self.masking = masking

    def expand(
        self,
        graph: Graph,
        bound: list[Tensor],
        calls: list[Call],
        place: _Place,
        carry: list[None] | tuple[Any, ...] = (),
    ) -> list[Tensor]:
        """Append the calls of `graph` on tensors `bound`.

        Args:
            graph: the `Graph` of a model.
            bound: flat tensors that it is called on.
            calls: a list of `Call`s.
            place: the `_Place`.
            carry: the masks that `bound` carry, where they do.

        Returns:
            Its outputs; in `self.carried`, the masks that they carry.
        """
        tensors, masks = {}, {}
        for kt, tensor in zip(graph.functional.inputs, bound, strict=True):
            tensors[id(kt)] = tensor
            tensor.shape = _sharpest(tensor.shape, kt.shape)
        for kt, mask in zip(graph.functional.inputs, carry, strict=False):
            masks[id(kt)] = mask
        for site in graph.sites:
            make = self._call if site.child is None else self._nested
            made, after = make(graph, site, tensors, masks, calls, place)
            kts = site.node.outputs
            tensors.update(zip(map(id, kts), made, strict=True))
            masks.update(zip(map(id, kts), after, strict=True))
        ends = graph.functional.outputs
        self.carried = [masks.get(id(kt)) for kt in ends]
        return [tensors[id(kt)] for kt in ends]

    def _call(
        self,
        graph: Graph,
        site: Site,
        tensors: dict[int, Tensor],
        masks: dict[int, None],
        calls: list[Call],
        place: _Place,
    ) -> tuple[list[Tensor], list[None]]:
        """Append one call; return its outputs and the masks they carry."""
        node = site.node
        args, kwargs = recorded(node, tensors)
        inputs = [tensors[id(kt)] for kt in node.input_tensors]
        found = carried.found(node, masks) if place.scope else {}
        if found:
            flat = [m for m in keras.tree.flatten(found) if m is not None]
            if carried.UNKNOWN in flat:
                model = time_axis.layer_of(place.scope[-1].site.op)
                self.unread.setdefault(id(model), _masked(site))
            elif any(scope.site.folds for scope in place.scope):
                model = time_axis.layer_of(_folded(place.scope).site.op)
                self.unread.setdefault(id(model), _masked(site))
            self.masking.extend(s.site.child for s in place.scope)
            inputs += [m for m in flat if m is not carried.UNKNOWN]
            kwargs = {**kwargs, **found}
        call = place.call(site, args, kwargs, inputs, found)
        call.outputs = [_tensor(kt, call) for kt in node.outputs]
        _add(call, calls)
        known = _known(tensors)
        return call.outputs, carried.behind(node, masks, known)

    def _nested(
        self,
        graph: Graph,
        site: Site,
        tensors: dict[int, Tensor],
        masks: dict[int, None],
        calls: list[Call],
        place: _Place,
    ) -> tuple[list[Tensor], list[None]]:
        """Append the calls of a nested model, as `_call` does one."""
        node, known = site.node, _known(tensors)
        inputs = [tensors[id(kt)] for kt in carried.data(node)]
        bound, times = inputs, place.times
        if site.folds:
            bound = _fold(site.folds[0], inputs, calls, place)
            times = (*times, inputs[0])
        site.child.bounds.append(bound)
        inner = Scope(site, bound)
        within = _Place((*place.scope, inner), times)
        before = carried.within(node, masks, known)
        inner.outputs = outputs = self.expand(
            site.child, bound, calls, within, before
        )
        after = self.carried
        if site.folds:
            after = None
            outputs = _fold(site.folds[1], (*outputs, *inputs), calls, place)
        for kt, tensor in zip(node.outputs, outputs, strict=True):
            tensor.shape = _sharpest(tensor.shape, kt.shape)
        return outputs, carried.behind(node, masks, known, after)


def finds(model: keras.Model, masked: Any) -> Any:
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
    number = {id(mask): n for n, mask in enumerate(masks)}
    place = _Place((Scope(Site(model, None, model.name, graph), inputs),))
    calls, found = [], {}
    carry = masks if masked else ()
    _Reading({}, []).expand(graph, inputs, calls, place, carry)
    for call in calls:
        each = found.setdefault(id(call.op), set())
        flat = {k: keras.tree.flatten(call.kwargs[k]) for k in call.found}
        each.add(
            tuple(
                (k, tuple(m and number.get(id(m), -1) for m in flat[k]))
                for k in sorted(flat)
            )
        )
    return found


def _known(tensors: dict[int, Tensor]) -> Callable[..., Any]:
    """From a symbolic mask to what stands for it."""
    return lambda kt: tensors.get(id(kt), carried.UNKNOWN)


def _folded(scope: Any) -> Any:
    """The innermost call of TimeDistributed."""
    return [s for s in scope if s.site.folds][-1]


def _masked(site: Any) -> Any:
    return (
        f"which is called with a mask of time steps that '{site.name}' (of "
        f"type {type(site.op).__name__}) in it would find on its input; here "
        "the surgeon can't say which mask that is. Give the model the mask as "
        "an input of its own and pass it on, mask=..., or call its layers "
        "directly."
    )


def _add(call: Call, calls: list[Call]) -> None:
    for tensor in call.inputs:
        tensor.consumers.append(call)
    call.site.calls.append(call)
    calls.append(call)


def _fold(site: Any, args: Any, calls: Any, place: Any) -> Any:
    """Append the call of a fold on its first argument; return its output."""
    call = place.call(site, tuple(args), {}, [args[0]])
    spec = site.op.compute_output_spec(*args)
    call.outputs = [Tensor(tuple(spec.shape), args[0].dtype, call)]
    _add(call, calls)
    return call.outputs


def replace(graph: Graph, old: Tensor, new: Tensor) -> None:
    """Let all that reads the tensor `old` read `new`; changes the graph."""

    def swap(x: Tensor) -> Tensor:
        return new if x is old else x

    for call in old.consumers:
        call.inputs = [swap(x) for x in call.inputs]
        call.args, call.kwargs = mapped(swap, call.args, call.kwargs)
    graph.outputs = [swap(x) for x in graph.outputs]
    if not graph.nested():
        return
    for scope in {s for call in graph.calls for s in call.scopes}:
        scope.inputs[:] = map(swap, scope.inputs)
        scope.outputs[:] = map(swap, scope.outputs)
    for nested in graph.nested():
        nested.bounds = [[swap(x) for x in bound] for bound in nested.bounds]


def _sharpest(
    shape: tuple[int | None, ...], other: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Merge two shapes of one tensor: a known size beats None."""
    return tuple(
        a if a is not None else b for a, b in zip(shape, other, strict=True)
    )


def record(
    layer: keras.Layer,
    input_shape: tuple[int | None, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, None],
    output: keras.KerasTensor,
) -> keras.KerasTensor:
    """Note a call in the graph of `output`, and build the layer for it.

    That is what a symbolic call of a layer of Keras' own comes down to if its
    output is known; the rest of `Layer.__call__` takes several times as long.
    """
    if not layer.built:
        with layer._open_name_scope():
            layer.build(input_shape)
    layer._called = True
    Node(layer, args, kwargs, output)
    return output


def operation(name: str) -> type[Any] | None:
    """The class behind an operation of `keras.ops`, such as "numpy.Add".

    Returns None where this Keras has no such operation.
    """
    module, _, cls = name.rpartition(".")
    found = importlib.import_module(f"{_OPERATIONS}.{module}")
    return getattr(found, cls, None)


def operation_of(function: Callable[..., Any]) -> type[Any] | None:
    """The class behind a function of `keras.ops`, by identity, or None.

    The class is named after the function: `log_softmax` and `LogSoftmax`.
    """
    module = getattr(function, "__module__", None) or ""
    package, _, module = module.rpartition(".")
    name = getattr(function, "__name__", "")
    if package != _OPERATIONS:
        return None
    found = importlib.import_module(f"{package}.{module}")
    if getattr(found, name, None) is not function:
        return None
    wanted = name.replace("_", "").lower()
    for cls_name, cls in vars(found).items():
        if cls_name.lower() == wanted and isinstance(cls, type):
            return cls
    return None


def layer_class(path: str) -> type[Any]:
    """A layer class of Keras that `keras.layers` does not export."""
    module, _, cls = path.rpartition(".")
    try:
        found = importlib.import_module(f"keras.src.{module}")
    except ModuleNotFoundError:
        return None
    return getattr(found, cls, None)


def own_weights(layer: Any) -> list[keras.Variable]:
    """The layer's variables in a fixed order, `None` for a bare operation."""
    return list(layer.weights) if isinstance(layer, keras.Layer) else []


def input_layer(kt: keras.KerasTensor) -> keras.Layer:
    """The `InputLayer` behind a model's input tensor."""
    return kt._keras_history.operation


def maker(kt: Any) -> Any:
    """`(operation, number of its output)` that a symbolic tensor is."""
    history = kt._keras_history
    return history.operation, history.tensor_index


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The nested structures of a functional model's inputs and outputs."""
    functional = functional_of(model)
    return functional._inputs_struct, functional._outputs_struct


def struct_of(
    function: keras.Model,
) -> dict[str, keras.KerasTensor] | keras.KerasTensor:
    """The nested structure of the outputs of a model or `keras.Function`."""
    return function._outputs_struct


@contextlib.contextmanager
def other_loop(functional: keras.Model, loop: Any) -> Iterator[Any]:
    """Within, a functional model makes its recorded calls by `loop`.

    Only the one object is concerned, and none of its layers.

    Args:
        functional: the model.
        loop: `(inputs, operation_fn) -> outputs`: `operation_fn` of an
            operation is what is to be called in its place, since it passes
            on `training`.
    """
    state, name = vars(functional), "_run_through_graph"
    before = state.get(name)
    state[name] = loop
    try:
        yield
    finally:
        del state[name]
        if before is not None:
            state[name] = before


def carry_mask(old: Any, new: Any) -> None:
    """Give a tensor the mask (of padded steps, say) of another."""
    mask = get_keras_mask(old)
    if mask is not None:
        set_keras_mask(new, mask)
