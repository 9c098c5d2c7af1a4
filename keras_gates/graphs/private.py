"""Every assumption about Keras that its documentation does not guarantee.

Each function here relies on one thing inside Keras, and says on which after
"Assumes". Nothing else in the package reads a private attribute of Keras or
imports `keras.src`. `tests/keras_internals` has a test for each name: where a
new Keras breaks an assumption, the test that fails leads to the line to mend.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import types
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import keras
from keras.src.activations import activations as _activations
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.masking import set_keras_mask
from keras.src.backend.common.variables import AutocastScope
from keras.src.layers import layer as _layer_module
from keras.src.layers.layer import CallContext
from keras.src.models.functional import Functional
from keras.src.ops.node import Node as _Node
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils.tracking import Tracker

_OPERATIONS = "keras.src.ops"

# Classes -------------------------------------------------------------------

# Assumes: layers, models, metrics and optimizers derive from it.
SAVEABLE: type[Any] = KerasSaveable
# Assumes: what finds the variables and layers among the attributes of a layer
# is one of these.
TRACKER: type[Any] = Tracker


def layer_class(path: str) -> type[Any] | None:
    """A class of layers that `keras.layers` lacks, such as "layers.core.X.X".

    Assumes: it is where `path` says, below `keras.src`; None if it is not.
    """
    module, _, cls = path.rpartition(".")
    try:
        found = importlib.import_module(f"keras.src.{module}")
    except ModuleNotFoundError:
        return None
    return getattr(found, cls, None)


def operation(name: str) -> type[Any] | None:
    """The class of an operation of `keras.ops`, such as "numpy.Add".

    Assumes: it is in the module `keras.src.ops.numpy`, that of an activation
    which is no such operation in "activations"; None if it is not.
    """
    module, _, cls = name.rpartition(".")
    if module == _activations.__name__.rpartition(".")[2]:
        return getattr(_activations, cls, None)
    found = importlib.import_module(f"{_OPERATIONS}.{module}")
    return getattr(found, cls, None)


def operation_of(function: Callable[..., Any] | None) -> type[Any] | None:
    """The class of a function of `keras.ops`, by identity, or None.

    Assumes: it is named after the function: `log_softmax` and `LogSoftmax`.
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


def returns_its_input(op: keras.Operation) -> bool:
    """Whether an operation may return the very tensor that it is given.

    Assumes: on some backend, those of these names do, and no others, but for
    what changes nothing: on JAX, `transpose` by the identity and
    `concatenate` of one tensor do too, on TensorFlow `swapaxes` of an axis
    with itself.
    """
    return type(op).__name__ in _RETURNING


_RETURNING = frozenset(
    (
        *("Cast", "Reshape", "BroadcastTo", "StopGradient", "Squeeze"),
        *("Real", "Conj", "Conjugate", "Array", "ConvertToTensor"),
    )
)


def names_in_methods(cls: type[Any], public: bool = False) -> set[str]:
    """The private names in the code of the methods of a class.

    Assumes: the private attributes that Keras' classes keep books in are named
    there.

    Args:
        cls: the class.
        public: whether other names are wanted, too.
    """
    functions = [f for f in vars(cls).values() if inspect.isfunction(f)]
    names = {name for f in functions for name in f.__code__.co_names}
    return {name for name in names if public or name.startswith("_")}


# The record of a functional model ------------------------------------------


class _Arguments(Protocol):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Node(Protocol):
    """One recorded call, as Keras keeps it.

    Assumes: a node has these attributes; `arguments` holds the call's
    arguments as they were given.
    """

    operation: keras.Operation
    arguments: _Arguments
    input_tensors: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    is_input: bool


def graph_of(model: Any) -> keras.Model | None:
    """The functional graph of a model, or None where there is none.

    Assumes: a built Sequential keeps it in `_functional`.
    """
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, Functional) else None


def runs_its_graph(model: keras.Model) -> bool:
    """Whether the `call` of a functional model is the one of Keras.

    Assumes: these two methods make the recorded calls, and do nothing else.
    """
    return type(model).call in (Functional.call, keras.Sequential.call)


def nodes_of(function: keras.Model) -> list[Node]:
    """The recorded calls of a functional model or `keras.Function`, in order.

    Assumes: `_nodes_by_depth` holds them by their distance from the outputs,
    and Keras makes them by this order.
    """
    by_depth = function._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if node.operation is not None and not node.is_input
    ]


