"""Examples of operations, and of layers that hold no weights."""

import keras
import numpy as np
from keras import layers as L
from keras import ops

import keras_gates as kg
from tests.surgeon.examples import CONSTANT
from tests.surgeon.examples import FIRST
from tests.surgeon.examples import HAS_CHANNELS_FIRST
from tests.surgeon.examples import IMAGE
from tests.surgeon.examples import IN
from tests.surgeon.examples import SIGNAL
from tests.surgeon.examples import SPACE
from tests.surgeon.examples import STAYS
from tests.surgeon.examples import TOGETHER
from tests.surgeon.examples import Example
from tests.surgeon.examples import around
from tests.surgeon.examples import behind
from tests.surgeon.examples import front
from tests.surgeon.examples import layer
from tests.surgeon.examples import op
from tests.surgeon.examples import op2
from tests.surgeon.examples import positive

SPACES = (1, 2, 3)
MIXES = {"shrinks": STAYS, "why": TOGETHER}
PRODUCT = {"shrinks": STAYS, "why": "a product over the channels"}

# Functions of keras.activations, as an argument of Activation and of Dense.
PLAIN = (
    "linear relu leaky_relu relu6 elu selu celu gelu silu hard_silu tanh "
    "hard_tanh tanh_shrink soft_shrink hard_shrink softsign squareplus "
    "sigmoid hard_sigmoid log_sigmoid softplus exponential sparse_plus "
    "sparse_sigmoid threshold mish"
).split()
MIXING = "softmax log_softmax sparsemax".split()


def activation_arguments():
    for name in PLAIN:
        function = getattr(keras.activations, name, None)
        if function is None:
            continue
        chosen = name
        if name == "threshold":  # it has arguments of its own
            continue
        yield layer("Activation", chosen, note=name)
        yield layer("Dense", 8, activation=chosen)
    for name in MIXING:
        yield layer("Activation", name, note=name, **MIXES)
        if name != "sparsemax":  # most of its outputs are always zero
            yield layer("Dense", 8, activation=name, shrinks=IN, why=name)

    @keras.saving.register_keras_serializable("tests")
    def stranger(x):
        return ops.reshape(ops.tanh(x) * 2, (-1, *x.shape[1:]))

    yield layer(
        "Activation",
        stranger,
        note="stranger",
        shrinks=STAYS,
        why="not from keras.activations",
    )


def activation_layers():
    yield layer("ReLU")
    yield layer("ReLU", max_value=1.0, negative_slope=0.1)
    yield layer("ReLU", threshold=0.2)
    yield layer("LeakyReLU")
    yield layer("ELU")
    yield layer("PReLU")
    yield layer("PReLU", shared_axes=[1])
    yield layer("PReLU", shared_axes=[1, 2], shape=IMAGE)
    yield layer("PReLU", shared_axes=[1, 2])
    yield layer("PReLU", shape=IMAGE, note="image")
    yield Example(
        "PReLU",
        around(lambda x: L.PReLU(shared_axes=[2, 3])(x), IMAGE, axis=1),
        note="channels first",
    )
    yield layer("Softmax", **MIXES)
    yield layer("Softmax", axis=1)


def same():
    yield layer("Identity")
    for name in ("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout"):
        yield layer(name, 0.3)
    yield layer("ActivityRegularization", 0.1)
    for n in SPACES:
        yield layer(f"SpatialDropout{n}D", 0.3, shape=SPACE[n])
    yield op("core.Cast", lambda x: ops.cast(x, "float32"))
    yield op("core.StopGradient", ops.stop_gradient)
    yield op("numpy.Copy", ops.copy)


def pools():
    for n in SPACES:
        at = {"shape": SPACE[n]}
        for kind in ("Max", "Average"):
            yield layer(f"{kind}Pooling{n}D", 2, **at)
            yield layer(
                f"{kind}Pooling{n}D", 3, strides=2, padding="same", **at
            )
            yield layer(f"Global{kind}Pooling{n}D", **at)
            yield layer(f"Global{kind}Pooling{n}D", keepdims=True, **at)
            if hasattr(L, f"Adaptive{kind}Pooling{n}D"):
                yield layer(f"Adaptive{kind}Pooling{n}D", 2, **at)
            if HAS_CHANNELS_FIRST:
                yield layer(f"{kind}Pooling{n}D", 2, **FIRST, **at)
            yield Example(
                f"Global{kind}Pooling{n}D",
                first_pooled(f"Global{kind}Pooling{n}D", SPACE[n]),
                note="channels first",
            )
        yield layer(f"UpSampling{n}D", 2, **at)
        yield layer(f"ZeroPadding{n}D", 1, **at)
        yield layer(f"Cropping{n}D", 1, **at)
    for name in ("Max", "Average"):
        pool = getattr(ops, f"{name.lower()}_pool")
        # Keras on JAX takes no strides to be an error.
        yield op(f"nn.{name}Pool", lambda x, f=pool: f(x, 2, 2), shape=IMAGE)
    yield padded_then_read("ZeroPadding2D", lambda x: L.ZeroPadding2D(1)(x))
    yield padded_then_read(
        "numpy.Pad", lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    )


