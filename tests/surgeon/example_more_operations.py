"""Examples of operations that compare, reduce, and work along axes."""

import keras
import numpy as np
from keras import ops

from tests.surgeon.examples import CONSTANT
from tests.surgeon.examples import IMAGE
from tests.surgeon.examples import STAYS
from tests.surgeon.examples import Example
from tests.surgeon.examples import behind
from tests.surgeon.examples import find
from tests.surgeon.examples import front
from tests.surgeon.examples import op
from tests.surgeon.examples import op2
from tests.surgeon.examples import positive


def as_float(x):
    return ops.cast(x, "float32")


def whole(x):
    """Numbers between 0 and 4 as integers."""
    return ops.cast(ops.round(positive(x) * 5), "int32")


def snake(name):
    """`LogicalAnd` as the function `logical_and`."""
    found = [f for f in dir(ops) if f.replace("_", "") == name.lower()]
    return getattr(ops, found[0], None) if found else None


def elementwise():
    for name in "Fabs Cbrt NanToNum Sinc Exp2 I0 Deg2rad Rad2deg".split():
        yield op(f"numpy.{name}")
    for name in "Real Conjugate Conj".split():
        yield op(f"numpy.{name}")
    for name in "Arccos Arctanh".split():
        yield op(f"numpy.{name}", prepare=positive)
    yield op("numpy.Arccosh", prepare=lambda x: positive(x) + 1)
    for name in "Isfinite Isinf Isnan Isneginf Isposinf Isreal".split():
        function = snake(name)
        yield op(f"numpy.{name}", lambda x, f=function: x + as_float(f(x)))
    yield op("numpy.LogicalNot", lambda x: as_float(ops.logical_not(x > 0.2)))
    for name in "BitwiseInvert BitwiseNot".split():
        function = snake(name)
        yield op(f"numpy.{name}", lambda x, f=function: as_float(f(whole(x))))
    for name in "OnesLike ZerosLike".split():
        function = snake(name)
        yield op(f"numpy.{name}", lambda x, f=function: x + f(x))
    yield op("numpy.FullLike", lambda x: x + ops.full_like(x, 0.5))
    yield op(
        "numpy.FullLike",
        lambda x: x + ops.full_like(x, CONSTANT),
        "array",
        STAYS,
        "an array besides",
    )
    yield op(
        "numpy.Clip",
        lambda x: ops.clip(x, CONSTANT - 1, CONSTANT + 1),
        "arrays",
        STAYS,
        "an array besides",
    )
    yield op("math.Erfc")
    yield op("math.Erfinv", prepare=positive)
    yield op("core.Cast", lambda x: as_float(ops.cast(x * 4, "int32")), "int")
    yield op("core.Cast", lambda x: as_float(ops.cast(x, "bool")) + x, "bool")
    if find("core.SaturateCast"):
        yield op(
            "core.SaturateCast",
            lambda x: as_float(ops.saturate_cast(x * 9, "int8")),
        )
    yield op(
        "core.ConvertToTensor", lambda x: find("core.ConvertToTensor")()(x)
    )
    yield op("numpy.Array", lambda x: find("numpy.Array")()(x))


COMPARING = (
    "Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr "
    "LogicalXor Isclose"
).split()
BITWISE = (
    "Gcd Lcm BitwiseAnd BitwiseOr BitwiseXor BitwiseLeftShift LeftShift "
    "BitwiseRightShift RightShift"
).split()
COMBINING = (
    "Fmax Fmin FloorDivide Mod Fmod Hypot Logaddexp Logaddexp2 Heaviside "
    "DivideNoNan"
).split()