def structures_of(function: keras.Model) -> tuple[Any, Any]:
    """The nested structures of the inputs and outputs of a functional model.

    Assumes: `_inputs_struct` and `_outputs_struct` of the model, or of a
    `keras.Function`, are what it was made of.
    """
    return function._inputs_struct, function._outputs_struct


def origin_of(kt: keras.KerasTensor) -> tuple[keras.Operation, int, int]:
    """`(operation, number of its call, number of its output)` of a tensor.

    Assumes: `_keras_history` holds these three, in this order.
    """
    history = kt._keras_history
    return history.operation, history.node_index, history.tensor_index


def calls_of(op: keras.Operation) -> list[Node]:
    """All recorded calls of a layer or operation, in any model.

    Assumes: `_inbound_nodes` holds them in the order in which they were made.
    """
    return list(getattr(op, "_inbound_nodes", ()))


def record(
    layer: keras.Layer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: keras.KerasTensor,
) -> None:
    """Note a call of a built layer in the graph of `output`.

    Assumes: of a symbolic call of a built layer, a new `Node` and the flag
    `_called` are all that is left.
    """
    layer._called = True
    _Node(layer, args, kwargs, output)


def building(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which `layer.build` gives variables their paths.

    Assumes: a symbolic call opens it by `_open_name_scope`.
    """
    scope: contextlib.AbstractContextManager[Any] = layer._open_name_scope()
    return scope


def mark_called(model: keras.Model) -> None:
    """Let a functional model that never ran be exported to ONNX.

    Assumes: the export asks for `_called`, and a call would tell it nothing
    more about a functional model.
    """
    model._called = True


@contextlib.contextmanager
def other_loop(
    functional: keras.Model, loop: Callable[[Any, Callable[..., Any]], Any]
) -> Iterator[None]:
    """Within, a functional model makes its recorded calls by `loop`.

    Assumes: `call` runs `self._run_through_graph(inputs, operation_fn)`.

    Args:
        functional: the model; its layers are not concerned.
        loop: `(inputs, operation_fn) -> outputs`: `operation_fn` of an
            operation is what is to be called in its place, since it passes
            on `training`.
    """
    with _set_on(functional, "_run_through_graph", loop):
        yield


def init_functional(
    model: keras.Model, inputs: Any, outputs: Any, name: str
) -> None:
    """Make a functional model of an object whose constructor never ran.

    Assumes: where the class has made such a model before, which has put
    `Functional` among its bases, nothing but `Functional.__init__` is needed.
    """
    Functional.__init__(model, inputs, outputs, name=name)


# Masks of time steps -------------------------------------------------------


def mask_of(x: Any) -> Any:
    """The mask that a tensor carries, symbolic or not, or None.

    Assumes: Keras notes it with the tensor, as `_keras_mask`.
    """
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Let a tensor carry a mask.

    Assumes: as `mask_of`.
    """
    set_keras_mask(x, mask)


def hands_mask_on(layer: keras.Layer) -> bool:
    """Whether a layer that supports masks passes on the one that it gets.

    Assumes: Keras marks its own `Layer.compute_mask` with `_is_default`.
    """
    return bool(getattr(layer.compute_mask, "_is_default", False))


def merges_masks(layer: keras.Layer) -> bool:
    """Whether a layer makes one mask of those of its inputs, as `Add` does.

    Assumes: those that do inherit `compute_mask` from the base of `Add`.
    """
    return bool(
        type(layer).compute_mask is keras.layers.Add.__mro__[1].compute_mask
    )


def mask_arguments(names: list[str]) -> list[str]:
    """The arguments into which Keras puts the masks of tensors.

    Assumes: it is "mask" if one argument holds tensors; if several do, each
    has its own, such as "query_mask".

    Args:
        names: the arguments of a layer's `call` that hold tensors.
    """
    return ["mask"] if len(names) == 1 else [f"{name}_mask" for name in names]


# Layers as objects ---------------------------------------------------------


def attributes_of(op: keras.Operation) -> dict[str, Any]:
    """The attributes of a layer or operation by name.

    Assumes: they are in its `__dict__`; those that are layers, on torch, in
    `_modules`.
    """
    return {**vars(op), **vars(op).get("_modules", {})}


def sublayers(op: Any, own: bool = False) -> list[keras.Layer]:
    """All layers inside a layer, at any depth; none for an operation.

    Assumes: `_flatten_layers` walks to those in nested and subclassed models,
    as `model.layers` does not.

    Args:
        op: the layer.
        own: whether the layer itself comes first.
    """
    if not isinstance(op, keras.Layer):
        return []
    return list(op._flatten_layers(include_self=own))


def has_sublayers(op: keras.Operation) -> bool:
    """Whether a layer holds layers of its own.

    Assumes: `_layers` lists them.
    """
    return isinstance(op, keras.Layer) and bool(op._layers)


def rename(op: keras.Operation, name: str) -> None:
    """Give a layer or operation another name, before it is called.

    Assumes: it is the attribute `name`, which the config tells; where Keras
    records the arguments of the constructor, it may be among them.
    """
    op.name = name
    auto = getattr(op, "_auto_config", None)
    if auto is not None and "name" in auto.config:
        auto.config["name"] = name


def copy_trainable(old: keras.Model, new: keras.Model) -> None:
    """Give a model the flag of another, leaving its layers' own alone.

    Assumes: `_trainable` is the model's own flag, and setting `trainable`
    sets those of its layers too.
    """
    new._trainable = old._trainable


def recorded_config(op: keras.Operation) -> dict[str, Any] | None:
    """The arguments of the constructor, which Keras records, or None.

    Assumes: `_auto_config.config` holds them.
    """
    auto = getattr(op, "_auto_config", None)
    return None if auto is None else dict(auto.config)


def lambda_shape_of(layer: keras.layers.Lambda) -> Any:
    """The argument `output_shape` of a Lambda layer.

    Assumes: it is kept as `_output_shape`, and the other arguments as they
    are called.
    """
    return layer._output_shape


def attention_projection(layer: keras.Layer, name: str) -> keras.Layer | None:
    """The projection of the query, key, value or output of attention.

    Assumes: it is a layer that is called `_query_dense`, and so on.
    """
    return getattr(layer, f"_{name}_dense", None)


@contextlib.contextmanager
def overheard(
    layer: keras.Layer, hear: Callable[[Any, Any], None]
) -> Iterator[None]:
    """Within, `hear` is told what a layer is called on, and what it returns.

    Assumes: a call of a layer asks the instance for `call`.

    Args:
        layer: a layer of one argument.
        hear: `(inputs, outputs) -> None`.
    """
    call = layer.call

    def told(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, *args, **kwargs)
        hear(inputs, outputs)
        return outputs

    with _set_on(layer, "call", told):
        yield


def rebuild_at_init(layer: keras.Layer) -> None:
    """Build a layer as its constructor does, where it needs no shape.

    Assumes: the constructor calls `_build_at_init` at its end, if at all. The
    lowest Keras lacks it.
    """
    layer._build_at_init()


@contextlib.contextmanager
def known_output(op: keras.Operation, output: Any) -> Iterator[None]:
    """Within, a symbolic call of `op` gives `output`; no backend traces it.

    Assumes: a symbolic call asks the instance's `compute_output_spec` for its
    output, and nothing else.
    """
    with _set_on(op, "compute_output_spec", lambda *a, **k: output):
        yield


@contextlib.contextmanager
def added_by(
    layer: keras.Layer, add: Callable[..., keras.Variable]
) -> Iterator[None]:
    """Within, `build` makes the weights of a layer by `add`.

    Assumes: `build` calls the instance's `add_weight`, whose first arguments
    are `shape`, `initializer` and `dtype`.

    Args:
        layer: the layer.
        add: is called in place of `add_weight`, with all arguments by
            name; where they can't be named, Keras' own method is.
    """

    def add_weight(*args: Any, **kwargs: Any) -> keras.Variable:
        named = dict(zip(("shape", "initializer", "dtype"), args, strict=False))
        if len(named) < len(args) or named.keys() & kwargs.keys():
            return type(layer).add_weight(layer, *args, **kwargs)
        return add(**named, **kwargs)

    with _set_on(layer, "add_weight", add_weight):
        yield


@contextlib.contextmanager
def _set_on(op: Any, name: str, value: Any) -> Iterator[None]:
    """Within, an attribute of the instance, past what tracks it."""
    state, unset = vars(op), object()
    before = state.get(name, unset)
    state[name] = value
    try:
        yield
    finally:
        state.pop(name, None)
        if before is not unset:
            state[name] = before


# Looking into a layer ------------------------------------------------------


class Watch(keras.StatelessScope):
    """Within, what is done to variables and losses is noted, and not done.

    Assumes: `Variable.value` asks the innermost scope by
    `get_current_value`, `Variable.assign` tells it by `add_update`, and
    `add_loss` of a layer by `add_loss`; symbolic calls of layers and
    operations open a scope of their own.

    Attributes:
        read: the variables whose values were asked for.
        updated: those that were assigned.
    """

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.read: list[keras.Variable] = []
        self.updated: list[keras.Variable] = []

    def get_current_value(self, variable: keras.Variable) -> Any:
        self.read.append(variable)
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        self.updated.append(update[0])
        super().add_update(update)


def watching() -> Watch:
    """A `Watch`, for a `with` statement.

    Assumes: whoever reads a variable asks for its `value`.
    """
    return Watch()


def read_dtype(layer: keras.Layer, variable: keras.Variable) -> str:
    """The type in which the `call` of a layer reads a variable of its own.

    Assumes: it is the compute type of the layer, if both are of floats and
    neither says otherwise.
    """
    floats = map(
        keras.backend.is_float_dtype, (variable.dtype, layer.compute_dtype)
    )
    casts = layer.autocast and autocasts(variable) and all(floats)
    return str(layer.compute_dtype if casts else variable.dtype)


def computing(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """The scope in which Keras runs the `call` of a layer.

    Assumes: it is an `AutocastScope` of its compute type, where layers
    autocast.
    """
    floats = keras.backend.is_float_dtype(layer.compute_dtype)
    casts = layer.autocast and floats
    dtype = layer.compute_dtype if casts else None
    scope: contextlib.AbstractContextManager[Any] = AutocastScope(dtype)
    return scope


def input_conversion(layer: keras.Layer) -> Callable[[Any], Any]:
    """What Keras does to each argument of a layer before its `call`.

    Assumes: it converts arrays and casts floats by the policy of the layer,
    unless `_convert_input_args` is unset.
    """

    def convert(x: Any) -> Any:
        if not layer._convert_input_args or not hasattr(x, "dtype"):
            return x
        mask = get_keras_mask(x)
        y = layer.dtype_policy.convert_input(
            x, layer.autocast, layer.input_dtype
        )
        if mask is not None and y is not x:
            set_keras_mask(y, mask)
        return y

    return convert


def takes_training(layer: keras.Layer) -> bool:
    """Whether the `call` of a layer is told of training.

    Assumes: `_call_has_training_arg` says so.
    """
    return bool(getattr(layer, "_call_has_training_arg", False))


@contextlib.contextmanager
def told(training: bool | None) -> Iterator[None]:
    """Within, layers that are called hear that the layer around them trains.

    Assumes: what the outermost call was told is in the `CallContext` that is
    the global attribute "current_call_ctx".
    """
    name = "current_call_ctx"
    before = global_state.get_global_attribute(name)
    context = CallContext(entry_layer=None)
    context.training = training
    global_state.set_global_attribute(name, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


def default_of_training(layer: keras.Layer) -> Any:
    """Whether the `call` of a layer trains if it is not told.

    Assumes: Keras takes the default of the argument `training`.
    """
    parameter = inspect.signature(layer.call).parameters.get("training")
    default = None if parameter is None else parameter.default
    return None if default is inspect.Parameter.empty else default


@functools.cache
def operation_names() -> frozenset[str]:
    """The names of what each operation holds, whatever its class.

    Assumes: an operation without arguments holds no more than that.
    """
    return frozenset(vars(keras.Operation()))


# Assumes: Keras makes the `Node` of a layer's call in the module of `Layer`.
# The lowest does not, and then nothing is recorded that it refuses.
RECORDS_ANY_CALL = hasattr(_layer_module, "Node")


@contextlib.contextmanager
def any_call_recorded(
    inlined: Sequence[keras.Layer] = (),
    failed: list[keras.Layer] | None = None,
) -> Iterator[list[keras.Layer]]:
    """Within, layers are called on symbolic tensors that refuse it otherwise.

    What returns None among its outputs is recorded without, and what says
    nothing, or an error, of the outputs of a call is run to know them.

    Assumes: a symbolic call of a layer asks its `symbolic_call` for them,
    which makes its `Node` as the module of `Layer` knows it;
    `compute_output_spec` of the backend runs a function on tensors without
    values.

    Args:
        inlined: layers whose calls are not recorded, but what they call.
        failed: gets the layers that can't be called so either.

    Yields:
        The layers that Keras itself would have refused to call.
    """
    refused: list[keras.Layer] = []
    if not RECORDS_ANY_CALL:
        yield refused
        return
    ask = keras.Layer.symbolic_call

    def symbolic_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if any(layer is each for each in inlined):
            return layer.call(*args, **kwargs)
        try:
            return ask(layer, *args, **kwargs)
        except Exception:
            pass
        try:
            found = _specification(layer, args, kwargs)
        except Exception:
            if failed is not None:
                failed.append(layer)
            raise
        refused.append(layer)
        return found

    def node(operation: Any, outputs: Any = None, **kwargs: Any) -> Any:
        if any(operation is each for each in inlined):
            return None
        flat = keras.tree.flatten(outputs)
        tensors = [x for x in flat if x is not None]
        if len(tensors) < len(flat):
            refused.append(operation)
        return _Node(operation=operation, outputs=tensors, **kwargs)

    with contextlib.ExitStack() as stack:
        for holder, name, value in (
            (keras.Layer, "symbolic_call", symbolic_call),
            (_layer_module, "Node", node),
        ):
            stack.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, value)
        yield refused


@contextlib.contextmanager
def symbolic_call_set(
    cls: type[Any], call: Callable[..., Any]
) -> Iterator[None]:
    """Within, what an operation of a class does with symbolic tensors.

    Assumes: a call of it on those is one of its `symbolic_call`.
    """
    own = vars(cls).get("symbolic_call")
    cls.symbolic_call = call
    try:
        yield
    finally:
        if own is None:
            del cls.symbolic_call
        else:
            cls.symbolic_call = own


class _Passing:
    """A module of Keras whose conversion lets symbolic tensors pass."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def convert_to_tensor(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, keras.KerasTensor):
            return x
        return self._module.convert_to_tensor(x, *args, **kwargs)


@contextlib.contextmanager
def any_activation_recorded() -> Iterator[None]:
    """Within, functions of `keras.activations` are recorded, whichever it is.

    Assumes: those that refuse symbolic tensors convert them first, by the
    `backend` of their module; `mish` asks its class then.
    """
    mish: Any = getattr(_activations, "Mish", None)
    with contextlib.ExitStack() as stack:
        backend = _activations.backend
        stack.callback(setattr, _activations, "backend", backend)
        _activations.backend = _Passing(backend)
        if mish is not None:
            direct = mish.static_call
            stack.callback(setattr, mish, "static_call", staticmethod(direct))
            mish.static_call = staticmethod(
                lambda x: (
                    mish()(x) if isinstance(x, keras.KerasTensor) else direct(x)
                )
            )
        yield


@contextlib.contextmanager
def any_key_recorded() -> Iterator[None]:
    """Within, `x[None]` and `x[:2]` are recorded for symbolic tensors.

    Assumes: Keras records such a key where it is in a tuple, as `x[None,]`.
    """
    take = keras.KerasTensor.__getitem__

    def recorded(self: Any, key: Any) -> Any:
        if isinstance(key, (slice, type(None), type(Ellipsis))):
            key = (key,)
        return take(self, key)

    keras.KerasTensor.__getitem__ = recorded
    try:
        yield
    finally:
        keras.KerasTensor.__getitem__ = take


def _specification(
    layer: keras.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The outputs of a symbolic call, by running it; None stays None."""
    made: list[Any] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        made[:] = [layer.call(*args, **kwargs)]
        return [x for x in keras.tree.flatten(made) if x is not None]

    tensors = iter(compute_output_spec(call, *args, **kwargs))
    (found,) = keras.tree.map_structure(
        lambda x: None if x is None else next(tensors), made
    )
    return found


@contextlib.contextmanager
def attributes_set(op: Any, values: dict[str, Any]) -> Iterator[None]:
    """Within, attributes of the instance, past what tracks them.

    Assumes: they are in its `__dict__`.
    """
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(_set_on(op, name, value))
        yield


@contextlib.contextmanager
def attributes_kept(op: Any) -> Iterator[None]:
    """After it, the instance has the attributes that it had before.

    Assumes: as `attributes_set`.
    """
    state = vars(op)
    before = dict(state)
    try:
        yield
    finally:
        for name in state.keys() - before.keys():
            del state[name]
        state.update(before)


def recorded_before(
    outputs: list[keras.KerasTensor], inputs: list[keras.KerasTensor]
) -> list[Node]:
    """The recorded calls between symbolic tensors, in an order to run them.

    Assumes: as `origin_of` and `calls_of`; what comes of no call has no
    operation there.

    Args:
        outputs: what comes out.
        inputs: where to stop.
    """
    ends = {id(x) for x in inputs}
    order: list[Node] = []
    seen: set[int] = set()
    pending = [(node, False) for kt in outputs for node in _made_by(kt, ends)]
    pending.reverse()
    while pending:
        node, done = pending.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            pending.append((node, True))
            before = [n for x in node.input_tensors for n in _made_by(x, ends)]
            pending += [(n, False) for n in reversed(before)]
    return order


def _made_by(kt: keras.KerasTensor, ends: set[int]) -> list[Node]:
    if id(kt) in ends or not hasattr(kt, "_keras_history"):
        return []
    op, number, _ = origin_of(kt)
    if op is None:
        return []
    node = op._inbound_nodes[number]
    return [] if node.is_input else [node]


def made_of(kt: keras.KerasTensor) -> list[keras.KerasTensor]:
    """What the call reads whose output a symbolic tensor is.

    Assumes: as `recorded_before`.
    """
    return [x for node in _made_by(kt, set()) for x in node.input_tensors]


def readers_of(
    outputs: list[keras.KerasTensor],
) -> dict[int, list[Node | None]]:
    """By the id of a symbolic tensor, the recorded calls that read it.

    Once for each time they do; None for an output. Assumes: as
    `recorded_before`.
    """
    found: dict[int, list[Node | None]] = {id(kt): [None] for kt in outputs}
    for node in recorded_before(outputs, []):
        for kt in node.input_tensors:
            found.setdefault(id(kt), []).append(node)
    return found


# What a layer holds, by name -----------------------------------------------

# Assumes: the arguments of its constructor, which each layer keeps.
AUTO_CONFIG = "_auto_config"
# Assumes: a key of a layer's config is the name of an attribute; these two are
# kept under another.
KEPT_AS = {"trainable": "_trainable", "dtype": "_dtype_policy"}
# Assumes: these are all that a layer holds of the models that it is called in,
# and of its last call.
OF_CALLS = frozenset(
    (
        *("_inbound_nodes", "_outbound_nodes"),
        *("_losses", "_loss_ids", "_losses_override"),
    )
)
# Assumes: on TensorFlow, a layer notes the names of what is set in these.
OF_SETTING = frozenset(("_tracked",))
# Assumes: wrappers and recurrent layers hold the layer that does the work under
# one of these.
INNER_LAYERS = ("layer", "cell", "forward_layer", "backward_layer")
# Assumes: a functional model notes its graph in these, by the ids of layers.
OF_GRAPHS = frozenset(("_nodes", "_nodes_by_depth", "_operations_by_depth"))
# Assumes: of what every layer holds, these bear on its function.
OF_FUNCTION = frozenset(
    (
        *("_dtype_policy", "activity_regularizer", "autocast"),
        *("_supports_masking", "_convert_input_args", "supports_jit"),
        *("_allow_non_tensor_positional_args", "_remat_mode"),
    )
)
# Assumes: these are what `compile` and `fit` leave on a model.
OF_FIT = frozenset(
    (
        *("_compile_config", "_compiled_trainable_state", "optimizer"),
        *("history", "stop_training", "stop_evaluating", "stop_predicting"),
        *("_jax_state", "_eval_epoch_iterator"),
    )
)
# Assumes: with these, which torch and a Sequential add.
OF_TRAINING = OF_FIT | {"_functional", "_torch_params", "_modules"}
# Assumes: beside its value, shape and type, a variable has these.
OF_VARIABLES = ("_path", "_regularizer", "_constraint")
# Assumes: torch keeps a layer's parameters and layers in these.
OF_TORCH = frozenset(("_torch_params", "_modules"))


@functools.cache
def common_names() -> frozenset[str]:
    """The names of what each layer holds, whatever its class.

    Assumes: a layer without arguments holds no more than that.
    """
    # A bare `Layer` draws no seed: this is made once, whenever that is.
    return frozenset(vars(keras.Layer()))


def is_of_tensorflow(name: str) -> bool:
    """Whether TensorFlow keeps books under this name, on its backend.

    Assumes: all such names begin with `_self_`.
    """
    return name.startswith("_self_")


def unwrapped(value: Any) -> Any:
    """A container without the proxy that TensorFlow puts it in.

    Assumes: the proxy claims the class of what it holds as `__wrapped__`.
    """
    if type(value) is value.__class__:
        return value
    return getattr(value, "__wrapped__", value)


# Trackers ------------------------------------------------------------------


def tracker_of(layer: keras.Layer) -> Any:
    """What finds the variables and layers among a layer's attributes.

    Assumes: it is in `_tracker`.
    """
    return vars(layer)["_tracker"]


def stores_of(tracker: Any) -> dict[str, list[Any]]:
    """The lists into which a tracker puts what it finds, by kind.

    Assumes: `config` is `{kind: (test, list)}`.
    """
    return {kind: store for kind, (_, store) in tracker.config.items()}


def start_tracking(new: keras.Layer, like: keras.Layer) -> Any:
    """Give a layer that holds nothing yet a tracker; returns that.

    Assumes: a tracker is made of `config`, with lists of its own, and
    `exclusions`, which is `{kind: kinds}`.
    """
    old = tracker_of(like)
    config: dict[str, tuple[Any, list[Any]]] = {
        kind: (test, []) for kind, (test, _) in old.config.items()
    }
    exclusions = {k: list(kinds) for k, kinds in old.exclusions.items()}
    tracker = vars(new)["_tracker"] = type(old)(config, exclusions)
    return tracker


def tracker_state(tracker: Any) -> dict[str, Any]:
    """What a tracker holds, but for what `set_found` sets.

    Assumes: nothing else in it goes by the id of an object.
    """
    return {k: v for k, v in vars(tracker).items() if k != "stored_ids"}


def set_found(tracker: Any, found: dict[str, list[Any]]) -> None:
    """Let a tracker know what it has found, by kind.

    Assumes: `stored_ids` is `{kind: ids of what is in the list}`.
    """
    ids = {kind: {id(x) for x in store} for kind, store in found.items()}
    vars(tracker)["stored_ids"] = ids


def container_tracker(value: Any) -> Any:
    """The tracker of a list, dict or set that a layer holds, or None.

    Assumes: it is in the container's `tracker`.
    """
    return getattr(value, "tracker", None)


def tracked(kind: type[Any], values: Any, tracker: Any) -> Any:
    """A container of Keras with values; `tracker` sees what is put in later.

    Assumes: such a container is made of these two.
    """
    return kind(values, tracker)


def state_of(op: keras.Operation) -> dict[str, Any]:
    """What an operation holds, but for what `find_parameters` sets.

    Assumes: on torch, the parameters are `_torch_params` in `_modules`.
    """
    state = dict(vars(op))
    if _holds_parameters(op):
        parts = state["_modules"].items()
        state["_modules"] = {k: v for k, v in parts if k != "_torch_params"}
    return state


def find_parameters(old: keras.Operation, new: keras.Operation) -> None:
    """Let the torch module that a layer is find its parameters, as `old` did.

    Assumes: `_track_variables` makes `_torch_params` of the variables.
    """
    if _holds_parameters(old):
        new._track_variables()


def _holds_parameters(op: keras.Operation) -> bool:
    return "_torch_params" in vars(op).get("_modules", ())


def uncompiled() -> dict[str, Any]:
    """What a model holds for its training before it is compiled.

    Assumes: a model without arguments holds that, and what each layer does.
    `_compute_loss_has_training_arg` follows from the class.
    """
    held = vars(keras.Model())
    names = held.keys() - common_names() - {"_compute_loss_has_training_arg"}
    return {name: held[name] for name in names}


def books_without(value: Any, names: Container[str]) -> Any:
    """What TensorFlow keeps of the attributes of a layer, without some.

    Assumes: that is in lists of references, which have a `name`, and in dicts
    by name.
    """
    value = unwrapped(value)
    if isinstance(value, list):
        return [x for x in value if getattr(x, "name", None) not in names]
    if isinstance(value, dict):
        return {k: x for k, x in value.items() if k not in names}
    return value


class Unwrapped(Exception):
    """A function on a layer is not made as it is known to be."""


def rewrapped(
    function: types.FunctionType, old: keras.Layer, new: keras.Layer
) -> Callable[..., Any]:
    """The function in which a layer wraps its `build`, for another layer.

    Assumes: its closure holds nothing but the layer and methods of it, and
    `__wrapped__` is the method.

    Raises:
        Unwrapped: the closure holds something else.
    """
    cells = []
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        if isinstance(value, types.MethodType) and value.__self__ is old:
            value = types.MethodType(value.__func__, new)
        elif value is old:
            value = new
        else:
            raise Unwrapped(function)
        cells.append(types.CellType(value))
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        argdefs=function.__defaults__,
        closure=tuple(cells),
    )
    made.__kwdefaults__ = function.__kwdefaults__
    wrapped: Any = vars(function)["__wrapped__"]
    return functools.update_wrapper(
        made, types.MethodType(wrapped.__func__, new)
    )


# Variables and training ----------------------------------------------------


def raw_value(variable: keras.Variable) -> Any:
    """The backend's own variable, or None before it has a value.

    Assumes: it is in `_value`; on torch, the module's parameter is the same.
    """
    return variable._value


def autocasts(variable: keras.Variable) -> bool:
    """Whether layers read a variable in their compute type.

    Assumes: `_autocast` holds that argument.
    """
    return bool(variable._autocast)


def trained_by(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """The weights that an optimizer trains, in the order of its slots.

    Assumes: `_trainable_variables` holds them once it is built.
    """
    return list(optimizer._trainable_variables)


def slots_of(optimizer: keras.Optimizer) -> dict[str, list[Any]]:
    """The lists of an optimizer that hold a slot, or None, for each weight.

    Assumes: each is an attribute of its own, as long as the list of weights.
    """
    weights = optimizer._trainable_variables
    return {
        name: slots
        for name, slots in vars(optimizer).items()
        if isinstance(slots, list)
        and name not in ("_trainable_variables", "_variables")
        and len(slots) == len(weights)
        and all(s is None or isinstance(s, keras.Variable) for s in slots)
    }


def batches_of(optimizer: keras.Optimizer) -> keras.Variable:
    """How many batches an optimizer has seen, accumulated ones included.

    Assumes: `_iterations` counts them, where the public one counts updates.
    """
    return optimizer._iterations


def give_bias(layer: keras.Layer, size: int) -> None:
    """Let a built layer that has no bias add one, of zeros, on its last axis.

    For Dense, EinsumDense and convolutions.

    Assumes: the tracker of a built layer is locked; `call` looks whether there
    is a bias, and `get_config` tells `use_bias` and `bias_axes`.
    """
    tracker = tracker_of(layer)
    tracker.unlock()
    try:
        layer.bias = layer.add_weight(
            name="bias",
            shape=(size,),
            initializer="zeros",
            regularizer=layer.bias_regularizer,
            constraint=layer.bias_constraint,
        )
    finally:
        tracker.lock()
    layer.bias.trainable = layer.trainable
    if isinstance(layer, keras.layers.EinsumDense):
        layer.bias_axes = layer.equation[-1]
    else:
        layer.use_bias = True


def drop_bias(layer: keras.Layer) -> None:
    """Take back what `give_bias` gave.

    Assumes: `_untrack_variable` makes a layer forget a weight.
    """
    layer._untrack_variable(layer.bias)
    layer.bias = None
    if isinstance(layer, keras.layers.EinsumDense):
        layer.bias_axes = None
    else:
        layer.use_bias = False


def loss_weights_of(model: keras.Model) -> Any:
    """The argument `loss_weights` with which a model was compiled.

    Assumes: `_compile_loss` keeps it as `_user_loss_weights`.
    """
    compiled = getattr(model, "_compile_loss", None)
    return getattr(compiled, "_user_loss_weights", None)


# Keras 2 -------------------------------------------------------------------


def cause_of(error: BaseException) -> BaseException:
    """The error that a `call` raised, where Keras could not repeat it.

    Assumes: Keras raises an error again as its class called with a longer
    text. A class that takes no text raises another error then, on that text,
    whose context is the first.
    """
    lost = "'str' object has no attribute"
    while lost in str(error) and error.__context__ is not None:
        error = error.__context__
    return error


def keras2_has_graph(model: Any) -> bool:
    """Whether a model of tf_keras records a graph.

    Assumes: `_is_graph_network` says so.
    """
    return bool(getattr(model, "_is_graph_network", False))


def keras2_nodes_of(model: Any) -> list[Any]:
    """The recorded calls of a model of tf_keras in order, inputs included.

    Assumes: as `nodes_of`.
    """
    by_depth = model._nodes_by_depth
    return [n for d in sorted(by_depth, reverse=True) for n in by_depth[d]]


def keras2_structures_of(model: Any) -> tuple[Any, Any]:
    """The nested structures of the inputs and outputs of a tf_keras model.

    Assumes: they are in `_nested_inputs` and `_nested_outputs`.
    """
    return model._nested_inputs, model._nested_outputs
