"""Pieces of random graphs for sequences, and reshapes between ranks.

Each takes a draw and a tensor and returns a tensor, as in `random_blocks`.
"""

import keras
from keras import layers as L
from keras import ops

from tests.surgeon import random_blocks as rb

_NORMS = ["BatchNormalization", "LayerNormalization", "RMSNormalization"]


def _recurrent_layer(d, **fixed):
    kind = d.pick([L.LSTM, L.GRU, L.SimpleRNN])
    d.note(kind.__name__)
    options = {"units": d.width(), "use_bias": d.chance(0.8)}
    if d.chance(0.2):
        options["activation"] = d.pick(["relu", "tanh", ops.tanh])
    if kind is L.GRU:
        options["reset_after"] = d.chance(0.5)
    if d.chance(0.15):
        options["go_backwards"] = True
    return kind(**{**options, **fixed})


def recurrent(d, x):
    """One recurrent layer that puts out the sequence."""
    return _recurrent_layer(d, return_sequences=True)(x)


def recurrent_end(d, x):
    """The end of a sequence, next to its mean."""
    end = _recurrent_layer(d)(x)
    return d.maybe_gate(end)


def stacked(d, x):
    x = _recurrent_layer(d, return_sequences=True)(x)
    if d.chance(0.4):
        x = d.pick([rb.activation, rb.batch_norm, rb.mixing_norm])(d, x)
    d.note("stacked")
    return _recurrent_layer(d, return_sequences=True)(d.maybe_gate(x))


def bidirectional(d, x):
    mode = d.pick(["concat", "sum", "ave", "mul"])
    layer = _recurrent_layer(d, return_sequences=True, go_backwards=False)
    return L.Bidirectional(layer, merge_mode=mode)(x)


def with_state(d, x):
    """The states of one layer are read by others, or start another."""
    layer = _recurrent_layer(d, return_sequences=True, return_state=True)
    y, *states = layer(x)
    if d.chance(0.5):
        kind = type(layer)
        d.note("initial state")
        return kind(layer.units, return_sequences=True)(y, initial_state=states)
    return L.Concatenate()([y, L.RepeatVector(y.shape[1])(states[-1])])


def cells(d, x):
    kinds = [L.LSTMCell, L.GRUCell, L.SimpleRNNCell]
    made = [d.pick(kinds)(d.width()) for _ in range(d.pick([1, 2]))]
    if len(made) == 1 and isinstance(made[0], L.LSTMCell):
        # Keras loses a state of one in a list where there is a mask.
        made.append(L.GRUCell(made[0].units))
    return L.RNN(made, return_sequences=True)(x)


def masking(d, x):
    return L.Masking(0.0)(x)


def masked_reader(d, x):
    """A recurrent layer that is given a mask computed from the data."""
    mask = ops.any(ops.greater(x, -0.5), axis=-1)
    return _recurrent_layer(d, return_sequences=True)(x, mask=mask)


def weighed_steps(d, x):
    """A weight for each step, and a copy of it for each channel."""
    weights = L.Dense(1, activation="tanh")(x)
    count, width = x.shape[1:]
    by_layers = L.Softmax()(L.Reshape((count,))(weights))
    kinds = [
        lambda: L.Permute((2, 1))(L.RepeatVector(width)(by_layers)),
        lambda: ops.repeat(weights, width, axis=-1),
        lambda: ops.tile(weights, (1, 1, width)),
    ]
    return d.pick([L.Multiply, L.Add])()([x, d.pick(kinds)()])


def self_attention(d, x):
    layer = L.MultiHeadAttention(d.pick([1, 2]), d.pick([2, 3]))
    causal = d.chance(0.3)
    y = layer(x, x, use_causal_mask=causal)
    if d.chance(0.6):
        y = L.LayerNormalization()(L.Add()([x, y]))
    return d.maybe_gate(y)


def cross_attention(d, x):
    other = d.maybe_gate(rb.dense(d, x))
    kinds = [
        lambda: L.MultiHeadAttention(2, 2)(x, other, other),
        lambda: L.MultiHeadAttention(2, 2, output_shape=4)(
            query=other, value=x
        ),
        lambda: L.GroupQueryAttention(2, 4, 2)(x, rb.dense(d, x, x.shape[-1])),
        lambda: L.Attention()([x, rb.dense(d, x, x.shape[-1])]),
    ]
    return d.pick(kinds)()


def feed_forward(d, x):
    """The second half of a transformer, normalized before or behind."""
    norm = d.pick([L.LayerNormalization, L.RMSNormalization])
    y = norm()(x) if d.chance(0.5) else x
    y = d.maybe_gate(L.Dense(2 * d.width(), activation="gelu")(y), 0.7)
    y = L.Dropout(0.1)(L.Dense(x.shape[-1])(y))
    y = L.Add()([x, y])
    return norm()(y) if d.chance(0.4) else y


