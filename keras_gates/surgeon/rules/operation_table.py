"""The table of all operations of `keras.ops` that have a rule.

Operations without one are in `not_followed`, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from typing import Any

import keras

from keras_gates.surgeon.rules import blocks as bl
from keras_gates.surgeon.rules import combined as cm
from keras_gates.surgeon.rules import constant_kernel as ck
from keras_gates.surgeon.rules import contraction as tr
from keras_gates.surgeon.rules import copies as cp
from keras_gates.surgeon.rules import counts as ct
from keras_gates.surgeon.rules import dot_product_attention as dp
from keras_gates.surgeon.rules import elementwise as ew
from keras_gates.surgeon.rules import index as ix
from keras_gates.surgeon.rules import layer_table as lt
from keras_gates.surgeon.rules import letters as lr
from keras_gates.surgeon.rules import merge as mg
from keras_gates.surgeon.rules import moves as mv
from keras_gates.surgeon.rules import normalization as nm
from keras_gates.surgeon.rules import padding as pd
from keras_gates.surgeon.rules import reduction as rd
from keras_gates.surgeon.rules import shape_only as so
from keras_gates.surgeon.rules import spatial as sp
from keras_gates.surgeon.rules.activations import ACTIVATIONS
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import ZERO

if TYPE_CHECKING:
    from keras_gates.surgeon.rules.activations import Twin
    from keras_gates.surgeon.rules.rule import Rule


def _elementwise(passes: str | None, function: Twin | None = None) -> Rule:
    twin = None if function is None else (lambda op, x: function(x))
    return ew.Elementwise(passes=passes, twin=twin)


def _activation(name: str) -> Rule:
    row = ACTIVATIONS[getattr(keras.activations, name)]
    return _elementwise(row.passes, row.twin)


def _along(
    space: sp.Space,
    passes: str | None = LINEAR,
    twin: sp.Twin | None = None,
) -> Rule:
    return sp.Spatial("along an axis", space=space, passes=passes, twin=twin)


def _split(move: ix.Move, **options: Any) -> Rule:
    return ix.Index(
        "split", move=move, along=mv.parted, rewrite=mv.splits, **options
    )


def _image(**options: Any) -> Rule:
    return sp.Spatial("image", bars=sp.filled, **options)


_AXIS = rd.among("axis")
_HOMOGENEOUS = rd.Reduction(passes=POSITIVE)
OPERATIONS = {
    "activations.ReLU": ew.ReLU("elementwise"),
    "activations.Mish": _activation("mish"),
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
    "nn.Normalize": nm.Mixing(
        "unit normalization",
        spans=nm.norm_axes,
        absorbs=ZERO,
    ),
    "nn.MaxPool": lt.MAX_POOL,
    "nn.AveragePool": lt.POOL,
    **{
        f"numpy.{name}": _elementwise(PRESERVES_ZERO)
        for name in (
            "Square Sqrt Sign Round Floor Ceil Trunc Sin Tan Sinh Tanh "
            "Arcsin Arctan Arcsinh Arctanh Expm1 Log1p Cbrt NanToNum"
        ).split()
    },
    **{
        f"numpy.{name}": _elementwise(None)
        for name in (
            "Exp Exp2 Log Log2 Log10 Cos Cosh Arccos Arccosh Reciprocal Clip "
            "Sinc I0 Isfinite Isinf Isnan Isneginf Isposinf Isreal LogicalNot "
            "BitwiseInvert BitwiseNot OnesLike ZerosLike FullLike"
        ).split()
    },
    **{
        f"numpy.{name}": _elementwise(LINEAR)
        for name in "Negative Deg2rad Rad2deg Real Conjugate Conj".split()
    },
    "numpy.Absolute": _elementwise(POSITIVE),
    "numpy.Abs": _elementwise(POSITIVE),
    "numpy.Fabs": _elementwise(POSITIVE),
    "numpy.Copy": lt.SAME,
    **{
        f"numpy.{name}Like": so.SHAPE_ONLY for name in ("Zeros", "Ones", "Full")
    },
    "math.Rsqrt": _elementwise(None),
    "math.Erf": _elementwise(PRESERVES_ZERO),
    "math.Erfc": _elementwise(None),
    "math.Erfinv": _elementwise(PRESERVES_ZERO),
    "core.Cast": ew.Cast(),
    "core.SaturateCast": _elementwise(None),
    "core.ConvertToTensor": ew.Cast(),
    "numpy.Array": ew.Cast(),
    "core.StopGradient": lt.SAME,
    "numpy.Add": mg.ADD,
    "numpy.Subtract": mg.SUBTRACT,
    "numpy.Multiply": mg.MULTIPLY,
    "numpy.Divide": mg.DIVIDE,
    "numpy.TrueDivide": mg.DIVIDE,
    "numpy.Maximum": mg.MAXIMUM,
    "numpy.Minimum": mg.MINIMUM,
    "numpy.Power": mg.POWER,
    **{
        f"numpy.{name}": cm.Combined()
        for name in (
            "Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd "
            "LogicalOr LogicalXor Isclose Fmax Fmin FloorDivide Mod Fmod Hypot "
            "Logaddexp Logaddexp2 Heaviside Ldexp DivideNoNan Gcd Lcm "
            "BitwiseAnd BitwiseOr BitwiseXor BitwiseLeftShift LeftShift "
            "BitwiseRightShift RightShift"
        ).split()
    },
    "numpy.Where": cm.Choice(),
    "numpy.Mean": rd.Sum(corrects=rd.counted_in, adds=rd.of_fractions),
    "numpy.Sum": rd.Sum(twin=sp.times_positions),
    **{
        f"numpy.{name}": rd.Sum(
            passes=POSITIVE, corrects=correction, adds=rd.of_fractions
        )
        for names, correction in (
            ("Max Amax", rd.not_below_zero),
            ("Min Amin", rd.not_above_zero),
        )
        for name in names.split()
    },
    **{
        f"numpy.{name}": _HOMOGENEOUS
        for name in (
            "Median Nanmedian Nanmax Nanmin Nanmean Nansum Nanstd Std Ptp"
        ).split()
    },
    **{
        f"numpy.{name}": rd.Reduction(passes=POSITIVE, bars=rd.lists("q"))
        for name in "Quantile Percentile Nanquantile Nanpercentile".split()
    },
    **{
        f"numpy.{name}": rd.Reduction()
        for name in "All Any Prod Nanprod Var Nanvar".split()
    },
    **{
        f"numpy.{name}": rd.Reduction(constant=False)
        for name in "Argmax Argmin Nanargmax Nanargmin".split()
    },
    "numpy.Average": rd.Reduction(passes=LINEAR, bars=rd.weighted),
    "numpy.Trapezoid": rd.Reduction(passes=LINEAR, bars=rd.spaced),
    "numpy.Trace": rd.Reduction(
        passes=LINEAR, space=rd.among("axis1", "axis2")
    ),
    "math.Logsumexp": rd.Reduction(),
    "linalg.Norm": rd.Sum(
        passes=PRESERVES_ZERO, twin=rd.zero_only, adds=rd.of_absolutes
    ),
    "nn.Moments": rd.Reduction(space=rd.among("axes")),
    **{
        f"numpy.{name}": _along(_AXIS, twin=rd.zero_only)
        for name in "Cumsum Nancumsum Cumprod Nancumprod".split()
    },
    "numpy.Sort": _along(_AXIS, POSITIVE),
    "numpy.Argsort": _along(_AXIS, None, rd.uncertain),
    "numpy.Roll": _along(_AXIS),
    "numpy.Diff": _along(_AXIS, twin=rd.always_zero),
    "numpy.Tril": _along(rd.last(2), twin=rd.zero_only),
    "numpy.Triu": _along(rd.last(2), twin=rd.zero_only),
    "math.TopK": _along(rd.last(1), None, rd.uncertain),
    "image.Resize": _image(pads=lambda op: op.pad_to_aspect_ratio),
    "image.PadImages": _image(pads=lambda op: True),
    "image.CropImages": _image(),
    "image.GaussianBlur": _image(twin=rd.zero_only),
    "image.AffineTransform": _image(twin=rd.zero_only),
    "image.ExtractPatches": ix.Index(
        "patches", move=bl.patches, along=mv.nowhere, rims=bl.padded
    ),
    "nn.DepthToSpace": ix.Index("pixel shuffle", move=bl.depth_to_space),
    "nn.SpaceToDepth": ix.Index("pixel shuffle", move=bl.space_to_depth),
    "numpy.Pad": pd.Pad(),
    "numpy.Reshape": lt.MOVES,
    "numpy.Ravel": ix.Index("reshape", move=mv.reshape),
    "numpy.Concatenate": lt.CONCATENATE,
    "numpy.Append": ix.Index("concatenate", move=mv.append, along=mv.own_axis),
    "numpy.Hstack": ix.Index(
        "concatenate", move=mv.hstack, along=lambda call: [1]
    ),
    "numpy.Vstack": ix.Index("concatenate", move=mv.vstack, along=mv.nowhere),
    "numpy.Dstack": ix.Index("concatenate", move=mv.dstack, along=mv.third),
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
    "numpy.Fliplr": ix.Index("flip", move=mv.fliplr, along=mv.nowhere),
    "numpy.Flipud": ix.Index("flip", move=mv.flipud, along=mv.nowhere),
    "numpy.Rot90": ix.Index("turn", move=mv.rot90, along=mv.nowhere),
    "numpy.Diagonal": ix.Index("diagonal", move=mv.diagonal, along=mv.nowhere),
    "numpy.Tile": cp.copies(
        ix.Index("tile", move=mv.tile, along=mv.nowhere),
        cp.tile_left,
    ),
    "numpy.BroadcastTo": cp.copies(
        ix.Index(
            "broadcast",
            move=mv.broadcast,
            along=mv.nowhere,
            rewrite=mv.broadcasted,
        ),
        mv.broadcasted,
    ),
    "numpy.Repeat": cp.copies(
        ix.Index("repeat", move=mv.repeat, along=mv.own_axis),
        cp.repeat_left,
    ),
    "numpy.Split": _split(mv.split),
    "numpy.ArraySplit": ix.Index(
        "split",
        move=mv.array_split,
        along=mv.parted,
        rewrite=mv.as_it_was,
        other=mv.as_split,
    ),
    **{
        f"numpy.{name}": _split(mv.split)
        for name in ("Hsplit", "Vsplit", "Dsplit")
    },
    "core.Unstack": ix.Index("unstack", move=mv.unstack, along=mv.own_axis),
    "numpy.Take": ix.Index(
        "take", move=mv.take, along=mv.own_axis, rewrite=mv.taken
    ),
    "numpy.GetItem": so.Slice(
        move=mv.get_item,
        along=mv.nowhere,
        rewrite=mv.sliced,
        other=mv.as_take,
    ),
    "numpy.Matmul": ck.ConstantKernel(
        counts=ct.product, products=tr.Contraction(counts=ct.product)
    ),
    "numpy.Dot": ck.ConstantKernel(counts=ct.product),
    "nn.Conv": ck.ConstantKernel(
        argument="kernel", rank=None, counts=ct.convolution
    ),
    "numpy.Einsum": tr.Contraction(terms=lr.einsum_terms, counts=ct.einsum),
    "numpy.Tensordot": lt.product(ct.tensordot),
    "nn.DotProductAttention": dp.DotProductAttention(
        counts=ct.dot_product_attention
    ),
}
