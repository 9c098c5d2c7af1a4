"""The rows: every layer and operation of Keras that has a rule."""

import keras

from keras_gates.surgeon.graph import layer_class
from keras_gates.surgeon.graph import operation
from keras_gates.surgeon.rules import elementwise as ew
from keras_gates.surgeon.rules import index as ix
from keras_gates.surgeon.rules import linear as ln
from keras_gates.surgeon.rules import merge as mg
from keras_gates.surgeon.rules import spatial as sp
from keras_gates.surgeon.rules.activations import ACTIVATIONS
from keras_gates.surgeon.rules.registry import register
from keras_gates.surgeon.rules.registry import registered
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Barrier

_KERNEL = {"kernel": ("in", "out"), "bias": ("out",)}
_SCALES = {"in": {"kernel": "in"}, "out": {"kernel": "out", "bias": "out"}}
_ONCE = {"kernel": "out"}

DENSE = ln.Linear(
    "dense", _KERNEL, {"units": "out"}, _ONCE, _SCALES, width="units"
)


CONV = ln.Conv("convolution", _KERNEL, {"filters": "out"}, _ONCE, _SCALES)
_GROUPED = ln.Depthwise(
    "depthwise convolution",
    {"kernel": (None, "out"), "bias": ("out",)},
    {"filters": "out", "groups": "in"},
    _ONCE,
    cuts=True,
)
ANY_CONV = ln.AnyConv("convolution", whole=CONV, channelwise=_GROUPED)
TRANSPOSE = ln.ConvTranspose(
    "transposed convolution",
    {"kernel": ("out", "in"), "bias": ("out",)},
    {"filters": "out"},
    {"kernel": "in"},
    _SCALES,
)
DEPTHWISE = ln.Depthwise(
    "depthwise convolution",
    {"kernel": ("in", None), "bias": ("out",)},
    {},
    _ONCE,
    cuts=True,
)
SEPARABLE = ln.Separable(
    "separable convolution",
    {
        "depthwise_kernel": ("in", None),
        "pointwise_kernel": ("middle", "out"),
        "bias": ("out",),
    },
    {"filters": "out"},
    {"depthwise_kernel": "out", "pointwise_kernel": "out"},
    {
        "in": {"depthwise_kernel": "in"},
        "out": {"pointwise_kernel": "out", "bias": "out"},
    },
)

_AFFINE = {"gamma": ("channel",), "beta": ("channel",)}
BATCH_NORM = ew.PerChannel(
    "batch normalization",
    {**_AFFINE, "moving_mean": ("channel",), "moving_variance": ("channel",)},
    scales={"out": {"gamma": "channel", "beta": "channel"}},
    axis=ew.batch_norm_axis,
    twin=ew.batch_norm,
)
LAYER_NORM = ew.Normalizing(
    "layer normalization",
    _AFFINE,
    axis=ew.single_axis,
    spans=ew.norm_axes,
    note="channels are removed under exact=False only",
)
RMS_NORM = ew.Normalizing(
    "RMS normalization",
    {"scale": ("channel",)},
    axis=ew.single_axis,
    spans=ew.norm_axes,
    note="channels are removed under exact=False only",
)
GROUP_NORM = ew.GroupNorm(
    "group normalization",
    _AFFINE,
    axis=lambda op: op.axis,
    note="kept whole, unless each group is one channel",
)
UNIT_NORM = ew.Mixing(
    "unit normalization",
    spans=ew.norm_axes,
    absorbs=ZERO,
    note="a channel of zeros adds nothing to the norm",
)
SOFTMAX = ew.Mixing(
    "softmax",
    spans=ew.norm_axes,
    note="channels are removed under exact=False only",
)
PRELU = ew.PReLU(passes=POSITIVE)
RESCALING = ew.Rescaling("rescaling")
LAYER_SCALE = ew.PerChannel(
    "layer scale",
    {"gamma": ("channel",)},
    {"projection_dim": "channel"},
    scales={"out": {"gamma": "channel"}},
    passes=LINEAR,
)
EMBEDDING = ln.Embedding(
    "embedding",
    {"embeddings": (None, "out")},
    {"output_dim": "out"},
    scales={"out": {"embeddings": "out"}},
    width="output_dim",
    kernel="embeddings",
)


def _elementwise(passes, function=None):
    twin = None if function is None else (lambda op, x: function(x))
    return ew.Elementwise(passes=passes, twin=twin)


def _activation(name):
    row = ACTIVATIONS[getattr(keras.activations, name)]
    return _elementwise(row.passes, row.twin)


def _barrier(why):
    return Barrier(why=why, note=why)


ATTENTION = _barrier(
    "attention heads share their width, and no rule cuts them yet"
)
PRODUCT = _barrier("a product over the channels needs both sides alike")
AUGMENTATION = _barrier("preprocessing is kept whole")

SAME = ew.IDENTITY_TWIN
POOL = sp.Spatial("pooling")
MAX_POOL = sp.Spatial("pooling", passes=POSITIVE)
PADDING = sp.Spatial("zero padding", pads=lambda op: True)
MOVES = ix.Index("reshape", move=ix.reshape, rewrite=ix.reshaped)
CONCATENATE = ix.Index(
    "concatenate", move=ix.concatenate, along=ix.own_axis
)

