"""Make layers anew, and call them with all that is known beforehand.

Like `graph`, this file leans on what Keras does not document: how layers
are created from configs, and what a call of one looks up on the instance.
"""

import contextlib
import inspect

import keras
import numpy as np

from keras_gates.surgeon import graph as gr

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


def recreate(op, changes):
    """A new operation of the same class, with `changes` to its config.

    Raises:
        ValueError: the config does not round-trip.
    """
    if type(op) is keras.layers.Lambda:
        return _same_function(op)
    try:
        return _from_config(op, op.get_config(), changes)
    except Exception as error:
        auto = getattr(op, "_auto_config", None)
        if auto is not None:
            try:
                config = {**auto.config, "name": op.name}
                return _from_config(op, config, changes)
            except Exception:  # the first error says more
                pass
        if not isinstance(op, keras.Layer):
            new = _from_attributes(op, changes)
            if new is not None:
                return new
        raise ValueError(
            f"'{op.name}' (of type {type(op).__name__}) can't be recreated "
            f"from its config: {error} Give the class a `get_config()` that "
            "returns every argument of its constructor, and register custom "
            "functions with `keras.saving.register_keras_serializable`."
        ) from error


def _same_function(op):
    """A Lambda layer again; its config holds bytecode, without globals."""
    return keras.layers.Lambda(
        op.function,
        op._output_shape,
        op.mask,
        op.arguments,
        name=op.name,
        dtype=op.dtype_policy,
        trainable=op.trainable,
    )


def _from_config(op, config, changes):
    new = type(op).from_config(merged(config, changes))
    if isinstance(op, keras.Layer):
        new.trainable = op.trainable
        for part, twin in zip(
            op._flatten_layers(include_self=False),
            new._flatten_layers(include_self=False),
            strict=False,
        ):
            twin.trainable = part.trainable
    return new


def _from_attributes(op, changes):
    """A bare operation again, from the attributes of its arguments.

    Keras has no config of one that was given numbers or arrays of NumPy. The
    new one gets Python's, so that a model with it can be saved.

    Returns:
        None if it does not keep each argument under its name.
    """
    names = inspect.signature(type(op).__init__).parameters
    wanted = [name for name in names if name not in ("self", "name")]
    if not all(hasattr(op, name) for name in wanted):
        return None
    config = {name: _plain(getattr(op, name)) for name in wanted}
    return type(op)(**merged(config, changes), name=op.name)


def _plain(value):
    """Numbers of NumPy as Python's, and arrays of whole ones as lists."""
    if isinstance(value, (tuple, list)):
        return type(value)(_plain(x) for x in value)
    # An array of fractions is data, which no backend takes as a list.
    whole = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
    return value.tolist() if whole or isinstance(value, np.generic) else value


def merged(config, changes):
    """A config with changes; the configs of inner layers are merged too."""
    config = dict(config)
    for key, value in changes.items():
        old = config.get(key)
        inner = isinstance(value, dict) and isinstance(old, dict)
        config[key] = merged(old, value) if inner else value
    return config


def call(op, args, kwargs, output=None, arrays=None):
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


def _input_shape(args, kwargs):
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
def prepared(op, outputs=None, arrays=None):
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


def _adding(layer, arrays):
    """`layer.add_weight`, taking initial values from `arrays` by name."""
    add_weight = type(layer).add_weight

    def add(*args, shape=None, initializer=None, name=None, **kwargs):
        value = arrays.get(name)
        if value is not None and tuple(shape) == value.shape:
            arrays.pop(name)

            def initializer(shape, dtype=None, value=value):
                return keras.ops.convert_to_tensor(value, dtype)

        return add_weight(
            layer,
            *args,
            shape=shape,
            initializer=initializer,
            name=name,
            **kwargs,
        )

    return add


def has_sublayers(op):
    """Whether a layer builds its weights in layers of its own."""
    return isinstance(op, keras.Layer) and bool(op._layers)


def array_of(variable):
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


def sublayers(op):
    """All layers inside a layer, at any depth; none for an operation."""
    if not isinstance(op, keras.Layer):
        return []
    return list(op._flatten_layers(include_self=False))


def seed_states(layer):
    """Variables that are no weights: the states of seed generators."""
    if not isinstance(layer, keras.Layer):
        return []
    variables, weights = layer.variables, layer.weights
    if len(variables) == len(weights):
        return []
    known = {id(w) for w in weights}
    return [v for v in variables if id(v) not in known]


def mark_called(model):
    """Let a functional model that never ran be exported to ONNX.

    Keras asks for a call, although nothing of it is unknown before.
    """
    model._called = True


def copy_trainable(old, new):
    """Give a model the flag of another, leaving its layers' own alone."""
    new._trainable = old._trainable