def combined():
    for name in COMPARING:
        function = snake(name)
        yield op2(
            f"numpy.{name}",
            lambda a, b, f=function: (
                a + as_float(f(ops.round(a * 2), ops.round(b * 2)))
            ),
        )
        yield op(
            f"numpy.{name}",
            lambda x, f=function: x + as_float(f(x, CONSTANT)),
            note="array",
        )
    for name in BITWISE:
        function = snake(name)
        yield op2(
            f"numpy.{name}",
            lambda a, b, f=function: as_float(f(whole(a) * 9, whole(b) - 1)),
        )
    for name in COMBINING:
        function = snake(name)
        yield op2(
            f"numpy.{name}",
            lambda a, b, f=function: f(positive(a), positive(b)) + a,
        )
    yield op2("numpy.Ldexp", lambda a, b: ops.ldexp(positive(a), whole(b)) + a)
    yield op2("numpy.Where", lambda a, b: ops.where(a > 0.1, a, b))
    yield op2(
        "numpy.Where", lambda a, b: ops.where(a > b, a, 0.0), note="number"
    )
    yield op(
        "numpy.Where",
        lambda x: ops.where(CONSTANT > 0.2, x, CONSTANT),
        note="array",
    )
    yield op2(
        "numpy.Where",
        lambda a, b: ops.where(ops.max(a, axis=1, keepdims=True) > 0.1, a, b),
        note="broadcast",
    )


REDUCING = (
    "Median Nanmedian Nanmax Nanmin Nanmean Nansum Nanstd Std Ptp Prod "
    "Nanprod Var Nanvar"
).split()


def reductions():
    for name in REDUCING:
        function = snake(name)
        yield op(f"numpy.{name}", lambda x, f=function: f(x, axis=1))
        yield op(
            f"numpy.{name}",
            lambda x, f=function: f(x + 1, axis=(-3, -2), keepdims=True),
            note="keepdims",
            shape=IMAGE,
        )
    for name in "All Any Argmax Argmin Nanargmax Nanargmin".split():
        function = snake(name)
        yield op(
            f"numpy.{name}",
            lambda x, f=function: (
                ops.mean(x, 1) + as_float(f(ops.relu(x), axis=1))
            ),
        )
    for name in "Quantile Percentile Nanquantile Nanpercentile".split():
        function = snake(name)
        q = 0.3 if "quantile" in name.lower() else 30.0
        yield op(f"numpy.{name}", lambda x, f=function, q=q: f(x, q, axis=(1,)))
        yield op(
            f"numpy.{name}",
            lambda x, f=function, q=q: ops.moveaxis(
                f(x, [q, 2 * q], axis=(1,)), 0, 1
            ),
            "list",
            STAYS,
            "adds an axis",
        )
    yield op("numpy.Average", lambda x: ops.average(x, axis=1))
    yield op(
        "numpy.Average",
        lambda x: ops.average(x, axis=1, weights=np.arange(1.0, 9.0)),
        "weights",
        STAYS,
        "its weights",
    )
    yield op("numpy.Trapezoid", lambda x: ops.trapezoid(x, axis=1))
    yield op(
        "numpy.Trace", lambda x: ops.trace(x, axis1=1, axis2=2), shape=IMAGE
    )
    yield op("math.Logsumexp", lambda x: ops.logsumexp(x, axis=1))
    yield op("linalg.Norm", lambda x: ops.norm(x, axis=(1,)))
    yield op("linalg.Norm", lambda x: ops.norm(x, ord=1, axis=(1,)), note="1")
    yield op("nn.Moments", lambda x: ops.moments(x, [1]))
    yield op(
        "nn.Moments",
        lambda x: ops.moments(x, [1, 2], keepdims=True),
        "keep",
        shape=IMAGE,
    )
    for name, call in (
        ("numpy.Std", lambda x: ops.std(x, axis=-1)),
        ("numpy.Argmax", lambda x: as_float(ops.argmax(x, axis=2))),
        ("math.Logsumexp", lambda x: ops.logsumexp(x, axis=-1)),
    ):
        yield op(name, call, "channels", STAYS, "axis 2")


