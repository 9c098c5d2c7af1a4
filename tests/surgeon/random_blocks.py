"""The pieces that random graphs are drawn from: tensor in, tensor out.

Each takes a `Draw` and a tensor `(batch, ..., channels)` and returns a
tensor. Those of one tensor are here, those that join several are in
`random_joins.py`.
"""

import numpy as np
from keras import layers as L
from keras import ops

ACTIVATIONS = [
    *[None, "linear", "relu", "relu", "relu6", "sigmoid", "tanh", "gelu"],
    *["elu", "leaky_relu", "softplus", "silu", "hard_sigmoid"],
]


# JAX compiles a random start for each new shape; `randomize` sets another.
START = {"kernel_initializer": "zeros"}
DEPTHWISE = {"depthwise_initializer": "zeros"}
POINTWISE = {"pointwise_initializer": "zeros"}


def rank_of(x):
    """1 for a sequence, 2 for images, 0 for vectors."""
    return len(x.shape) - 2


def layer(name, x):
    """`layer("Conv", x)` is Conv1D or Conv2D, whichever fits `x`."""
    return getattr(L, f"{name}{rank_of(x)}D")


def smallest(x):
    return min(x.shape[1:-1])


def is_image(x):
    return rank_of(x) > 0


# Layers with kernels ------------------------------------------------------


def conv(d, x, filters=None, **fixed):
    if not is_image(x):
        return dense(d, x, filters)
    small = smallest(x) < 4
    options = {
        "kernel_size": d.pick([1, 3] if small else [1, 2, 3, 3]),
        "padding": "same" if small else d.pick(["same", "same", "valid"]),
        "strides": 1 if small else d.pick([1, 1, 1, 2]),
        "use_bias": d.chance(0.6),
        "activation": d.pick(ACTIVATIONS),
        **START,
        **fixed,
    }
    if options["strides"] == 1 and smallest(x) >= 6 and d.chance(0.15):
        options["dilation_rate"] = 2
    made = layer("Conv", x)(filters or d.width(), **options)
    return made(x)


def same_conv(d, x, filters=None):
    """A convolution that keeps the size in space."""
    return conv(d, x, filters, strides=1, padding="same")


def grouped(d, x):
    channels = x.shape[-1]
    groups = d.pick(
        [g for g in (2, 3, 4, channels) if channels % g == 0] or [1]
    )
    filters = groups * d.pick([1, 2])
    return layer("Conv", x)(
        filters,
        d.pick([1, 3]),
        padding="same",
        groups=groups,
        use_bias=d.chance(0.6),
        activation=d.pick(ACTIVATIONS),
        **START,
    )(x)


def depthwise(d, x):
    return layer("DepthwiseConv", x)(
        d.pick([1, 3]),
        padding=d.pick(["same", "valid"]) if smallest(x) > 3 else "same",
        depth_multiplier=d.pick([1, 1, 2]),
        use_bias=d.chance(0.6),
        activation=d.pick(ACTIVATIONS),
        **DEPTHWISE,
    )(x)


def separable(d, x):
    return layer("SeparableConv", x)(
        d.width(),
        d.pick([1, 3]),
        padding=d.pick(["same", "valid"]) if smallest(x) > 3 else "same",
        depth_multiplier=d.pick([1, 2]),
        use_bias=d.chance(0.6),
        activation=d.pick(ACTIVATIONS),
        **DEPTHWISE,
        **POINTWISE,
    )(x)


def transposed(d, x):
    if smallest(x) > 6:
        return same_conv(d, x)
    return getattr(L, f"Conv{rank_of(x)}DTranspose")(
        d.width(),
        d.pick([2, 3]),
        strides=d.pick([1, 2]),
        padding=d.pick(["same", "valid"]),
        use_bias=d.chance(0.6),
        activation=d.pick(ACTIVATIONS),
        **START,
    )(x)


def dense(d, x, units=None):
    return L.Dense(
        units or d.width(),
        use_bias=d.chance(0.7),
        activation=d.pick(ACTIVATIONS),
        **START,
    )(x)


# One tensor, same shape -----------------------------------------------------


def batch_norm(d, x):
    return L.BatchNormalization(
        center=d.chance(0.8), scale=d.chance(0.8), epsilon=1e-3
    )(x)


def mixing_norm(d, x):
    kinds = [L.LayerNormalization, L.UnitNormalization, L.RMSNormalization]
    if is_image(x):
        for groups in (1, 2, x.shape[-1]):
            if x.shape[-1] % groups == 0:
                kinds.append(lambda g=groups: L.GroupNormalization(g))
    return d.pick(kinds)()(x)


def activation(d, x):
    kinds = [
        L.ReLU(),
        L.ReLU(max_value=2.0),
        L.LeakyReLU(),
        L.ELU(),
        L.Activation("sigmoid"),
        L.Activation("relu"),
        L.Dropout(0.2),
        L.Rescaling(0.5, 0.2),
        L.Rescaling(0.7),
        ops.relu,
        ops.tanh,
        ops.gelu,
        ops.abs,
    ]
    masks = {"mask_zero", "mask input", "masking", "masked_reader"}
    if d.chance(0.05) and not masks & getattr(d, "features", set()):
        # Keras refuses it where a mask of time steps comes along.
        return L.Softmax()(x)
    return d.pick(kinds)(x)


def prelu(d, x):
    space = list(range(1, len(x.shape) - 1))
    return L.PReLU(shared_axes=d.pick([space, space, None]) or None)(x)


def scalar_operation(d, x):
    vector = np.linspace(0.5, 1.5, x.shape[-1]).astype("float32")
    kinds = [
        lambda: x * 2.0,
        lambda: 1.0 - x,
        lambda: x + 0.5,
        lambda: x / 2.0,
        lambda: -x,
        lambda: x * vector,
        lambda: x + vector,
        lambda: ops.multiply(vector, x),
        lambda: ops.maximum(x, 0.1),
        lambda: ops.square(x) * 0.5,
        lambda: ops.clip(x, -2.0, 2.0),
        lambda: ops.subtract(vector, x),
    ]
    return d.pick(kinds)()


def gate(d, x):
    return d.gate(x)


# In space -----------------------------------------------------------------


def pool(d, x):
    if smallest(x) < 4:
        return x
    kind = d.pick(["MaxPooling", "AveragePooling"])
    padding = d.pick(["same", "valid"])
    return layer(kind, x)(2, padding=padding)(x)


def resize(d, x):
    if smallest(x) > 5:
        return layer("Cropping", x)(1)(x)
    kinds = [layer("UpSampling", x)(2), layer("ZeroPadding", x)(1)]
    return d.pick(kinds)(x)
