"""Parameters and multiply-adds of a model, layer by layer.

One MAC is one multiply-add, for one sample. The multiplications of kernels
are counted: those of Dense, convolutions (transposed: at each position of
the input) and recurrent layers (at each time step), and products of tensors:
attention, matmul, einsum. Elementwise work is not counted, in layers or as
operations: biases, normalization, activations, pooling, merges, look-ups and
gates. Papers count one or two FLOPs per MAC.
"""

from keras_gates.stats.comparison import Comparison
from keras_gates.stats.comparison import compare
from keras_gates.stats.counting import Count
from keras_gates.stats.counting import count
from keras_gates.stats.gates_picture import plot_gates
from keras_gates.stats.stripes import draw_stripes
from keras_gates.stats.stripes import stripe_shares

__all__ = [
    "Comparison",
    "Count",
    "compare",
    "count",
    "draw_stripes",
    "plot_gates",
    "stripe_shares",
]
