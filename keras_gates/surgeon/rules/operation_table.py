"""The rows: every operation of `keras.ops` that has a rule."""

import keras

from keras_gates.surgeon.rules import counts as ct
from keras_gates.surgeon.rules import elementwise as ew
from keras_gates.surgeon.rules import index as ix
from keras_gates.surgeon.rules import layer_table as lt
from keras_gates.surgeon.rules import merge as mg
from keras_gates.surgeon.rules import moves as mv
from keras_gates.surgeon.rules import padding as pd
from keras_gates.surgeon.rules import spatial as sp
from keras_gates.surgeon.rules.activations import ACTIVATIONS
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.shape_only import SHAPE_ONLY


def _elementwise(passes, function=None):
    twin = None if function is None else (lambda op, x: function(x))
    return ew.Elementwise(passes=passes, twin=twin)


def _activation(name):
    row = ACTIVATIONS[getattr(keras.activations, name)]
    return _elementwise(row.passes, row.twin)


_ANY = sp.Spatial("reduction", space=sp.reduced)
OPERATIONS = {
    "nn.Relu": _activation("relu"),
    "nn.Relu6": _activation("relu6"),
    "nn.Sigmoid": _activation("sigmoid"),
    "nn.Silu": _activation("silu"),
    "nn.HardSigmoid": _activation("hard_sigmoid"),
    "nn.HardSilu": _activation("hard_silu"),
    **{
        f"nn.{name}": _elementwise(PRESERVES_ZERO)
        for name in (
            "Softsign SoftShrink Elu Selu Gelu Celu TanhShrink HardTanh "
            "HardShrink"
        ).split()
    },
    **{
        f"nn.{name}": _elementwise(None)
        for name in (
            "Softplus SparsePlus Squareplus LogSigmoid SparseSigmoid Threshold"
        ).split()
    },
    "nn.LeakyRelu": _elementwise(POSITIVE),
    "nn.Softmax": lt.SOFTMAX,
    "nn.LogSoftmax": lt.SOFTMAX,
    "nn.Sparsemax": lt.SOFTMAX,
    "nn.MaxPool": lt.MAX_POOL,
    "nn.AveragePool": lt.POOL,
    **{
        f"numpy.{name}": _elementwise(PRESERVES_ZERO)
        for name in (
            "Square Sqrt Sign Round Floor Ceil Trunc Sin Tan Sinh Tanh "
            "Arcsin Arctan Arcsinh Expm1 Log1p"
        ).split()
    },
    **{
        f"numpy.{name}": _elementwise(None)
        for name in "Exp Log Log2 Log10 Cos Cosh Reciprocal Clip".split()
    },
    "numpy.Absolute": _elementwise(POSITIVE),
    "numpy.Abs": _elementwise(POSITIVE),
    "numpy.Negative": _elementwise(LINEAR),
    "numpy.Copy": lt.SAME,
    **{f"numpy.{name}Like": SHAPE_ONLY for name in ("Zeros", "Ones", "Full")},
    "math.Rsqrt": _elementwise(None),
    "math.Erf": _elementwise(PRESERVES_ZERO),
    "core.Cast": lt.SAME,
    "core.StopGradient": lt.SAME,
    "numpy.Add": mg.ADD,
    "numpy.Subtract": mg.SUBTRACT,
    "numpy.Multiply": mg.MULTIPLY,
    "numpy.Divide": mg.DIVIDE,
    "numpy.TrueDivide": mg.DIVIDE,
    "numpy.Maximum": mg.MAXIMUM,
    "numpy.Minimum": mg.MINIMUM,
    "numpy.Power": mg.POWER,
    "numpy.Mean": _ANY,
    "numpy.Sum": sp.Spatial(
        "reduction", space=sp.reduced, twin=sp.times_positions
    ),
    **{
        f"numpy.{name}": sp.Spatial(
            "reduction", space=sp.reduced, passes=POSITIVE
        )
        for name in ("Max", "Amax", "Min", "Amin")
    },
    "numpy.Pad": pd.Pad(),
    "numpy.Reshape": lt.MOVES,
    "numpy.Concatenate": lt.CONCATENATE,
    "numpy.Stack": ix.Index("stack", move=mv.stack, along=mv.nowhere),
    "numpy.Transpose": ix.Index(
        "transpose", move=mv.transpose, along=mv.nowhere
    ),
    "numpy.Swapaxes": ix.Index("transpose", move=mv.swapaxes, along=mv.nowhere),
    "numpy.Moveaxis": ix.Index("transpose", move=mv.moveaxis, along=mv.nowhere),
    "numpy.ExpandDims": ix.Index(
        "expand", move=mv.expand_dims, along=mv.nowhere
    ),
    "numpy.Squeeze": ix.Index("squeeze", move=mv.squeeze, along=mv.nowhere),
    "numpy.Flip": ix.Index("flip", move=mv.flip, along=mv.nowhere),
    "numpy.Repeat": ix.Index("repeat", move=mv.repeat, along=mv.own_axis),
    "numpy.Split": ix.Index(
        "split", move=mv.split, along=mv.own_axis, rewrite=mv.splits
    ),
    "numpy.Take": ix.Index(
        "take", move=mv.take, along=mv.own_axis, rewrite=mv.taken
    ),
    "numpy.GetItem": ix.Index(
        "slice", move=mv.get_item, along=mv.nowhere, rewrite=mv.sliced
    ),
    "numpy.Matmul": lt.product(ct.product),
    "numpy.Einsum": lt.product(ct.einsum),
    "numpy.Tensordot": lt.product(ct.tensordot),
    "numpy.Dot": lt.product(ct.product),
    "nn.DotProductAttention": lt.product(ct.dot_product_attention),
}
