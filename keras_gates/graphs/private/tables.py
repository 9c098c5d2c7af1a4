"""Names of what layers, models, and variables hold."""

from __future__ import annotations

import functools
from typing import Any

import keras

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
