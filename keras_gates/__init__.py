"""Gates for exact structural pruning of Keras models."""

from keras_gates import callbacks
from keras_gates import constraints
from keras_gates import regularizers
from keras_gates import stats
from keras_gates import surgeon
from keras_gates import thresholds
from keras_gates import zoo
from keras_gates.layers import BlockGate
from keras_gates.layers import BranchGate
from keras_gates.layers import FilterGate
from keras_gates.layers import LayerGate
from keras_gates.thresholds import Quantile

__version__ = "0.1.0"

__all__ = [
    "BlockGate",
    "BranchGate",
    "FilterGate",
    "LayerGate",
    "Quantile",
    "callbacks",
    "constraints",
    "regularizers",
    "stats",
    "surgeon",
    "thresholds",
    "zoo",
]
