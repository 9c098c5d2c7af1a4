"""Makes a functional model of a subclassed one."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.graphs import private
from keras_gates.graphs import sampled
from keras_gates.graphs import trace
from keras_gates.graphs.functional import has_own_call
from keras_gates.graphs.functional import is_functional
from keras_gates.graphs.identity import IdentityDict
from keras_gates.graphs.names import Names
from keras_gates.graphs.opened import Opaque
from keras_gates.graphs.opened import Opened
from keras_gates.graphs.reading import read
from keras_gates.graphs.rewrite import new_copies
from keras_gates.graphs.rewrite import rewrite
from keras_gates.graphs.stand_ins import SideEffect

if TYPE_CHECKING:
    from keras_gates.graphs.private import Node


class Unfunctional(Exception):
    """A model's `call` can't be recorded on symbolic tensors."""


def flattened(model: keras.Model, example: Any) -> tuple[keras.Model, str]:
    """A functional model that computes what a subclassed model does.

    Subclassed models inside become functional ones, too, where they can.

    Args:
        model: the model; it is left as it is.
        example: the first argument of its `call`: arrays, or what describes
            them, in their structure.

    Returns:
        `(new model, what it does otherwise than the model)`, the latter ""
        if there is nothing.

    Raises:
        Unfunctional: it can't be made; the message is a clause.
    """
    shell, inputs = _copy(model), symbolic(example)
    try:
        with warnings.catch_warnings():
            # Keras warns of what is not built, before it says why.
            warnings.simplefilter("ignore")
            outputs = shell(inputs)
    except Exception as error:
        raise Unfunctional(
            f"its `call` can't be traced: {trace.told(error)}"
        ) from error
    if is_functional(shell) and not has_own_call(shell):
        return rewrite(read(shell)), ""  # a Sequential that is built by now
    node = private.calls_of(shell)[-1]
    # A call would build layers of the model that this one has built.
    built = model.built and len(model.weights) == len(shell.weights)
    source = model if built else shell
    try:
        opened = trace.trace_model(_copy(source), node)
    except SideEffect as error:
        raise Unfunctional(str(error)) from error
    except Exception as error:  # the user's code may raise anything
        raise Unfunctional(
            f"its `call` can't be traced: {trace.told(error)}"
        ) from error
    found = {
        id(old): new
        for olds, news in (
            (node.input_tensors, opened.model.inputs),
            (node.outputs, opened.model.outputs),
        )
        for old, new in zip(olds, news, strict=True)
    }
    ends = keras.tree.map_structure(lambda x: found[id(x)], (inputs, outputs))
    flat = keras.Model(*ends, name=model.name)
    private.copy_trainable(model, flat)
    flat = _inner(flat)
    if not sampled.models_agree(source, flat, inputs):
        raise Unfunctional("the layers made from it do not compute the same")
    return flat, opened.fixed


def _copy(model: keras.Model) -> keras.Model:
    try:
        return trace.copy_of(model, new_copies())
    except Exception as error:
        raise Unfunctional(
            f"it can't be copied: {trace.told(error)}"
        ) from error


def _inner(model: keras.Model) -> keras.Model:
    """The model with the subclassed models in it as functional ones."""
    graph = read(model, _Models(model))
    return rewrite(graph, parts=True) if graph.nested() else model


class _Models:
    """Sees through subclassed models that are called in one way.

    Args:
        model: the model that they are in.
    """

    def __init__(self, model: keras.Model) -> None:
        self._found: IdentityDict[keras.Model, Opened | None] = IdentityDict()
        self._ways: IdentityDict[keras.Model, set[str]] = IdentityDict()
        self._note(model)

    def _note(self, model: keras.Model) -> None:
        """Note how those in a functional model are called."""
        for node in private.nodes_of(model):
            if isinstance(node.operation, keras.Model):
                ways = self._ways.setdefault(node.operation, set())
                ways.add(trace.way(node))

    def __call__(self, node: Node, owned: bool) -> Opened | Opaque | None:
        op = node.operation
        if not isinstance(op, keras.Model) or is_functional(op):
            return None
        if op not in self._found:
            one = len(self._ways[op]) == 1 and not has_own_call(op)
            found = trace.trace(node, new_copies(), owned=True) if one else None
            plain = found if isinstance(found, Opened) else None
            self._found[op] = plain if plain and not plain.fixed else None
            if plain:
                self._note(plain.model)
        return self._found[op]


# Inputs --------------------------------------------------------------------


def symbolic(example: Any) -> Any:
    """The inputs of a model that takes arrays like an example.

    Args:
        example: arrays, symbolic tensors or `keras.InputSpec`s, nested.

    Raises:
        Unfunctional: something in it is none of these.
    """
    names = Names()
    made = [
        _input(x, names, ["input", *map(str, path)][-1])
        for path, x in keras.tree.flatten_with_path(example)
    ]
    return keras.tree.pack_sequence_as(example, made)


def _input(x: Any, names: Names, key: str) -> keras.KerasTensor:
    """One input; its name is the key of a dict, or its number in a list."""
    if key.isdecimal():
        key = f"input_{key}"
    if isinstance(x, keras.KerasTensor):
        shape, dtype = tuple(x.shape), x.dtype
    elif isinstance(x, keras.InputSpec) and x.shape is not None:
        shape, dtype = tuple(x.shape), x.dtype or keras.config.floatx()
    elif getattr(x, "shape", None) and hasattr(x, "dtype"):
        tensor = keras.ops.convert_to_tensor(x)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        # As `fit` and `predict` take arrays of NumPy.
        dtype = keras.config.floatx() if dtype == "float64" else dtype
        shape = (None, *tensor.shape[1:])
    else:
        raise Unfunctional(
            "`inputs` must hold arrays with an axis of samples, "
            "`keras.Input`s, or `keras.InputSpec`s, such as "
            f"keras.Input((8,)) for vectors of 8. Received: {x!r}"
        )
    return keras.Input(batch_shape=shape, dtype=dtype, name=names.free(key))