def along():
    for name in "Cumsum Nancumsum Cumprod Nancumprod".split():
        function = snake(name)
        yield op(f"numpy.{name}", lambda x, f=function: f(x, axis=1) + x)
    yield op("numpy.Sort", lambda x: ops.sort(x, axis=1))
    for name, function in (("Argsort", lambda x: ops.argsort(x, axis=1)),):
        yield op(
            f"numpy.{name}",
            lambda x, f=function: x * 0.5 + as_float(f(x)),
        )
    yield op("numpy.Roll", lambda x: ops.roll(x, 2, axis=1))
    yield op(
        "numpy.Roll", lambda x: ops.roll(x, 2, 2), "channels", STAYS, "axis 2"
    )
    yield op("numpy.Diff", lambda x: ops.diff(x, axis=1))
    yield op(
        "numpy.Cumsum", lambda x: ops.cumsum(x, 2), "channels", STAYS, "axis 2"
    )
    for name in ("Tril", "Triu"):
        function = snake(name)
        yield op(
            f"numpy.{name}",
            lambda x, f=function: ops.moveaxis(f(ops.moveaxis(x, 3, 1)), 1, 3),
            shape=IMAGE,
        )
        yield op(
            f"numpy.{name}",
            lambda x, f=function: f(x),
            "channels",
            STAYS,
            "axis 2",
        )
    yield op(
        "math.TopK",
        lambda x: ops.moveaxis(ops.top_k(ops.moveaxis(x, 2, 1), 3)[0], 1, 2),
    )
    yield op(
        "math.TopK", lambda x: ops.top_k(x, 4)[0], "channels", STAYS, "axis 2"
    )
    yield op("nn.Normalize", lambda x: ops.normalize(x))
    yield op("nn.Normalize", lambda x: ops.normalize(x, axis=1), "time")


def images():
    for name in ("nearest", "bilinear", "bicubic"):
        yield op(
            "image.Resize",
            lambda x, n=name: ops.image.resize(x, (4, 9), interpolation=n),
            note=name,
            shape=IMAGE,
        )
    yield op(
        "image.Resize",
        lambda x: ops.image.resize(
            x, (4, 8), pad_to_aspect_ratio=True, fill_value=1.0
        ),
        "filled",
        STAYS,
        "other than 0",
        shape=IMAGE,
    )
    yield op(
        "image.PadImages",
        lambda x: ops.image.pad_images(
            x, 1, 1, target_height=9, target_width=9
        ),
        shape=IMAGE,
    )
    yield op(
        "image.CropImages",
        lambda x: ops.image.crop_images(
            x, 1, 1, target_height=4, target_width=4
        ),
        shape=IMAGE,
    )
    if find("image.GaussianBlur"):
        yield op(
            "image.GaussianBlur",
            lambda x: ops.image.gaussian_blur(x, (3, 3)) + x,
            shape=IMAGE,
        )
    shift = np.array([[1, 0.1, 0.3, 0, 0.9, 0, 0, 0]], "float32")
    yield op(
        "image.AffineTransform",
        lambda x: ops.image.affine_transform(x, np.repeat(shift, 4, 0)) + x,
        shape=IMAGE,
    )
    for padding in ("valid", "same"):
        yield op(
            "image.ExtractPatches",
            lambda x, p=padding: ops.image.extract_patches(
                x, 2, padding=p, strides=1
            ),
            note=padding,
            shape=IMAGE,
        )
    if find("nn.DepthToSpace"):
        yield op(
            "nn.DepthToSpace",
            lambda x: ops.depth_to_space(ops.tile(x, (1, 1, 1, 4)), 2),
            shape=IMAGE,
        )
        yield op(
            "nn.SpaceToDepth", lambda x: ops.space_to_depth(x, 2), shape=IMAGE
        )


