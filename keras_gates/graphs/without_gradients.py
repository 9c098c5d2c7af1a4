"""Runs of models that nobody wants gradients of."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import keras


def without_gradients() -> AbstractContextManager[Any]:
    """A context in which no backend keeps what gradients would need.

    PyTorch keeps all activations of a model as long as its outputs live,
    unless it is told not to; the other backends do so where they are asked to.
    """
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()
