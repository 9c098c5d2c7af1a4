"""Gates for exact structural pruning of Keras models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING
from typing import Any

# Saved models name these, so they are imported at once. They are light.
from keras_gates import constraints
from keras_gates import regularizers
from keras_gates import thresholds
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import GatedAttention
from keras_gates.layers import GatedRecurrent
from keras_gates.layers import HeadGate
from keras_gates.layers import LayerGate
from keras_gates.layers import ResConv
from keras_gates.layers import StripConv
from keras_gates.thresholds import Budget
from keras_gates.thresholds import Quantile

# Everything else is imported on first use.
if TYPE_CHECKING:
    from keras_gates import callbacks
    from keras_gates import interop
    from keras_gates import stats
    from keras_gates import surgeon
    from keras_gates import transforms
    from keras_gates import zoo
    from keras_gates.search import find_thresholds
    from keras_gates.transforms.binarize import binarize
    from keras_gates.transforms.functional import functional
    from keras_gates.transforms.fuse import fuse
    from keras_gates.transforms.insert_gates import insert_gates
    from keras_gates.transforms.separate_shortcuts import separate_shortcuts
    from keras_gates.transforms.slim import slim
    from keras_gates.transforms.to_dense import to_dense
    from keras_gates.transforms.to_resconv import to_resconv
    from keras_gates.transforms.to_stripconv import to_stripconv

__version__ = "0.2.0"

__all__ = [
    "BlockGate",
    "BranchGate",
    "Budget",
    "FilterGate",
    "GatedAttention",
    "GatedRecurrent",
    "HeadGate",
    "LayerGate",
    "Quantile",
    "ResConv",
    "StripConv",
    "binarize",
    "callbacks",
    "constraints",
    "find_thresholds",
    "functional",
    "fuse",
    "insert_gates",
    "interop",
    "regularizers",
    "separate_shortcuts",
    "slim",
    "stats",
    "surgeon",
    "thresholds",
    "to_dense",
    "to_resconv",
    "to_stripconv",
    "transforms",
    "zoo",
]


_PACKAGES = (
    *("callbacks", "interop", "search", "stats", "surgeon", "transforms"),
    "zoo",
)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"keras_gates.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = "search" if name == "find_thresholds" else "transforms"
    value = getattr(importlib.import_module(f"keras_gates.{package}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
