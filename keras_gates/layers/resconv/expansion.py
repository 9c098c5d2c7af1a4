"""A `ResConv` written out as layers of Keras and a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_gates.layers import kernels
from keras_gates.layers import stock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from keras_gates.layers.resconv.res_conv import ResConv


def expand(
    layer: ResConv, inputs: keras.KerasTensor, made: dict[str, Any]
) -> keras.KerasTensor:
    """The function of a built `ResConv`, of a KerasTensor.

    Args:
        layer: the `ResConv`.
        inputs: the KerasTensor.
        made: the new layers by name, and lists of pools under
            `<name>_pools`.
    """
    name = layer.name
    outputs = inputs
    parts = {f"{name}_conv": layer.conv, f"{name}_bn": layer.norm}
    for label, part in {**parts, name: layer.gate}.items():
        if part is not None:
            outputs = _copied(made, label, part, outputs)
    # A shortcut of zeros would hide that nothing else remains.
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


def _shortcut(
    layer: ResConv, x: keras.KerasTensor, made: dict[str, Any]
) -> keras.KerasTensor:
    """`g * f(x)`."""
    name, g = layer.name, float(kernels.values(layer.g))
    if layer.shortcut_kind.startswith("pool"):
        window, _ = layer.read(x.shape)
        # Inputs of other sizes may need other paddings.
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


def _weights(layer: keras.Layer) -> list[NDArray[Any]]:
    # Copies: JAX would share the arrays, and free them when a model trains.
    return [np.array(weight) for weight in layer.get_weights()]


def _kept(
    made: dict[str, Any], name: str, make: Callable[[str], keras.Layer]
) -> keras.Layer:
    if name not in made:
        made[name] = make(name)
    return made[name]


def _copied(
    made: dict[str, Any],
    name: str,
    layer: keras.Layer,
    x: keras.KerasTensor,
    weights: list[NDArray[Any]] | None = None,
) -> keras.KerasTensor:
    """A call of a layer's copy, which the first call creates."""
    if name in made:
        return made[name](x)
    made[name] = type(layer).from_config({**layer.get_config(), "name": name})
    x = made[name](x)
    made[name].set_weights(weights or _weights(layer))
    return x
