"""Gates for exact structural pruning of Keras models."""

from keras_gates import callbacks
from keras_gates import constraints
from keras_gates import interop
from keras_gates import regularizers
from keras_gates import stats
from keras_gates import surgeon
from keras_gates import thresholds
from keras_gates import zoo
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import LayerGate
from keras_gates.layers import ResConv
from keras_gates.layers import StripConv
from keras_gates.search import find_thresholds
from keras_gates.thresholds import Budget
from keras_gates.thresholds import Quantile
from keras_gates.transforms.binarize import binarize
from keras_gates.transforms.fuse import fuse
from keras_gates.transforms.insert_gates import insert_gates
from keras_gates.transforms.separate_shortcuts import separate_shortcuts
from keras_gates.transforms.slim import slim
from keras_gates.transforms.to_dense import to_dense
from keras_gates.transforms.to_resconv import to_resconv
from keras_gates.transforms.to_stripconv import to_stripconv

__version__ = "0.1.0"

__all__ = [
    "BlockGate",
    "BranchGate",
    "Budget",
    "FilterGate",
    "LayerGate",
    "Quantile",
    "ResConv",
    "StripConv",
    "binarize",
    "callbacks",
    "constraints",
    "find_thresholds",
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
    "zoo",
]
