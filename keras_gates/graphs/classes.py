"""Keeps the class and the attributes of a user's model.

A functional model may have a custom class, with its own `train_step` or
`compute_loss`. A new model has the same class if its constructor takes inputs
and outputs like `keras.Model` (or layers, like `keras.Sequential`). The
constructor is not run again, since it may need more arguments. The attributes
of the model are copied instead, with the new layers in place of the old ones.
"""

from __future__ import annotations

import dis
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import create
from keras_gates.graphs import forgotten
from keras_gates.graphs import origins
from keras_gates.graphs import private
from keras_gates.graphs.functional import has_own_call
from keras_gates.graphs.twins import Twins
from keras_gates.graphs.twins import Uncopied

if TYPE_CHECKING:
    from keras_gates.graphs.calls import Graph

_OF_GRAPHS = ("inputs", "outputs")
# What says something of this very model, and not of one made of it.
_OF_ONE_MODEL = {"repair_report", origins.NAME}
_OF_CHAINS = ("layers",)


def functional(
    old: keras.Model, inputs: Any, outputs: Any, name: str
) -> keras.Model:
    """A functional model of the class of `old`, if it can be."""
    if isinstance(old, keras.Sequential) or not _is_kept(old, _OF_GRAPHS):
        new = keras.Model(inputs, outputs, name=name)
        if is_made_otherwise(old):
            origins.remember(old, new)
        else:
            origins.hand_on(old, new)
        return new
    new = keras.Model.__new__(type(old))
    private.init_functional(new, inputs, outputs, name)
    return new


def sequential(
    old: keras.Model, layers: list[keras.Layer], name: str
) -> keras.Model:
    """A Sequential model of the class of `old`, if it can be."""
    if not _is_kept(old, _OF_CHAINS):
        return keras.Sequential(layers, name=name)
    new = keras.Sequential.__new__(type(old))
    keras.Sequential.__init__(new, layers, name=name)
    return new


def is_made_otherwise(old: keras.Model) -> bool:
    """Whether a model is of a class that takes no inputs and outputs.

    Its constructor makes the layers, from arguments of its own.
    """
    stock = create.is_of(type(old), keras.__name__)
    own = isinstance(old, keras.Sequential) or stock or has_own_call(old)
    return not own and not _is_kept(old, _OF_GRAPHS)


def set_otherwise(old: keras.Model, base: keras.Model) -> list[str]:
    """The attributes of a model that one from its config has otherwise.

    What `compile` sets does not count: what is made of a model is not compiled.
    """
    held, got = forgotten.attributes(old), forgotten.attributes(base)
    books = private.OF_TRAINING | _private(type(old), public=True)
    names = (held.keys() & got) - books - _set_by_compile(type(old))
    return sorted(n for n in names if not forgotten.same(held[n], got[n]))


def carry_beside(old: keras.Model, new: keras.Model) -> None:
    """Give a model the layers that the old one holds and does not call.

    They have no weights: they prepare data, say, and hold a vocabulary that no
    config tells. Where one can't be copied, both models hold it.
    """
    calls = {id(node.operation) for node in private.nodes_of(old)}
    calls |= {id(x) for x in old.layers}
    for name, value in private.attributes_of(old).items():
        beside = isinstance(value, keras.Layer) and id(value) not in calls
        if beside and not value.weights and name not in private.common_names():
            try:
                kept = Twins(None).twin(value)
            except Uncopied:
                kept = value
            setattr(new, name, kept)