def distributed(d, x):
    inner = d.pick(
        [
            lambda: L.Dense(d.width(), activation="relu"),
            lambda: L.BatchNormalization(),
            lambda: L.Activation("tanh"),
        ]
    )()
    return L.TimeDistributed(inner)(x)


def distributed_model(d, x):
    """A model at each step."""
    start = keras.Input(x.shape[2:])
    y = d.maybe_gate(L.Dense(d.width(), activation="relu")(start))
    inner = keras.Model(start, L.Dense(d.width())(y))
    return L.TimeDistributed(inner)(x)


def einsum(d, x):
    shape = (x.shape[1], d.width())
    return L.EinsumDense("abc,cd->abd", shape, bias_axes="d")(x)


SEQUENCE = {
    recurrent: 6,
    stacked: 4,
    bidirectional: 4,
    with_state: 3,
    cells: 1,
    masking: 2,
    masked_reader: 2,
    weighed_steps: 2,
    self_attention: 4,
    cross_attention: 3,
    feed_forward: 4,
    distributed: 3,
    distributed_model: 3,
    einsum: 2,
}


# Any rank -------------------------------------------------------------------


def norm_anywhere(d, x):
    """A normalization before or behind what is gated, any kind."""
    kinds = [getattr(L, name) for name in _NORMS]
    kinds.append(L.UnitNormalization)
    if rb.is_image(x):
        groups = [g for g in (1, 2, 3, x.shape[-1]) if x.shape[-1] % g == 0]
        kinds.append(lambda: L.GroupNormalization(d.pick(groups)))
    y = rb.same_conv(d, x) if d.chance(0.5) else x
    made = d.pick(kinds)
    y = y if y is x else d.maybe_gate(y)
    if y.shape[-1] != x.shape[-1] and made not in kinds[:4]:
        made = L.LayerNormalization
    layer = made()
    d.note(type(layer).__name__)
    y = d.maybe_gate(layer(y), 0.5)
    return rb.conv(d, y) if d.chance(0.5) else y


def through_vector(d, x):
    """Flattened, through a hidden layer, and reshaped to a map again."""
    space, channels = list(x.shape[1:-1]), d.pick([2, 3, 4])
    size = channels
    for extent in space:
        size *= extent
    if size > 200:
        return rb.pool(d, x)
    y = L.Flatten()(x)
    y = d.maybe_gate(L.Dense(d.width(), activation="relu", **rb.START)(y))
    y = L.Dense(size, activation=d.pick(rb.ACTIVATIONS), **rb.START)(y)
    y = L.Reshape([*space, channels])(d.maybe_gate(y, 0.3))
    y = rb.batch_norm(d, y) if d.chance(0.4) else y
    return rb.same_conv(d, y)


def to_map(d, x):
    """A vector becomes an image or a sequence."""
    space = d.pick([(4,), (2, 2), (3, 3)])
    channels = d.pick([2, 3, 4])
    size = channels
    for extent in space:
        size *= extent
    y = L.Dense(size, activation=d.pick(rb.ACTIVATIONS), **rb.START)(x)
    y = L.Reshape([*space, channels])(d.maybe_gate(y, 0.3))
    y = rb.same_conv(d, y)
    return d.maybe_gate(L.Flatten()(y) if d.chance(0.5) else y)


def pixel_shuffle(d, x):
    """Depth to space: channels of a convolution become pixels."""
    if len(x.shape) != 4 or x.shape[1] > 5:
        return rb.pool(d, x)
    height, width, channels = x.shape[1], x.shape[2], d.pick([2, 3])
    y = rb.same_conv(d, x, 4 * channels)
    y = L.Reshape((height, width, 2, 2, channels))(d.maybe_gate(y, 0.3))
    y = L.Permute((1, 3, 2, 4, 5))(y)
    y = L.Reshape((2 * height, 2 * width, channels))(y)
    return d.maybe_gate(y)


def space_to_depth(d, x):
    if len(x.shape) != 4 or x.shape[1] % 2 or x.shape[2] % 2:
        return rb.resize(d, x)
    height, width, channels = x.shape[1:]
    y = ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
    y = ops.transpose(y, (0, 1, 3, 2, 4, 5))
    return ops.reshape(y, (-1, height // 2, width // 2, 4 * channels))


def swapped_axes(d, x):
    """Space and channels change places, and back."""
    rank = len(x.shape) - 1
    if rank < 2:
        return rb.dense(d, x)
    axes = [rank, *range(1, rank)]
    y = L.Permute(axes)(x)
    y = L.Dense(y.shape[-1], activation="relu")(y) if d.chance(0.5) else y
    back = [*range(2, rank + 1), 1]
    return L.Permute(back)(y)


def resized(d, x):
    if len(x.shape) != 4:
        return rb.resize(d, x)
    return d.pick([L.Resizing(6, 6), L.CenterCrop(4, 4)])(x)


ANY = {norm_anywhere: 5}
MAPS = {through_vector: 2, swapped_axes: 1}
IMAGE = {pixel_shuffle: 2, space_to_depth: 1, resized: 1}
VECTOR = {to_map: 3}