LAYERS = {
    "Dense": DENSE,
    "EinsumDense": _barrier(
        "an einsum equation may use its axes in any way; Dense has a rule"
    ),
    "Embedding": EMBEDDING,
    **{f"Conv{n}D": ANY_CONV for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": TRANSPOSE for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": DEPTHWISE for n in (1, 2)},
    **{f"SeparableConv{n}D": SEPARABLE for n in (1, 2)},
    "BatchNormalization": BATCH_NORM,
    "LayerNormalization": LAYER_NORM,
    "RMSNormalization": RMS_NORM,
    "GroupNormalization": GROUP_NORM,
    "UnitNormalization": UNIT_NORM,
    "Normalization": _barrier("its statistics describe the data as it is"),
    "Rescaling": RESCALING,
    "Activation": ew.Activated(),
    "ReLU": ew.ReLU("activation"),
    "LeakyReLU": _elementwise(POSITIVE),
    "ELU": _elementwise(PRESERVES_ZERO),
    "PReLU": PRELU,
    "Softmax": SOFTMAX,
    "Identity": SAME,
    "Dropout": SAME,
    "SpatialDropout1D": SAME,
    "SpatialDropout2D": SAME,
    "SpatialDropout3D": SAME,
    "GaussianDropout": SAME,
    "GaussianNoise": ew.NOISE,
    "AlphaDropout": ew.NOISE,
    "ActivityRegularization": ew.NOISE,
    **{
        f"{scope}{kind}Pooling{n}D": MAX_POOL if kind == "Max" else POOL
        for scope in ("", "Global", "Adaptive")
        for kind in ("Max", "Average")
        for n in (1, 2, 3)
    },
    **{f"UpSampling{n}D": sp.Spatial("upsampling") for n in (1, 2, 3)},
    **{f"ZeroPadding{n}D": PADDING for n in (1, 2, 3)},
    **{f"Cropping{n}D": sp.Spatial("cropping") for n in (1, 2, 3)},
    "Resizing": sp.Spatial(
        "resizing", pads=lambda op: op.pad_to_aspect_ratio
    ),
    "CenterCrop": sp.Spatial("cropping"),
    "Flatten": ix.Index("flatten", move=ix.flatten),
    "Reshape": MOVES,
    "Permute": ix.Index("permute", move=ix.permute, along=ix.nowhere),
    "RepeatVector": ix.Index(
        "repeat", move=ix.repeat_vector, along=ix.nowhere
    ),
    "Concatenate": CONCATENATE,
    "Add": mg.ADD,
    "Subtract": mg.SUBTRACT,
    "Multiply": mg.MULTIPLY,
    "Average": mg.AVERAGE,
    "Maximum": mg.MAXIMUM,
    "Minimum": mg.MINIMUM,
    "Dot": PRODUCT,
    "MultiHeadAttention": ATTENTION,
    "GroupQueryAttention": ATTENTION,
    "Attention": ATTENTION,
    "AdditiveAttention": ATTENTION,
    "Masking": _barrier("its mask looks at all features"),
}

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
    "nn.Softmax": SOFTMAX,
    "nn.LogSoftmax": SOFTMAX,
    "nn.Sparsemax": SOFTMAX,
    "nn.MaxPool": MAX_POOL,
    "nn.AveragePool": POOL,
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
    "numpy.Copy": SAME,
    "math.Rsqrt": _elementwise(None),
    "math.Erf": _elementwise(PRESERVES_ZERO),
    "core.Cast": SAME,
    "core.StopGradient": SAME,
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
    "numpy.Pad": sp.Spatial(
        "padding", space=sp.padded_axes, pads=sp.pad_is_zero
    ),
    "numpy.Reshape": MOVES,
    "numpy.Concatenate": CONCATENATE,
    "numpy.Stack": ix.Index("stack", move=ix.stack, along=ix.nowhere),
    "numpy.Transpose": ix.Index(
        "transpose", move=ix.transpose, along=ix.nowhere
    ),
    "numpy.Swapaxes": ix.Index(
        "transpose", move=ix.swapaxes, along=ix.nowhere
    ),
    "numpy.Moveaxis": ix.Index(
        "transpose", move=ix.moveaxis, along=ix.nowhere
    ),
    "numpy.ExpandDims": ix.Index(
        "expand", move=ix.expand_dims, along=ix.nowhere
    ),
    "numpy.Squeeze": ix.Index("squeeze", move=ix.squeeze, along=ix.nowhere),
    "numpy.Flip": ix.Index("flip", move=ix.flip, along=ix.nowhere),
    "numpy.Repeat": ix.Index("repeat", move=ix.repeat, along=ix.own_axis),
    "numpy.Split": ix.Index(
        "split", move=ix.split, along=ix.own_axis, rewrite=ix.splits
    ),
    "numpy.Take": ix.Index(
        "take", move=ix.take, along=ix.own_axis, rewrite=ix.taken
    ),
    "numpy.GetItem": ix.Index(
        "slice", move=ix.get_item, along=ix.nowhere, rewrite=ix.sliced
    ),
    "numpy.Matmul": PRODUCT,
    "numpy.Einsum": PRODUCT,
    "numpy.Tensordot": PRODUCT,
    "numpy.Dot": PRODUCT,
}

# Layers of keras.applications that keras.layers does not export.
HIDDEN_LAYERS = {
    "applications.convnext.LayerScale": LAYER_SCALE,
    "applications.inception_resnet_v2.CustomScaleLayer": mg.SCALED_ADD,
}


def fill():
    """Register every row once."""
    for name, rule in LAYERS.items():
        if hasattr(keras.layers, name):
            register(getattr(keras.layers, name), rule)
    for name, rule in OPERATIONS.items():
        cls = operation(name)
        if cls is not None and cls not in registered():
            register(cls, rule)
    for name, rule in HIDDEN_LAYERS.items():
        cls = layer_class(name)
        if cls is not None:
            register(cls, rule)
