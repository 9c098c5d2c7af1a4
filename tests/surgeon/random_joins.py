"""The pieces of random graphs that join, split and reorder tensors.

`IMAGE` holds all pieces for a signal of any spatial rank, `VECTOR` those for
`(batch, features)`; the number is how often one is drawn.
"""

from keras import layers as L
from keras import ops

from tests.surgeon import random_blocks as rb


def shortcut(d, x, like):
    """`x`, or its projection, in the shape of `like`."""
    if x.shape == like.shape and d.chance(0.8):
        return x
    if rb.is_image(x):
        kind = rb.layer("Conv", x)
        return kind(like.shape[-1], 1, use_bias=d.chance(0.5), **rb.START)(x)
    return L.Dense(like.shape[-1], use_bias=d.chance(0.5), **rb.START)(x)


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
        x = d.pick([rb.same_conv, rb.same_conv, rb.batch_norm, rb.activation])(
            d, x
        )
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
    y = rb.same_conv(d, y, x.shape[-1])
    if d.chance(0.5):
        y = d.scalar_gate(y)
    return L.Add()([x, y])


def gated_before_norm(d, x):
    """Closed before a BN: the constants that flow on are not zero."""
    y = d.maybe_gate(rb.same_conv(d, x), 0.9)
    y = rb.batch_norm(d, y)
    y = L.ReLU()(y) if d.chance(0.7) else y
    return rb.conv(d, y)


def shifted_branch(d, x):
    """Closed, this branch is a constant that is not zero."""
    y = d.scalar_gate(rb.same_conv(d, x))
    y = rb.same_conv(d, y) if d.chance(0.4) else rb.batch_norm(d, y)
    return merged(d, shortcut(d, x, y), y)


def dense_block(d, x):
    """Concatenation with what came before, as in DenseNet."""
    y = L.BatchNormalization()(x) if d.chance(0.5) else x
    y = rb.same_conv(d, d.maybe_gate(y))
    y = d.maybe_gate(y, 0.6)
    pair = d.shuffled([x, y] + ([rb.same_conv(d, x)] if d.chance(0.3) else []))
    if d.chance(0.5):
        return ops.concatenate(pair, axis=-1)
    return L.Concatenate()(pair)


def concat_branches(d, x):
    """Inception: branches next to each other, some after one gate."""
    parts = []
    for _ in range(d.pick([2, 3])):
        y = branch(d, x)
        parts.append(d.scalar_gate(y) if d.chance(0.4) else y)
    return d.maybe_gate(L.Concatenate()(parts))


def squeeze_excite(d, x):
    if rb.is_image(x):
        s = rb.layer("GlobalAveragePooling", x)(keepdims=d.chance(0.5))(x)
    else:
        s = x
    s = L.Dense(d.width(), activation="relu", **rb.START)(s)
    s = d.maybe_gate(s)
    last = d.pick(["sigmoid", "linear"])
    s = L.Dense(x.shape[-1], activation=last, **rb.START)(s)
    s = d.maybe_gate(s, 0.3)
    if len(s.shape) < len(x.shape):
        s = L.Reshape([1] * rb.rank_of(x) + [x.shape[-1]])(s)
    return L.Multiply()([x, s]) if d.chance(0.5) else ops.multiply(s, x)


def split_up(d, x):
    channels = x.shape[-1]
    if channels < 4:
        return rb.dense(d, x, 4)
    if channels % 2 == 0 and d.chance(0.5):
        first, second = ops.split(x, 2, axis=-1)
    else:
        at = d.pick([1, 2, channels // 2])
        first, second = x[..., :at], x[..., at:]
    first = d.maybe_gate(
        d.pick([rb.activation, rb.batch_norm, rb.same_conv])(d, first)
    )
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
    if rb.smallest(x) > 6:
        return x[:, 1:-1]
    widths = [[0, 0], [1, 0], *[[0, 0]] * (len(x.shape) - 2)]
    return ops.pad(x, widths, mode=d.pick(["constant", "reflect"]))


IMAGE = {
    rb.conv: 10,
    rb.batch_norm: 6,
    rb.activation: 6,
    rb.gate: 4,
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
    rb.grouped: 3,
    rb.depthwise: 3,
    rb.separable: 2,
    rb.transposed: 2,
    rb.dense: 1,
    rb.mixing_norm: 2,
    rb.prelu: 2,
    rb.scalar_operation: 3,
    rb.pool: 3,
    rb.resize: 2,
    reduced_space: 2,
    padded: 1,
}
VECTOR = {
    rb.dense: 8,
    rb.batch_norm: 3,
    rb.activation: 4,
    rb.gate: 3,
    residual: 4,
    preactivated: 2,
    gated_before_norm: 2,
    shifted_branch: 2,
    dense_block: 3,
    concat_branches: 2,
    squeeze_excite: 1,
    split_up: 3,
    moved: 1,
    rb.mixing_norm: 1,
    rb.prelu: 1,
    rb.scalar_operation: 2,
}