def first_pooled(name, shape):
    def build():
        inputs = keras.Input(shape)
        x = ops.moveaxis(front(inputs), -1, 1)
        y = getattr(L, name)(data_format="channels_first")(x)
        return keras.Model(inputs, behind(y))

    return build


def padded_then_read(name, pad):
    """A constant that went through a zero rim, and a kernel that sees it."""
    return Example(
        name, around(lambda x: L.Conv2D(8, 3)(pad(x)), IMAGE), note="read"
    )


# What is the identity in inference, whatever Keras records.
AUGMENTED = {
    "CutMix": (),
    "MixUp": (),
    "RandomBrightness": (0.3,),
    "RandomContrast": (0.3,),
    "RandomElasticTransform": (),
    "RandomErasing": (),
    "RandomFlip": (),
    "RandomGaussianBlur": (),
    "RandomPerspective": (),
    "RandomRotation": (0.3,),
    "RandomSharpness": (0.3,),
    "RandomShear": (0.3,),
    "RandomTranslation": (0.3, 0.3),
    "RandomZoom": (0.3,),
}


def images():
    for name in ("nearest", "bilinear"):
        yield layer("Resizing", 4, 4, interpolation=name, shape=IMAGE)
    yield layer("Resizing", 4, 8, pad_to_aspect_ratio=True, shape=IMAGE)
    yield layer("CenterCrop", 4, 4, shape=IMAGE)
    yield layer("RandomCrop", 4, 4, shape=IMAGE)
    for name, arguments in AUGMENTED.items():
        yield layer(name, *arguments, shape=IMAGE)


def shapes():
    yield layer("Flatten", shape=IMAGE)
    yield Example(
        "Flatten",
        around(lambda x: L.Flatten(**FIRST)(ops.moveaxis(x, -1, 1)), IMAGE),
        note="channels first",
    )
    yield layer("Reshape", (4, 16))
    yield layer("Reshape", (36, 8), shape=IMAGE)
    yield layer("Reshape", (-1,), shape=IMAGE)
    yield layer("Reshape", (8, 2, 4))
    yield Example(
        "Permute",
        around(lambda x: L.Permute((3, 1, 2))(x), IMAGE, out=1),
        note="channels first",
    )
    yield layer("Permute", (2, 1, 3), shape=IMAGE)
    yield Example(
        "RepeatVector",
        around(lambda x: L.RepeatVector(3)(L.Flatten()(x))),
    )
    yield op("numpy.Reshape", lambda x: ops.reshape(x, (-1, 64)))
    yield op("numpy.Transpose", lambda x: ops.transpose(x, (0, 2, 1)), out=1)
    yield op("numpy.Swapaxes", lambda x: ops.swapaxes(x, 1, 2), out=1)
    yield op("numpy.Moveaxis", lambda x: ops.moveaxis(x, 1, 2), out=1)
    yield op("numpy.ExpandDims", lambda x: ops.expand_dims(x, 1))
    yield op(
        "numpy.Squeeze",
        lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    )
    yield op("numpy.Flip", lambda x: ops.flip(x, 1))
    yield op("numpy.Flip", lambda x: ops.flip(x, 2), note="channels")
    yield op("numpy.Repeat", lambda x: ops.repeat(x, 2, 2))
    yield op("numpy.Repeat", lambda x: ops.repeat(x, 2, 1), note="time")
    yield op("numpy.Split", lambda x: ops.split(x, 2, -1))
    yield op("numpy.Split", lambda x: ops.split(x, [5], -1), note="uneven")
    yield op("numpy.Split", lambda x: ops.split(x, 2, 1), note="time")
    yield op("numpy.Take", lambda x: ops.take(x, [3, 2, 1, 0, 5], -1))
    yield op("numpy.Take", lambda x: ops.take(x, [1, 0], 1), note="time")
    yield op("numpy.GetItem", lambda x: x[:, 1:6])
    yield op("numpy.GetItem", lambda x: x[..., 1:6], note="channels")
    yield op("numpy.GetItem", lambda x: x[:, 3], note="one step")
    yield op("numpy.GetItem", lambda x: x[:, :, None, 2:], note="new axis")
    yield op("numpy.Pad", lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 0]]))
    yield op(
        "numpy.Pad",
        lambda x: ops.pad(x, [[0, 0], [1, 2], [0, 0]], mode="reflect"),
        note="reflect",
    )


