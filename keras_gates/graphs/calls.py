"""A model as data: tensors, and the calls that produce and read them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.arguments import mapped
from keras_gates.graphs.identity import IdentityDict

if TYPE_CHECKING:
    from keras_gates.graphs.opened import Opened
    from keras_gates.graphs.opened import SeeThrough
    from keras_gates.graphs.private import Node

Shape = tuple[int | None, ...]


@dataclasses.dataclass(eq=False)
class Tensor:
    """A symbolic value of one scope.

    Attributes:
        shape: with the batch axis; None for sizes that are not known.
        dtype: as Keras names it.
        producer: the call that makes it, None for an input of the model.
        consumers: the calls that read it, once for each time they do.
        put_out: whether it is an output of the model.
    """

    shape: Shape
    dtype: str
    producer: Call | None = None
    consumers: list[Call] = dataclasses.field(default_factory=list)
    put_out: bool = False

    # Each part of a graph leads to all others: one that is shown tells its
    # own name, or a traceback with values would be the whole graph.
    def __repr__(self) -> str:
        made = "" if self.producer is None else f" of {self.producer.path!r}"
        return f"<Tensor{made}: {self.dtype} {self.shape}>"


@dataclasses.dataclass(eq=False)
class Site:
    """One recorded call in one model: what the rebuild walks over.

    Attributes:
        op: the layer or operation.
        node: the call as Keras recorded it.
        name: that of `op`.
        child: the graph of a nested model.
        calls: the flat calls that this site became: one for each time the
            model around it is called.
        behind: by the number of an output, the site of a gate that the model
            does not have.
        folds: the sites before a model in TimeDistributed and after it, for
            its axis of time.
        opened: what its layer is made of, if it is seen through; `child` is
            the graph of that.
        opaque: why its layer is not seen through; "" if nobody asked.
        original: the user's layer that `op` is a copy of, in a layer that is
            seen through; else None.
    """

    op: keras.Operation
    node: Node
    name: str
    child: Graph | None = None
    calls: list[Call] = dataclasses.field(default_factory=list)
    behind: dict[int, Site] = dataclasses.field(default_factory=dict)
    folds: tuple[Site, ...] = ()
    opened: Opened | None = None
    opaque: str = ""
    original: keras.Layer | None = None

    def __repr__(self) -> str:
        return f"<Site {self.name!r}>"

    @property
    def own(self) -> keras.Operation:
        """The user's layer, or the operation."""
        return self.op if self.original is None else self.original


@dataclasses.dataclass(eq=False)
class Scope:
    """One call of a nested model: the tensors that go in and come out."""

    site: Site
    inputs: list[Tensor]
    outputs: list[Tensor] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Scope {self.site.name!r}>"


@dataclasses.dataclass(eq=False)
class Call:
    """A site in one scope, with nested models written out.

    Attributes:
        site: the `Site`.
        args: its positional arguments, with a `Tensor` where the recorded
            call has a KerasTensor.
        kwargs: its keyword arguments, likewise.
        inputs: the tensors among the arguments, in order.
        outputs: the tensors that it makes.
        path: the name of the layer, after those of the models it is in.
        scopes: the calls of models that it is in, the outermost first.
        times: it is made once for each step in the axis of time of these.
        found: the names of arguments that the record does not have: masks
            that the layer finds on its inputs at run time. They are the last
            of the `inputs`.
        op: the layer or operation.
    """

    site: Site
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    path: str
    scopes: tuple[Scope, ...] = ()
    times: tuple[Tensor, ...] = ()
    found: tuple[str, ...] = ()
    op: keras.Operation = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.op = self.site.op

    def __repr__(self) -> str:
        return f"<Call {self.path!r}>"

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

    Attributes:
        model: the Keras model.
        functional: its functional graph; the model itself, or what a
            Sequential keeps.
        sites: the recorded calls of this model, in order.
        calls: the flat calls, those of nested models included, in order.
        inputs: the tensors that go in.
        outputs: the tensors that come out.
        bounds: for a nested model, the tensors that go into each of its calls.
        groups: channels with scores, by name.
        never: layers whose channels no score can close.
        scores: by the name of a gate, scores that stand for its factors.
        loops: by a layer with units inside, such as one that reads its own
            output, the place of each among those of all groups, -1 for none;
            integers of shape `(units,)`.
        unread: by the id of a model inside that is taken for a layer, why it
            is.
        masking: the nested graphs in which a layer finds a mask.
        whole: layers that could be seen through and are kept whole, and why.
        see_through: what was asked what layers are made of; None if nothing.
    """

    model: keras.Model
    functional: keras.Model
    sites: list[Site]
    calls: list[Call] = dataclasses.field(default_factory=list)
    inputs: list[Tensor] = dataclasses.field(default_factory=list)
    outputs: list[Tensor] = dataclasses.field(default_factory=list)
    bounds: list[list[Tensor]] = dataclasses.field(default_factory=list)
    groups: dict[str, Any] = dataclasses.field(default_factory=dict)
    never: frozenset[str] = frozenset()
    scores: dict[str, NDArray[Any]] = dataclasses.field(default_factory=dict)
    loops: IdentityDict[keras.Layer, NDArray[np.intp]] = dataclasses.field(
        default_factory=IdentityDict
    )
    unread: dict[int, str] = dataclasses.field(default_factory=dict)
    masking: list[Graph] = dataclasses.field(default_factory=list)
    whole: IdentityDict[keras.Layer, str] = dataclasses.field(
        default_factory=IdentityDict
    )
    see_through: SeeThrough | None = None

    def __repr__(self) -> str:
        return f"<Graph of {self.model.name!r}: {len(self.calls)} calls>"

    def nested(self) -> list[Graph]:
        """The graphs of all models inside, each once."""
        found: dict[Graph, None] = {}
        for site in self.sites:
            if site.child is not None and site.child not in found:
                found[site.child] = None
                found.update(dict.fromkeys(site.child.nested()))
        return list(found)


def replace(graph: Graph, old: Tensor, new: Tensor) -> None:
    """Let all that reads the tensor `old` read `new`; changes the graph."""

    def swap(x: Any) -> Any:
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
