"""Masks of time steps, which go along with tensors."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common.masking import get_keras_mask
from keras.src.backend.common.masking import set_keras_mask


def mask_of(x: Any) -> Any:
    """The mask that a tensor carries, symbolic or not, or None.

    Assumes: Keras notes it with the tensor, as `_keras_mask`.
    """
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Let a tensor carry a mask.

    Assumes: as `mask_of`.
    """
    set_keras_mask(x, mask)


def hands_mask_on(layer: keras.Layer) -> bool:
    """Whether a layer that supports masks passes on the one that it gets.

    Assumes: Keras marks its own `Layer.compute_mask` with `_is_default`.
    """
    return bool(getattr(layer.compute_mask, "_is_default", False))


def merges_masks(layer: keras.Layer) -> bool:
    """Whether a layer makes one mask of those of its inputs, as `Add` does.

    Assumes: those that do inherit `compute_mask` from the base of `Add`.
    """
    return bool(
        type(layer).compute_mask is keras.layers.Add.__mro__[1].compute_mask
    )


def mask_arguments(names: list[str]) -> list[str]:
    """The arguments into which Keras puts the masks of tensors.

    Assumes: it is "mask" if one argument holds tensors; if several do, each
    has its own, such as "query_mask".

    Args:
        names: the arguments of a layer's `call` that hold tensors.
    """
    return ["mask"] if len(names) == 1 else [f"{name}_mask" for name in names]
