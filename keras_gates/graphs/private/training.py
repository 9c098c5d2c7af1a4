"""Variables, and what optimizers and losses keep of them."""

from __future__ import annotations

from typing import Any

import keras

from keras_gates.graphs.private.trackers import tracker_of


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
