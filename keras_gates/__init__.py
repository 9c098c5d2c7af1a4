"""Gates for structured pruning of Keras models."""

from keras_gates import callbacks as callbacks
from keras_gates import constraints as constraints
from keras_gates import regularizers as regularizers
from keras_gates.layers import BlockGate as BlockGate
from keras_gates.layers import BranchGate as BranchGate
from keras_gates.layers import FilterGate as FilterGate
from keras_gates.layers import LayerGate as LayerGate
