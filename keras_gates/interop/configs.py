"""Converts layers between the two versions of Keras by their configs."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import keras

# Keras 3 -> tf_keras, where an argument has another name.
RENAMED = {
    "LeakyReLU": {"negative_slope": "alpha"},
}
# Activations that are the same function under the same name in both.
ACTIVATIONS = (
    "linear relu leaky_relu relu6 elu selu gelu silu swish tanh softsign "
    "sigmoid softplus exponential mish softmax log_softmax"
).split()
_KINDS = ("layers", "initializers", "regularizers", "constraints")
# Layers of the same name that differ: RandomCrop of Keras 3 keeps images whole
# in inference, the one of tf_keras does not.
_UNLIKE = {"Lambda", "Layer", "RandomCrop", "TFSMLayer", "Wrapper"}
# Values without an effect: a layer without a data format has channels last.
_OFF = (None, False, "channels_last")
# Options that say how a layer computes, and not what.
_FREE = {"implementation", "use_cudnn", "flash_attention", "seed", "rng_type"}
# Shapes that the layer is built for anyway.
_FREE |= {"batch_input_shape", "input_length", "build_config"}
_FREE |= {"query_shape", "key_shape", "value_shape"}
# Arguments that separable convolutions of tf_keras inherit but do not use.
_FREE |= {"kernel_initializer"}


def counterparts(
    source: ModuleType, target: ModuleType
) -> dict[type[Any], type[Any]]:
    """`{class: counterpart}` of the layers that both versions have."""
    pairs = [
        [getattr(keras_.layers, name, None) for keras_ in (source, target)]
        for name in dir(source.layers)
        if name not in _UNLIKE
    ]
    return {
        own: other
        for own, other in pairs
        if isinstance(own, type) and isinstance(other, type)
    }


def converted(
    cls: type[Any],
    config: dict[str, Any],
    source: ModuleType,
    target: ModuleType,
) -> Any:
    """A new layer, initializer or the like, of the class `cls`.

    Args:
        cls: its class, of `target`.
        config: the config of its counterpart in `source`.
        source: the module `keras` or `tf_keras`.
        target: the other one.

    Raises:
        ValueError: an argument has no counterpart.
    """
    config = dict(config)
    trainable = config.pop("trainable", True)
    new = cls(**_arguments(cls, config, source, target))
    if not trainable:
        new.trainable = False
    return new


def _arguments(
    cls: type[Any],
    config: dict[str, Any],
    source: ModuleType,
    target: ModuleType,
) -> dict[str, Any]:
    """The arguments of the constructor of `cls` for a config."""
    names = RENAMED.get(cls.__name__, {})
    if target is keras:
        names = {new: old for old, new in names.items()}
    taken = parameters(cls)
    if issubclass(cls, target.layers.RNN):
        taken["zero_output_for_mask"] = False  # no name, in tf_keras
    other = getattr(source.layers, cls.__name__, None)
    defaults = parameters(other) if other else {}
    given = {}
    for key, value in config.items():
        name = names.get(key, key)
        if name in taken:
            given[name] = _value(name, value, source, target)
            if name == "axis" and cls is keras.layers.BatchNormalization:
                (given[name],) = value  # a list, in tf_keras
        elif key not in _FREE and value not in (*_OFF, defaults.get(key)):
            raise ValueError(
                f"{key}={value!r} of {cls.__name__} has no counterpart in "
                f"{target.__name__}."
            )
    return given


def parameters(cls: type[Any]) -> dict[str, Any]:
    """`{name: default}` of the constructor's arguments, with base classes."""
    defaults: dict[str, Any] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        signature = inspect.signature(constructor).parameters.values()
        for p in signature:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                defaults.setdefault(p.name, p.default)
        if not any(p.kind == p.VAR_KEYWORD for p in signature):
            break
    else:
        defaults |= {"name": None, "dtype": None}
    return defaults


def _value(
    name: str, value: Any, source: ModuleType, target: ModuleType
) -> Any:
    """A value of a config, converted to the other Keras."""
    if name == "dtype":
        return _policy(value, target)
    if "activation" in name and not name.endswith("regularizer"):
        return activation(value, target)
    if not isinstance(value, dict) or "class_name" not in value:
        return value
    known = [
        getattr(getattr(target, kind), value["class_name"], None)
        for kind in _KINDS
        if value.get("registered_name") is None
    ]
    cls = next((c for c in known if c is not None), None)
    if cls is None:
        raise ValueError(
            f"{name}={value['class_name']} has no counterpart in "
            f"{target.__name__}."
        )
    return converted(cls, value["config"], source, target)


def activation(value: Any, target: ModuleType) -> Any:
    """An activation that is the same in both.

    Raises:
        ValueError: it is not.
    """
    if value is None or value in ACTIVATIONS:
        return value
    raise ValueError(
        f"the activation {value!r} has no counterpart in {target.__name__}."
    )


def _policy(value: dict[str, Any] | str, target: ModuleType) -> Any:
    """A dtype policy; tf_keras takes no name of a mixed one."""
    name: str = value["config"]["name"] if isinstance(value, dict) else value
    mixed = name.startswith("mixed_") and target is not keras
    return target.mixed_precision.Policy(name) if mixed else name


def copy_weights(source: keras.Layer, target: keras.Layer) -> None:
    """Copy the weights of a layer's counterpart into it.

    Raises:
        ValueError: they do not match.
    """
    arrays = [keras.ops.convert_to_numpy(w) for w in source.weights]
    shapes = [tuple(w.shape) for w in target.weights]
    if [a.shape for a in arrays] != shapes:
        raise ValueError(
            f"Layer '{source.name}' (of type {type(source).__name__}) holds "
            f"weights of the shapes {[a.shape for a in arrays]}, and its "
            f"counterpart of the shapes {shapes}, so they can't be copied. "
            "Replace it by layers that are the same in both versions."
        )
    target.set_weights(arrays)