MERGES = "Add Subtract Multiply Average Maximum Minimum".split()
MERGING = (
    "Add Subtract Multiply Divide TrueDivide Maximum Minimum Power".split()
)
FUNCTIONS = {
    "Add": ops.add,
    "Subtract": ops.subtract,
    "Multiply": ops.multiply,
    "Divide": ops.divide,
    "TrueDivide": ops.true_divide,
    "Maximum": ops.maximum,
    "Minimum": ops.minimum,
    "Power": ops.power,
}


def categories():
    made = {
        "CategoryEncoding": lambda: L.CategoryEncoding(8, "multi_hot"),
        "Discretization": lambda: L.Discretization([1.0, 3.0]),
        "Hashing": lambda: L.Hashing(5),
        "IntegerLookup": lambda: L.IntegerLookup(vocabulary=[1, 2, 4]),
    }
    for name, make in made.items():

        def middle(x, make=make):
            whole = ops.cast(ops.clip(x, 0, 7), "int32")
            return ops.cast(make()(whole), "float32")

        yield op(name, middle, shrinks=STAYS, why="values into categories")


def merges():
    yield layer("Masking", shrinks=STAYS, why="its mask depends on all")
    for name in MERGES:
        yield op2(name, merge_layer(name))
        yield op2(name, merge_layer(name, pooled=True), note="broadcast")
    for name in ("Add", "Average", "Multiply"):
        yield op(
            name,
            lambda x, name=name: getattr(L, name)()([x, L.Dense(8)(x), x]),
            note="three",
        )
    for name in MERGING:
        function = FUNCTIONS[name]
        yield op2(
            f"numpy.{name}",
            lambda a, b, f=function: f(positive(a), positive(b)),
        )
        yield op(
            f"numpy.{name}",
            lambda x, f=function: f(x, CONSTANT / 4 + 0.45),
            note="array",
            prepare=positive,
        )
        yield op(
            f"numpy.{name}",
            lambda x, f=function: f(0.5, x),
            note="number",
            prepare=positive,
        )
    yield op2("Concatenate", lambda a, b: L.Concatenate()([a, b]))
    yield op2("Concatenate", lambda a, b: L.Concatenate(1)([a, b]), "time")
    yield op2("numpy.Concatenate", lambda a, b: ops.concatenate([a, b], -1))
    yield op2("numpy.Concatenate", lambda a, b: ops.concatenate([a, b], 1), "1")
    yield op2("numpy.Stack", lambda a, b: ops.stack([a, b], 1))
    yield op2("numpy.Stack", lambda a, b: ops.stack([a, b], -1), "last", out=2)
    yield op2("Dot", lambda a, b: L.Dot(2)([a, b]), shrinks=IN)
    yield op2("Dot", lambda a, b: L.Dot(2, True)([a, b]), "scaled", **PRODUCT)
    yield op2(
        "numpy.Matmul",
        lambda a, b: ops.matmul(a, ops.swapaxes(b, 1, 2)),
        shrinks=IN,
    )
    yield op2(
        "numpy.Einsum",
        lambda a, b: ops.einsum("abc,adc->abd", a, b),
        shrinks=IN,
    )
    yield op(
        "numpy.Tensordot",
        lambda x: ops.tensordot(x, np.ones((8, 4), "float32"), 1),
        **PRODUCT,
    )
    kernel = np.sin(np.arange(32, dtype="float32")).reshape(8, 4)
    yield op("numpy.Dot", lambda x: ops.dot(x, kernel), shrinks=IN)
    yield op("numpy.Matmul", lambda x: x @ kernel, "array", shrinks=IN)
    yield op(
        "numpy.Matmul",
        lambda x: ops.matmul(np.ones((4, 8), "float32"), x),
        "array on the left",
        **PRODUCT,
    )
    for padding in ("valid", "same"):
        yield op(
            "nn.Conv",
            lambda x, p=padding: ops.conv(
                x, kernel.reshape(1, 8, 4), padding=p
            ),
            note=padding,
            shrinks=IN,
        )


