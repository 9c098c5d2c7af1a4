"""Make layers anew, and call them with all that is known beforehand.

Like `graph`, this file leans on what Keras does not document: how layers
are created from configs, and what a call of one looks up on the instance.
"""

from __future__ import annotations

import contextlib
import numbers
import operator
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import graph as gr

# Layers whose constructors do nothing but check and keep their arguments, and
# whose `build` does nothing but make weights.
PLAIN = frozenset(
    getattr(keras.layers, name)
    for name in (
        *("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
        *("SeparableConv1D", "SeparableConv2D", "Dense", "BatchNormalization"),
        *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        *("LayerNormalization", "Activation", "ReLU", "LeakyReLU", "ELU"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"),
        *("Concatenate", "Flatten", "ZeroPadding2D", "UpSampling2D"),
        *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D"),
        *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D"),
        *("GlobalAveragePooling3D",),
    )
)


def call(
    op: keras.Operation,
    args: tuple[Any, ...],
    kwargs: dict[Any, Any],
    output: keras.KerasTensor | None = None,
    arrays: dict[str, NDArray[np.float64]] | None = None,
) -> Any:
    """Call an operation symbolically, with what is known of it.

    Args:
        op: the new operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        output: its one output, where that is known.
        arrays: as in `prepared`.
    """
    known = type(op) in PLAIN and output is not None
    shape = _input_shape(args, kwargs) if known else None
    with prepared(op, output, arrays):
        if shape is None:
            return op(*args, **kwargs)
        return gr.record(op, shape, args, kwargs, output)


def _input_shape(
    args: tuple[Any, ...], kwargs: dict[str, None]
) -> tuple[int | None, ...] | None:
    """What `build` gets; None if a call may do more than build and record.

    Masks are such a case: a call finds them on its inputs.
    """
    tensors = args[0] if args and type(args[0]) is list else list(args)
    if len(args) != 1 or not all(
        type(x) is keras.KerasTensor and getattr(x, "_keras_mask", None) is None
        for x in tensors
    ):
        return None
    if any(type(x) not in (type(None), bool) for x in kwargs.values()):
        return None
    shapes = [tuple(x.shape) for x in tensors]
    return shapes if tensors is args[0] else shapes[0]


@contextlib.contextmanager
def prepared(
    op: keras.Operation,
    outputs: keras.KerasTensor | None = None,
    arrays: dict[str, NDArray[np.float64]] | None = None,
) -> Iterator[Any]:
    """Within, a symbolic call of `op` has its outcome known.

    The output specification is set, so that no backend traces the layer,
    and weights named in `arrays` are created with their values instead of
    being initialised and then assigned; used ones leave `arrays`.
    """
    if not isinstance(op, keras.Operation) or outputs is arrays is None:
        yield op
        return
    state = vars(op)
    if outputs is not None:
        state["compute_output_spec"] = lambda *a, **k: outputs
    if arrays:
        state["add_weight"] = _adding(op, arrays)
    try:
        yield op
    finally:
        state.pop("compute_output_spec", None)
        state.pop("add_weight", None)


def _adding(
    layer: keras.Layer, arrays: dict[str, NDArray[np.float64]]
) -> Callable[..., Any]:
    """`layer.add_weight`, taking initial values from `arrays` by name."""
    add_weight = type(layer).add_weight

    def add(*args: Any, **kwargs: Any) -> keras.Variable:
        # Keras takes these three by position, too.
        given = dict(zip(("shape", "initializer", "dtype"), args, strict=False))
        name, shape = kwargs.get("name"), {**given, **kwargs}.get("shape")
        value = arrays.get(name)
        known = len(given) == len(args) and not given.keys() & kwargs.keys()
        if value is None or not known or _sizes(shape) != value.shape:
            return add_weight(layer, *args, **kwargs)
        arrays.pop(name)

        def initializer(
            shape: tuple[int, ...], dtype: str | None = None
        ) -> Any:
            return keras.ops.convert_to_tensor(value, dtype)

        given = {**given, **kwargs, "initializer": initializer}
        return add_weight(layer, **given)

    return add


def _sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as a tuple of numbers, in any form that Keras takes."""
    if isinstance(shape, numbers.Integral):
        return (int(shape),)
    try:
        return tuple(map(operator.index, () if shape is None else shape))
    except TypeError:
        return None


def is_of(cls: type[Any], package: str) -> bool:
    """Whether a class is one of a package's own."""
    return cls.__module__.partition(".")[0] == package


def held(op: keras.Operation) -> dict[str, Any]:
    """The attributes of a layer or operation by name."""
    # torch keeps layers elsewhere.
    return {**vars(op), **vars(op).get("_modules", {})}


def has_sublayers(op: keras.Operation) -> bool:
    """Whether a layer builds its weights in layers of its own."""
    return isinstance(op, keras.Layer) and bool(op._layers)


def array_of(variable: keras.Variable) -> NDArray[np.float64]:
    """The values of a variable, as a view of its memory where that can be.

    `convert_to_numpy` copies, which for the largest layer of a network is
    most of what a prune needs beside the models.
    """
    value = variable.value
    if hasattr(value, "read_value"):
        # NumPy takes a copy of a tf.Variable, and none of a tensor.
        value = value.value()
    if keras.backend.backend() != "torch":
        return np.asarray(value)
    # NumPy has no bfloat16 of its own that torch could hand out.
    if value.device.type == "cpu" and variable.dtype != "bfloat16":
        return value.detach().numpy()
    return keras.ops.convert_to_numpy(value)


def sublayers(op: Any) -> list[keras.Layer]:
    """All layers inside a layer, at any depth; none for an operation."""
    if not isinstance(op, keras.Layer):
        return []
    return list(op._flatten_layers(include_self=False))


def seed_states(layer: keras.Layer) -> list[Any]:
    """Variables that are no weights: the states of seed generators."""
    if not isinstance(layer, keras.Layer):
        return []
    variables, weights = layer.variables, layer.weights
    if len(variables) == len(weights):
        return []
    known = {id(w) for w in weights}
    return [v for v in variables if id(v) not in known]


def mark_called(model: keras.Model) -> None:
    """Let a functional model that never ran be exported to ONNX.

    Keras asks for a call, although nothing of it is unknown before.
    """
    model._called = True


def copy_trainable(old: keras.Model, new: keras.Model) -> None:
    """Give a model the flag of another, leaving its layers' own alone."""
    new._trainable = old._trainable


def gains_mask(node: Any, gone: tuple[int]) -> bool:
    """Whether a call puts out a mask of time steps only without some inputs.

    A mask goes along with a tensor while a model runs, and whoever stands for
    an output hands on its own. One input without a mask was enough for an
    `Add` to have none.

    Args:
        node: the recorded call.
        gone: the numbers of the inputs that are left out.
    """
    left = [x for i, x in enumerate(node.input_tensors) if i not in gone]
    carry = [getattr(x, "_keras_mask", None) is not None for x in left]
    before = [getattr(x, "_keras_mask", None) for x in node.outputs]
    return bool(carry) and all(carry) and all(x is None for x in before)
