"""Runs models without gradients."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import keras


def without_gradients() -> AbstractContextManager[Any]:
    """A context in which no backend keeps data for gradients.

    PyTorch keeps all activations of a model as long as its outputs live, unless
    told otherwise; other backends do so only on request.
    """
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    context: AbstractContextManager[Any] = torch.no_grad()
    return context
