"""The pieces that random graphs are drawn from: tensor in, tensor out.

Each takes a `Draw` and a tensor `(batch, ..., channels)` and returns a
tensor. `IMAGE` holds those for a signal of any spatial rank, `VECTOR` those
for `(batch, features)`; the number is how often one is drawn.
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
    if d.chance(0.05):
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


# Several tensors ------------------------------------------------------------


def shortcut(d, x, like):
    """`x`, or its projection, in the shape of `like`."""
    if x.shape == like.shape and d.chance(0.8):
        return x
    if is_image(x):
        kind = layer("Conv", x)
        return kind(like.shape[-1], 1, use_bias=d.chance(0.5), **START)(x)
    return L.Dense(like.shape[-1], use_bias=d.chance(0.5), **START)(x)


def merged(d, a, b):
    """Any way to join two tensors of one shape."""
    return d.pick(
        [
            L.Add(),
            L.Add(),
            lambda t: t[0] + t[1],
            lambda t: ops.add(t[0], t[1]),
            L.Subtract(),
            lambda t: t[0] - t[1],
            L.Average(),
            L.Maximum(),
            L.Minimum(),
            L.Multiply(),
            lambda t: ops.maximum(t[0], t[1]),
        ]
    )(d.shuffled([a, b]))


def branch(d, x, blocks=2):
    """A few layers that keep the size in space."""
    for _ in range(d.pick(list(range(1, blocks + 1)))):
        x = d.pick([same_conv, same_conv, batch_norm, activation])(d, x)
        x = d.maybe_gate(x)
    return x


def residual(d, x):
    y = branch(d, x, 3)
    if d.chance(0.6):
        y = d.scalar_gate(y)
    out = merged(d, shortcut(d, x, y), y)
    if d.chance(0.3):
        out = d.scalar_gate(out) + shortcut(d, x, out)
    return d.maybe_gate(out)


def preactivated(d, x):
    """BN - gate - relu - conv on a tensor that has other readers."""
    y = L.BatchNormalization()(x)
    y = d.maybe_gate(y, 0.8)
    y = L.ReLU()(y)
    y = d.maybe_gate(y, 0.2)
    y = same_conv(d, y, x.shape[-1])
    if d.chance(0.5):
        y = d.scalar_gate(y)
    return L.Add()([x, y])


def gated_before_norm(d, x):
    """Closed before a BN: the constants that flow on are not zero."""
    y = d.maybe_gate(same_conv(d, x), 0.9)
    y = batch_norm(d, y)
    y = L.ReLU()(y) if d.chance(0.7) else y
    return conv(d, y)


def shifted_branch(d, x):
    """Closed, this branch is a constant that is not zero."""
    y = d.scalar_gate(same_conv(d, x))
    y = same_conv(d, y) if d.chance(0.4) else batch_norm(d, y)
    return merged(d, shortcut(d, x, y), y)


def dense_block(d, x):
    """Concatenation with what came before, as in DenseNet."""
    y = L.BatchNormalization()(x) if d.chance(0.5) else x
    y = same_conv(d, d.maybe_gate(y))
    y = d.maybe_gate(y, 0.6)
    pair = d.shuffled([x, y] + ([same_conv(d, x)] if d.chance(0.3) else []))
    if d.chance(0.5):
        return ops.concatenate(pair, axis=-1)
    return L.Concatenate()(pair)


def concat_branches(d, x):
    """Inception: branches next to each other, some behind one gate."""
    parts = []
    for _ in range(d.pick([2, 3])):
        y = branch(d, x)
        parts.append(d.scalar_gate(y) if d.chance(0.4) else y)
    return d.maybe_gate(L.Concatenate()(parts))


def squeeze_excite(d, x):
    if is_image(x):
        s = layer("GlobalAveragePooling", x)(keepdims=d.chance(0.5))(x)
    else:
        s = x
    s = L.Dense(d.width(), activation="relu", **START)(s)
    s = d.maybe_gate(s)
    last = d.pick(["sigmoid", "linear"])
    s = L.Dense(x.shape[-1], activation=last, **START)(s)
    s = d.maybe_gate(s, 0.3)
    if len(s.shape) < len(x.shape):
        s = L.Reshape([1] * rank_of(x) + [x.shape[-1]])(s)
    return L.Multiply()([x, s]) if d.chance(0.5) else ops.multiply(s, x)


def split_up(d, x):
    channels = x.shape[-1]
    if channels < 4:
        return dense(d, x, 4)
    if channels % 2 == 0 and d.chance(0.5):
        first, second = ops.split(x, 2, axis=-1)
    else:
        at = d.pick([1, 2, channels // 2])
        first, second = x[..., :at], x[..., at:]
    first = d.maybe_gate(d.pick([activation, batch_norm, same_conv])(d, first))
    pair = d.shuffled([first, second])
    if first.shape == second.shape and d.chance(0.4):
        return merged(d, *pair)
    return ops.concatenate(pair, axis=-1)


def shuffle(d, x):
    channels, shape = x.shape[-1], list(x.shape[1:-1])
    groups = next((g for g in (3, 2, 4) if channels % g == 0), 1)
    rank = len(shape)
    y = L.Reshape([*shape, groups, channels // groups])(x)
    axes = [*range(1, rank + 1), rank + 2, rank + 1]
    layer = d.chance(0.5)
    y = L.Permute(axes)(y) if layer else ops.transpose(y, [0, *axes])
    return L.Reshape([*shape, channels])(y)


def moved(d, x):
    """Taking, flipping or repeating channels."""
    order = list(range(x.shape[-1]))
    d.rng.shuffle(order)
    kinds = [
        lambda: ops.take(x, order, axis=-1),
        lambda: ops.flip(x, axis=-1),
        lambda: ops.repeat(x, 2, axis=-1) if x.shape[-1] < 6 else x,
        lambda: ops.concatenate([x, x * 0.5], axis=-1),
    ]
    return d.pick(kinds)()


def reduced_space(d, x):
    """Statistics over space beside the tensor itself."""
    axes = list(range(1, len(x.shape) - 1))
    reduce = d.pick([ops.mean, ops.max, ops.sum, ops.mean])
    s = d.maybe_gate(reduce(x, axis=axes, keepdims=True), 0.3)
    return d.pick([ops.subtract, ops.multiply, ops.maximum, ops.add])(x, s)


def padded(d, x):
    if smallest(x) > 6:
        return x[:, 1:-1]
    widths = [[0, 0], [1, 0], *[[0, 0]] * (len(x.shape) - 2)]
    return ops.pad(x, widths, mode=d.pick(["constant", "reflect"]))


IMAGE = {
    conv: 10,
    batch_norm: 6,
    activation: 6,
    gate: 4,
    residual: 7,
    preactivated: 5,
    gated_before_norm: 4,
    shifted_branch: 4,
    dense_block: 5,
    concat_branches: 4,
    squeeze_excite: 3,
    split_up: 4,
    shuffle: 2,
    moved: 2,
    grouped: 3,
    depthwise: 3,
    separable: 2,
    transposed: 2,
    dense: 1,
    mixing_norm: 2,
    prelu: 2,
    scalar_operation: 3,
    pool: 3,
    resize: 2,
    reduced_space: 2,
    padded: 1,
}
VECTOR = {
    dense: 8,
    batch_norm: 3,
    activation: 4,
    gate: 3,
    residual: 4,
    preactivated: 2,
    gated_before_norm: 2,
    shifted_branch: 2,
    dense_block: 3,
    concat_branches: 2,
    squeeze_excite: 1,
    split_up: 3,
    moved: 1,
    mixing_norm: 1,
    prelu: 1,
    scalar_operation: 2,
}
