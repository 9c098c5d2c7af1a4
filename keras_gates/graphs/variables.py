"""Copies the weights and states of a layer to another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_gates.graphs import private
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
    copy_running_states(old, new)


def copy_seeds(old: keras.Layer, new: keras.Layer) -> None:
    """Carry the states of a layer's random generators over."""
    for before, after in zip(seed_states(old), seed_states(new), strict=True):
        after.assign(values_of(before))


def running_states(layer: keras.Operation) -> list[keras.Variable]:
    """What stateful recurrent layers carry from batch to batch.

    Keras keeps these outside of the variables of a layer, so that no weights
    and no file have them.
    """
    return [
        state
        for each in private.sublayers(layer, own=True)
        if isinstance(each, keras.layers.RNN) and each.stateful
        for state in keras.tree.flatten(each.states)
        if isinstance(state, keras.Variable)
    ]


def copy_running_states(old: keras.Operation, new: keras.Operation) -> None:
    """Let a new layer go on in the middle of a sequence, as the old one does.

    Where it has other states, they start from zeros.
    """
    pairs = [*zip(running_states(old), running_states(new), strict=False)]
    if all(before.shape == after.shape for before, after in pairs):
        for before, after in pairs:
            after.assign(values_of(before))


def values_of(variable: keras.Variable) -> NDArray[Any]:
    """A copy: JAX would share the array, and free it when either trains."""
    return np.array(keras.ops.convert_to_numpy(variable))