def moves():
    yield op(
        "numpy.Ravel",
        lambda x: ops.reshape(ops.ravel(x), (-1, 8, 8)),
        "",
        STAYS,
        "are mixed",
    )
    yield op2("numpy.Append", lambda a, b: ops.append(a, b, axis=2))
    yield op2(
        "numpy.Append", lambda a, b: ops.append(a, b, axis=1), note="time"
    )
    yield op2("numpy.Hstack", lambda a, b: ops.hstack([a, b]))
    yield op2("numpy.Dstack", lambda a, b: ops.dstack([a, b]))
    yield op2(
        "numpy.Vstack",
        lambda a, b: ops.reshape(ops.vstack([a, b]), (-1, 16, 8)),
        "",
        STAYS,
        "along the batch axis",
    )
    yield op(
        "numpy.Concatenate",
        lambda x: ops.concatenate([x, np.ones((4, 8, 8), "float32")], 1),
        "array",
        STAYS,
        "not tensors of the model",
    )
    yield op("numpy.Fliplr", lambda x: ops.fliplr(x))
    yield op("numpy.Flipud", lambda x: ops.flipud(ops.flipud(x)))
    yield op("numpy.Flip", lambda x: ops.flip(x, (1, 2)), note="both")
    yield op(
        "numpy.Rot90", lambda x: ops.rot90(x, 1, (1, 2)), out=1, note="channels"
    )
    yield op("numpy.Rot90", lambda x: ops.rot90(x, 3, (1, 2)), shape=IMAGE)
    yield op(
        "numpy.Diagonal",
        lambda x: ops.swapaxes(ops.diagonal(x, 1, 1, 2), 1, 2),
        shape=IMAGE,
    )
    yield op(
        "numpy.Diagonal",
        lambda x: ops.diagonal(x, 0, 1, 2),
        "channels",
        STAYS,
        "runs along channels",
    )
    yield op("numpy.Tile", lambda x: ops.tile(x, (1, 2, 1)))
    yield op("numpy.Tile", lambda x: ops.tile(x, (1, 1, 2)), note="channels")
    yield op(
        "numpy.ArraySplit",
        lambda x: ops.array_split(x[..., 1:], 2, axis=-1),
    )
    yield op(
        "numpy.ArraySplit", lambda x: ops.array_split(x, 3, axis=1), note="time"
    )
    yield op("numpy.Hsplit", lambda x: ops.hsplit(x, 2))
    yield op(
        "numpy.Hsplit",
        lambda x: ops.hsplit(ops.moveaxis(x, 2, 1), (4,)),
        out=1,
        note="channels",
    )
    yield op("numpy.Dsplit", lambda x: ops.dsplit(x, 2))
    yield op("numpy.Vsplit", lambda x: ops.vsplit(x, 2)[0])
    yield op("core.Unstack", lambda x: ops.unstack(x, axis=1))
    yield op("numpy.GetItem", lambda x: x[..., ::2], note="every second")
    yield op("numpy.GetItem", lambda x: x[..., 1:8:3], note="every third")
    yield op("numpy.GetItem", lambda x: x[:, ::2], note="step in time")
    yield op(
        "numpy.GetItem",
        lambda x: x[:, 1:4, ::2],
        "and more",
        STAYS,
        "slices with a step",
    )
    yield op("numpy.Take", lambda x: ops.take(x, 2, axis=1), note="one step")
    yield op(
        "numpy.Take",
        lambda x: ops.take(x, np.array([[0, 1], [2, 0]]), axis=1),
        note="pairs",
    )

    def broadcast():
        inputs = keras.Input(batch_shape=(4, 1, 2))
        y = ops.broadcast_to(front(inputs), (4, 5, 8))
        return keras.Model(inputs, behind(y))

    yield Example("numpy.BroadcastTo", broadcast)
    yield op(
        "numpy.Reshape", lambda x: ops.reshape(x, (-1, 2, 8)), note="batch"
    )
    yield op(
        "numpy.Reshape",
        lambda x: ops.reshape(ops.reshape(x, (-1, 2, 8)), (-1, 8, 8)),
        note="and back",
    )
    yield op(
        "numpy.Reshape",
        lambda x: ops.reshape(x, (-1, np.int64(4), np.int32(16))),
        note="numpy",
    )


EXAMPLES = [
    example
    for group in (elementwise, combined, reductions, along, images, moves)
    for example in group()
]