def carry(graph: Graph, new: keras.Model, twins: Callable[[], Twins]) -> None:
    """Copy the attributes of the old model; warn about those that can't be.

    Args:
        graph: the `Graph` of the old model.
        new: the model that was made of it.
        twins: makes `Twins` that know the new layers.

    Raises:
        ValueError: the class is lost, and the model computes what its class
            says instead of its graph.
    """
    old = graph.model
    if type(new) is not type(old) and has_own_call(old):
        raise ValueError(
            f"Model '{old.name}' computes the `call` of its class "
            f"{type(old).__name__}, and the new model can't have that class: "
            f"{_why(old)} Use the functional API for everything that the "
            "model computes, or a custom layer."
        )
    held, got = private.attributes_of(old), private.attributes_of(new)
    names = {n for n in held.keys() - got if not private.is_of_tensorflow(n)}
    names -= private.OF_TRAINING | _OF_ONE_MODEL | _private(type(old))
    lost = _carry(graph, new, twins(), sorted(names)) if names else []
    stock = create.is_of(type(old), keras.__name__)
    if not stock and type(new) is not type(old):
        told = f"is not of the class {type(old).__name__}: {_why(old)}"
        _warn(new, told, [*_overridden(type(old)), *lost])
    elif lost:
        _warn(new, "lacks what can't be copied.", lost)


def _private(cls: type[Any], public: bool = False) -> set[str]:
    """The private names in the code of Keras' own classes, or all names.

    Its trainers keep books that differ by backend and version.
    """
    stock = [c for c in cls.__mro__ if create.is_of(c, keras.__name__)]
    return set().union(*(private.names_in_methods(c, public) for c in stock))


def _set_by_compile(cls: type[Any]) -> set[str]:
    """The attributes that `compile` of a user's class sets."""
    own = [c for c in cls.__mro__ if not create.is_of(c, keras.__name__)]
    methods = [vars(c)["compile"] for c in own if "compile" in vars(c)]
    codes = [getattr(inspect.unwrap(m), "__code__", None) for m in methods]
    return {
        step.argval
        for code in codes
        if code is not None
        for step in dis.get_instructions(code)
        if step.opname == "STORE_ATTR"
    }


def _carry(
    graph: Graph, new: keras.Model, twins: Twins, names: list[str]
) -> list[str]:
    """Set attributes; what can't be, as texts."""
    twins.note_layer(graph.model, new)
    held, lost = private.attributes_of(graph.model), []
    for name in names:
        try:
            setattr(new, name, twins.of_new(held[name], _layers(graph)))
        except Uncopied as error:
            lost.append(f"`{name}` ({error})")
    return lost


def _is_kept(old: keras.Model, names: tuple[str, ...]) -> bool:
    """Whether the class makes models of what `keras.Model` makes them of."""
    if create.is_of(type(old), keras.__name__):
        return False
    init = type(old).__init__
    if create.is_of(init, keras.__name__):
        return True
    parameters = list(inspect.signature(init).parameters.values())[1:]
    first = parameters[: len(names)]
    if first and first[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return True
    return tuple(p.name for p in first) == names


def _why(old: keras.Model) -> str:
    chain = isinstance(old, keras.Sequential)
    names = _OF_CHAINS if chain else _OF_GRAPHS
    if chain and _is_kept(old, names):
        return "what is left is not a chain of layers."
    wanted = ", ".join(names)
    return f"its constructor does not take ({wanted}) first."


def _overridden(cls: type[Any]) -> list[str]:
    """The methods that a class adds to those of Keras."""
    own = [c for c in cls.__mro__ if not create.is_of(c, keras.__name__)]
    own = [c for c in own if issubclass(c, keras.Model)]
    names = {name for c in own for name in vars(c)}
    return [f"`{n}`" for n in sorted(names) if not n.startswith("_")]


def _warn(new: keras.Model, told: str, lost: list[str]) -> None:
    lacks = ", ".join(lost) or "nothing that it has of its own"
    warnings.warn(
        f"The new model '{new.name}' {told} It lacks: {lacks}.",
        UserWarning,
        stacklevel=2,
    )


def _layers(graph: Graph) -> list[keras.Operation]:
    """The layers and models of a graph, and those inside its models."""
    graphs = [graph, *graph.nested()]
    return [graph.model, *(s.op for g in graphs for s in g.sites)]
