"""Classes of Keras, and what its functions and methods say of themselves."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras.src.activations import activations as _activations
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.utils.tracking import Tracker

_OPERATIONS = "keras.src.ops"

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
