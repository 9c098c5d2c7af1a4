"""Gates: layers that multiply a tensor by factors which training can close."""

from keras_gates.layers.block_gate import BlockGate as BlockGate
from keras_gates.layers.branch_gate import BranchGate as BranchGate
from keras_gates.layers.filter_gate import FilterGate as FilterGate
from keras_gates.layers.gate import Gate as Gate
from keras_gates.layers.gated_attention import GatedAttention as GatedAttention
from keras_gates.layers.gated_recurrent import GatedRecurrent as GatedRecurrent
from keras_gates.layers.head_gate import HeadGate as HeadGate
from keras_gates.layers.layer_gate import LayerGate as LayerGate
from keras_gates.layers.resconv.res_conv import ResConv as ResConv
from keras_gates.layers.stripconv.strip_conv import StripConv as StripConv
