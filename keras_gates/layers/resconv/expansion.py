"""A `ResConv` written out as layers of Keras and a gate."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_gates.layers import kernels
from keras_gates.layers import stock


def expand(layer: keras.Layer, inputs: Any, made: Any) -> Any:
    """The function of a built `ResConv`, of a KerasTensor.

    Args:
        layer: the `ResConv`.
        inputs: the KerasTensor.
        made: dict by name of the new layers.
    """
    name = layer.name
    outputs = inputs
    parts = {f"{name}_conv": layer.conv, f"{name}_bn": layer.norm}
    for label, part in {**parts, name: layer.gate}.items():
        if part is not None:
            outputs = _copied(made, label, part, outputs)
    # A shortcut of zeros would hide that nothing else is left.
    if kernels.values(layer.g) != 0:
        shortcut = _shortcut(layer, inputs, made)
        add = _kept(made, f"{name}_add", lambda n: keras.layers.Add(name=n))
        outputs = add([outputs, shortcut])
    if layer.activation is keras.activations.linear:
        return outputs
    return _kept(
        made,
        f"{name}_activation",
        lambda n: keras.layers.Activation(
            layer.activation, name=n, dtype=layer.dtype_policy
        ),
    )(outputs)


def _shortcut(layer: keras.Layer, x: Any, made: Any) -> Any:
    """`g * f(x)`."""
    name, g = layer.name, float(kernels.values(layer.g))
    if layer.shortcut_kind.startswith("pool"):
        window, _ = layer.read(x.shape)
        # Inputs of other sizes may want other paddings.
        pools = made.setdefault(f"{name}_pools", {})
        if window.pads not in pools:
            number = f"_{len(pools) + 1}" if pools else ""
            pools[window.pads] = stock.zero_padded_pool(
                window,
                layer.data_format,
                layer.dtype_policy,
                f"{name}{number}",
            )
        for part in pools[window.pads]:
            x = part(x)
    if layer.pointwise is not None:
        label = f"{name}_shortcut"
        weights = [g * w for w in _weights(layer.pointwise)]
        return _copied(made, label, layer.pointwise, x, weights)
    if g == 1:
        return x
    return _kept(
        made,
        f"{name}_g",
        lambda n: keras.layers.Rescaling(g, name=n, dtype=layer.dtype_policy),
    )(x)


def _weights(layer: keras.Layer) -> Any:
    # Copies: JAX would share the arrays, and free them when a model trains.
    return [np.array(weight) for weight in layer.get_weights()]


def _kept(made: Any, name: str, make: Any) -> Any:
    if name not in made:
        made[name] = make(name)
    return made[name]


def _copied(
    made: Any, name: str, layer: keras.Layer, x: Any, weights: Any = None
) -> Any:
    """A call of a layer's copy, which is made by the first call."""
    if name in made:
        return made[name](x)
    made[name] = type(layer).from_config({**layer.get_config(), "name": name})
    x = made[name](x)
    made[name].set_weights(weights or _weights(layer))
    return x