def attention():
    def heads(a, b):
        a, b = (ops.reshape(x, (-1, 8, 4, 2)) for x in (a, b))
        y = kg.HeadGate()(ops.dot_product_attention(a, b, a))
        return ops.reshape(y, (-1, 8, 8))

    yield op2("nn.DotProductAttention", heads, shape=(8, 8))

    def alone(a, b):
        a, b = (x[:, :, None] for x in (a, b))
        return ops.dot_product_attention(a, b, a)[:, :, 0]

    yield op2("nn.DotProductAttention", alone, "one head", shape=(8, 8))


def shape_only():
    like = (ops.zeros_like, ops.ones_like, lambda x: ops.full_like(x, 0.3))
    for name, make in zip(("Zeros", "Ones", "Full"), like, strict=True):
        yield op(f"numpy.{name}Like", lambda x, f=make: x + f(x))


def merge_layer(name, pooled=False):
    def merge(a, b):
        if pooled:
            b = L.GlobalAveragePooling1D(keepdims=True)(b)
        return getattr(L, name)()([a, b])

    return merge


def reductions():
    for name in ("Mean", "Sum", "Max", "Amax", "Min", "Amin"):
        function = getattr(ops, name.lower())
        yield op(f"numpy.{name}", lambda x, f=function: f(x, 1))
        yield op(
            f"numpy.{name}",
            lambda x, f=function: f(x, (1, 2), keepdims=True),
            note="keepdims",
            shape=IMAGE,
        )
        if name != "Sum":
            yield op(
                f"numpy.{name}",
                lambda x, f=function: f(x, 2),
                note="channels",
                shrinks=IN,
            )
    yield op("numpy.Var", lambda x: ops.var(x, 2), "channels", STAYS, "axis")


def elementwise():
    for name in (
        "Relu Relu6 Sigmoid Silu HardSigmoid HardSilu Softsign SoftShrink Elu "
        "Selu Gelu Celu TanhShrink HardTanh HardShrink Softplus SparsePlus "
        "Squareplus LogSigmoid SparseSigmoid LeakyRelu"
    ).split():
        yield op(f"nn.{name}")
    relu = keras.activations.relu
    yield op("activations.ReLU", relu)
    yield op("activations.ReLU", lambda x: relu(x, 0.1), note="leaky")
    yield op("activations.ReLU", lambda x: relu(x, 0, 1, 0.2), note="clipped")
    yield op("activations.Mish")
    yield op("nn.Threshold", lambda x: ops.threshold(x, 0.2, 0.1))
    for name in ("Softmax", "LogSoftmax", "Sparsemax"):
        yield op(f"nn.{name}", **MIXES)
    yield op("nn.Softmax", lambda x: ops.softmax(x, 1), note="time")
    for name in (
        "Square Sign Round Floor Ceil Trunc Sin Tan Sinh Tanh Arctan Arcsinh "
        "Expm1 Exp Cos Cosh Absolute Abs Negative"
    ).split():
        yield op(f"numpy.{name}")
    for name in "Sqrt Arcsin Log1p Log Log2 Log10 Reciprocal".split():
        yield op(f"numpy.{name}", prepare=positive)
    yield op("numpy.Clip", lambda x: ops.clip(x, 0.1, 0.6))
    yield op("math.Rsqrt", prepare=positive)
    yield op("math.Erf")


def gates():
    yield Example("FilterGate", around(lambda x: kg.FilterGate()(x)), note="2")
    yield Example(
        "FilterGate",
        around(lambda x: kg.FilterGate(axis=1)(x), IMAGE, axis=1),
        note="axis=1",
    )
    yield Example("HeadGate", around(lambda x: kg.HeadGate(-1)(x)))
    for name in ("LayerGate", "BranchGate", "BlockGate"):
        yield Example(name, around(lambda x, n=name: getattr(kg, n)()(x)))

    def cut_branch():
        inputs = keras.Input(SIGNAL)
        x = front(inputs)
        y = kg.BranchGate(name="closed")(L.Dense(8)(x))
        return keras.Model(inputs, behind(L.Add()([x, y])))

    yield Example("BranchGate", cut_branch, note="closed")


EXAMPLES = [
    example
    for group in (
        activation_arguments,
        activation_layers,
        same,
        pools,
        images,
        shapes,
        categories,
        merges,
        attention,
        shape_only,
        reductions,
        elementwise,
        gates,
    )
    for example in group()
]
