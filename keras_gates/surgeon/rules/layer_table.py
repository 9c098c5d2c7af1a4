"""The table of all layers of Keras that have a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keras_gates.surgeon.rules import attention as at
from keras_gates.surgeon.rules import cells as ce
from keras_gates.surgeon.rules import contraction as tr
from keras_gates.surgeon.rules import convolution as cv
from keras_gates.surgeon.rules import copies as cp
from keras_gates.surgeon.rules import counts as ct
from keras_gates.surgeon.rules import dense as dn
from keras_gates.surgeon.rules import einsum as en
from keras_gates.surgeon.rules import elementwise as ew
from keras_gates.surgeon.rules import embedding as em
from keras_gates.surgeon.rules import index as ix
from keras_gates.surgeon.rules import letters as lr
from keras_gates.surgeon.rules import masked as mk
from keras_gates.surgeon.rules import merge as mg
from keras_gates.surgeon.rules import moves as mv
from keras_gates.surgeon.rules import normalization as nm
from keras_gates.surgeon.rules import per_channel as pc
from keras_gates.surgeon.rules import product as pr
from keras_gates.surgeon.rules import recurrent as rc
from keras_gates.surgeon.rules import spatial as sp
from keras_gates.surgeon.rules import time_distributed as td
from keras_gates.surgeon.rules.rule import LINEAR
from keras_gates.surgeon.rules.rule import POSITIVE
from keras_gates.surgeon.rules.rule import PRESERVES_ZERO
from keras_gates.surgeon.rules.rule import ZERO
from keras_gates.surgeon.rules.rule import Barrier

if TYPE_CHECKING:
    from keras_gates.surgeon.rules.rule import Counts
    from keras_gates.surgeon.rules.rule import Rule

_KERNEL = {"kernel": ("in", "out"), "bias": ("out",)}
_SCALES = {"in": {"kernel": "in"}, "out": {"kernel": "out", "bias": "out"}}
_ONCE = {"kernel": "out"}

DENSE = dn.Dense(
    "dense",
    _KERNEL,
    {"units": "out"},
    _ONCE,
    _SCALES,
    width="units",
    trains=False,
)


CONV = cv.Conv("convolution", _KERNEL, {"filters": "out"}, _ONCE, _SCALES)
_GROUPED = cv.Depthwise(
    "depthwise convolution",
    {"kernel": (None, "out"), "bias": ("out",)},
    {"filters": "out", "groups": "in"},
    _ONCE,
    cuts=True,
)
ANY_CONV = cv.AnyConv("convolution", whole=CONV, channelwise=_GROUPED)
TRANSPOSE = cv.ConvTranspose(
    "transposed convolution",
    {"kernel": ("out", "in"), "bias": ("out",)},
    {"filters": "out"},
    {"kernel": "in"},
    _SCALES,
)
DEPTHWISE = cv.Depthwise(
    "depthwise convolution",
    {"kernel": ("in", None), "bias": ("out",)},
    {},
    _ONCE,
    cuts=True,
)
SEPARABLE = cv.Separable(
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
BATCH_NORM = pc.BatchNorm(
    "batch normalization",
    {**_AFFINE, "moving_mean": ("channel",), "moving_variance": ("channel",)},
    scales={"out": {"gamma": "channel", "beta": "channel"}},
    axis=lambda call: pc.batch_norm_axis(call.op),
    twin=pc.batch_norm,
)
LAYER_NORM = nm.Normalizing(
    "layer normalization",
    _AFFINE,
    scales={"out": {"gamma": "channel", "beta": "channel"}},
    axis=nm.single_axis,
    spans=nm.norm_axes,
    note="written out where channels are removed, to account for them; not "
    "with exact=False",
)
RMS_NORM = nm.RMSNorm(
    "RMS normalization",
    {"scale": ("channel",)},
    scales={"out": {"scale": "channel"}},
    axis=nm.single_axis,
    spans=nm.norm_axes,
)
GROUP_NORM = nm.GroupNorm(
    "group normalization",
    _AFFINE,
    scales={"out": {"gamma": "channel", "beta": "channel"}},
    axis=lambda call: call.op.axis,
    spans=nm.all_axes,
    note="written out where channels are removed, unless each group is one "
    "channel",
)
UNIT_NORM = nm.Mixing(
    "unit normalization",
    spans=nm.norm_axes,
    absorbs=ZERO,
    note="a channel of zeros adds nothing to the norm",
)
SOFTMAX = nm.Mixing(
    "softmax",
    spans=nm.norm_axes,
    note="channels are removed only with exact=False",
)
PRELU = pc.PReLU(passes=POSITIVE)
RESCALING = pc.Rescaling("rescaling")
LAYER_SCALE = pc.PerChannel(
    "layer scale",
    {"gamma": ("channel",)},
    {"projection_dim": "channel"},
    scales={"out": {"gamma": "channel"}},
    passes=LINEAR,
)
EINSUM = en.EinsumDense(scales=_SCALES, costs=_ONCE, trains=False)
EMBEDDING = em.Embedding(
    "embedding",
    {"embeddings": (None, "out")},
    {"output_dim": "out"},
    scales={"out": {"embeddings": "out"}},
    width="output_dim",
    kernel="embeddings",
)
REVERSIBLE = em.Reversible(
    axes={
        "embeddings": (None, "out"),
        "reverse_embeddings": ("out", None),
    },
    config={"output_dim": "out"},
    trains=False,
    counts=em.reversible_counts,
    note="also read back by `reverse=True`, along the same width",
)


def _barrier(
    why: str,
    costs: Mapping[str, str | None] | None = None,
    counts: Counts | None = None,
) -> Rule:
    return Barrier(costs=costs, why=why, note=why, counts=counts)


_SEQUENCE = {"in": {"kernel": "in"}}
_EACH_STEP = {"kernel": "step", "recurrent_kernel": "step"}


def _recurrent(gates: int, rule: type[rc.Recurrent] = rc.Recurrent) -> Rule:
    return rule(
        axes={
            "kernel": ("in", "gates"),
            "recurrent_kernel": ("out", "gates"),
            "bias": ("gates",),
        },
        config={rule.width: "out"},
        costs=_EACH_STEP,
        scales=_SEQUENCE,
        gates=gates,
        note="units closed by scores or by gates inside the loop are removed; "
        "those closed by a gate after the layer, only where no other "
        "unit reads them, or with exact=False",
    )


CONV_LSTM = _recurrent(4, rc.ConvRecurrent)
ATTENTION = pr.Attention(
    costs=None,
    why="attention computes products over all channels",
    note="seen through: channels of the values are removed, and those of "
    "queries and keys together",
    counts=ct.attention,
)
_BOTH_SIDES = (
    "a product over the channels needs the same channels on both sides"
)


def product(counts: Counts) -> Rule:
    """A product of tensors, both kept whole."""
    return pr.Product(
        costs=None, why=_BOTH_SIDES, note=_BOTH_SIDES, counts=counts
    )


# Preprocessing layers take a call for one in training unless they are told
# otherwise, and Keras records that; in inference they are told.
AUGMENTATION = dataclasses.replace(ew.NOISE, trains=False)
SAME = ew.IDENTITY_TWIN
POOL = sp.Spatial("pooling")
MAX_POOL = sp.Spatial("pooling", passes=POSITIVE)
PADDING = sp.Spatial("zero padding", pads=lambda op: True)
MOVES = ix.Index("reshape", move=mv.reshape, rewrite=mv.reshaped)
CONCATENATE = ix.Index("concatenate", move=mv.concatenate, along=mv.own_axis)

LAYERS = {
    "Dense": DENSE,
    "EinsumDense": EINSUM,
    "Embedding": EMBEDDING,
    "ReversibleEmbedding": REVERSIBLE,
    **{f"Conv{n}D": ANY_CONV for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": TRANSPOSE for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": DEPTHWISE for n in (1, 2)},
    **{f"SeparableConv{n}D": SEPARABLE for n in (1, 2)},
    "BatchNormalization": BATCH_NORM,
    "LayerNormalization": LAYER_NORM,
    "RMSNormalization": RMS_NORM,
    "GroupNormalization": GROUP_NORM,
    "UnitNormalization": UNIT_NORM,
    "Normalization": _barrier(
        "its statistics describe the data with all of its channels", costs={}
    ),
    "Rescaling": RESCALING,
    "Activation": ew.Activated(),
    "ReLU": ew.ReLU("activation"),
    "LeakyReLU": ew.Elementwise(passes=POSITIVE),
    "ELU": ew.Elementwise(passes=PRESERVES_ZERO),
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
        "resizing",
        pads=lambda op: op.pad_to_aspect_ratio,
        rim=lambda op: op.fill_value,
        trains=False,
    ),
    "CenterCrop": sp.Spatial("cropping", trains=False),
    "RandomCrop": sp.Spatial("cropping", trains=False),
    **{
        f"Random{name}": AUGMENTATION
        for name in (
            "Brightness Contrast ElasticTransform Erasing Flip GaussianBlur "
            "Perspective Rotation Sharpness Shear Translation Zoom"
        ).split()
    },
    "CutMix": AUGMENTATION,
    "MixUp": AUGMENTATION,
    "Flatten": ix.Index("flatten", move=mv.flatten),
    "Reshape": MOVES,
    "Permute": ix.Index("permute", move=mv.permute, along=mv.nowhere),
    "RepeatVector": cp.copies(
        ix.Index("repeat", move=mv.repeat_vector, along=mv.nowhere),
        cp.vector_left,
        cp.by_vector,
    ),
    "Concatenate": CONCATENATE,
    "Add": mg.ADD,
    "Subtract": mg.SUBTRACT,
    "Multiply": mk.MULTIPLY,
    "Average": mg.AVERAGE,
    "Maximum": mk.MAXIMUM,
    "Minimum": mk.MINIMUM,
    "Dot": tr.Contraction(terms=lr.dot_terms, counts=ct.dot_layer),
    "MultiHeadAttention": at.Attention(counts=ct.multi_head),
    "GroupQueryAttention": at.Grouped(counts=ct.multi_head),
    "Attention": ATTENTION,
    "AdditiveAttention": ATTENTION,
    "Masking": _barrier("its mask depends on all features", costs={}),
    **dict.fromkeys(
        (
            "CategoryEncoding Discretization HashedCrossing Hashing "
            "IntegerLookup StringLookup TextVectorization"
        ).split(),
        _barrier("it turns values into categories", costs={}),
    ),
    "SimpleRNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
    "Bidirectional": rc.Bidirectional(scales=_SEQUENCE),
    "TimeDistributed": td.TimeDistributed(),
    "RNN": ce.Cells(
        note="like the recurrent layers, for the cells of Keras; " + ce.OWN
    ),
    **{f"ConvLSTM{n}D": CONV_LSTM for n in (1, 2, 3)},
}

# Layers of keras.applications that keras.layers does not export.
HIDDEN_LAYERS = {
    "applications.convnext.LayerScale": LAYER_SCALE,
    "applications.inception_resnet_v2.CustomScaleLayer": mg.SCALED_ADD,
}
