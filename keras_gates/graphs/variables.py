"""Copies the weights and random states of a layer to another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs.create import seed_states


def synchronize(model: keras.Model) -> None:
    """On JAX, variables hold nothing while `fit` runs, until asked to."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def copy_state(old: keras.Layer, new: keras.Layer) -> None:
    """Give a recreated layer all that the old one has learnt.

    Args:
        old: a built layer.
        new: one made from its config, and built.

    Raises:
        ValueError: the new layer has other weights.
    """
    if [w.shape for w in old.weights] != [w.shape for w in new.weights]:
        raise ValueError(
            f"Layer '{old.name}' (of type {type(old).__name__}) has other "
            "weights when it is recreated from its config: "
            f"{[tuple(w.shape) for w in new.weights]} instead of "
            f"{[tuple(w.shape) for w in old.weights]}. Its `get_config()` "
            "must return every argument of its constructor."
        )
    for before, after in zip(old.weights, new.weights, strict=True):
        after.assign(values_of(before))
    copy_seeds(old, new)


def copy_seeds(old: keras.Layer, new: keras.Layer) -> None:
    """Carry the states of a layer's random generators over."""
    for before, after in zip(seed_states(old), seed_states(new), strict=True):
        after.assign(values_of(before))


def values_of(variable: keras.Variable) -> NDArray[Any]:
    """A copy: JAX would share the array, and free it when either trains."""
    return np.array(keras.ops.convert_to_numpy(variable))
