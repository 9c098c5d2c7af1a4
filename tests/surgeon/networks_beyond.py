"""Small gated networks of kinds that keras.applications does not have.

Each function builds one; `TABLE` says which layers half of the gates' being
closed must make how wide.
"""

import keras
import numpy as np
from keras import layers as L

import keras_gates as kg
from tests import helpers


def conv(x, filters, name, size=3, before=False, **options):
    """A convolution, normalized, with a gate after it or in front."""
    made = getattr(L, f"Conv{len(x.shape) - 2}D")
    options = {"padding": "same", "use_bias": False, **options}
    x = made(filters, size, name=name, **options)(x)
    x = kg.FilterGate()(x) if before else x
    x = L.ReLU()(L.BatchNormalization()(x))
    return x if before else kg.FilterGate()(x)


def unet():
    """Skips that are concatenated; up by transposed kernel and by copying."""
    inputs = keras.Input((16, 16, 3))
    first = conv(inputs, 8, "down1", before=True)
    second = conv(L.MaxPooling2D()(first), 12, "down2")
    x = conv(L.MaxPooling2D()(second), 16, "bottom", before=True)
    x = L.Conv2DTranspose(12, 2, strides=2, name="up2")(x)
    x = kg.FilterGate()(L.ReLU()(x))
    x = conv(L.Concatenate()([second, x]), 12, "merge2", before=True)
    x = L.UpSampling2D(interpolation="bilinear")(x)
    x = conv(L.Concatenate()([first, x]), 8, "merge1")
    return keras.Model(inputs, L.Conv2D(2, 1, name="mask")(x))


def tcn():
    """Causal dilated convolutions in residual blocks; the last step counts."""
    inputs = keras.Input((24, 3))
    x = L.Conv1D(8, 1, name="stem")(inputs)
    for number, rate in enumerate((1, 2, 4)):
        options = {"padding": "causal", "dilation_rate": rate}
        y = conv(x, 12, f"first{number}", before=number == 1, **options)
        y = L.SpatialDropout1D(0.1)(y)
        y = L.Conv1D(8, 3, name=f"second{number}", **options)(y)
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(4, name="logits")(x[:, -1]))


def volumes():
    """Three-dimensional kernels, with and without a zero border."""
    inputs = keras.Input((8, 8, 8, 2))
    x = conv(inputs, 8, "conv1", before=True)
    x = conv(L.MaxPooling3D()(x), 12, "conv2", padding="valid")
    x = conv(x, 12, "conv3", size=1, before=True)
    x = L.GlobalAveragePooling3D()(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def crnn():
    """Columns of an image, read as a sequence in both directions."""
    inputs = keras.Input((8, 16, 1))
    x = conv(inputs, 8, "conv1")
    x = conv(L.MaxPooling2D()(x), 12, "conv2", before=True)
    x = L.MaxPooling2D((2, 1))(x)
    x = L.Reshape((8, 2 * 12))(L.Permute((2, 1, 3))(x))
    x = L.Bidirectional(L.LSTM(6, return_sequences=True), name="reader")(x)
    x = kg.FilterGate()(L.Dense(10, activation="relu", name="between")(x))
    x = L.LSTM(5, name="last")(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def siamese():
    """One tower, called twice."""
    image = keras.Input((8, 8, 3))
    x = conv(image, 8, "conv1", before=True)
    x = conv(x, 12, "conv2", strides=2)
    x = L.Dense(6, name="code")(L.GlobalAveragePooling2D()(x))
    tower = keras.Model(image, kg.FilterGate()(x), name="tower")
    inputs = [keras.Input((8, 8, 3)) for _ in "ab"]
    left, right = (tower(x) for x in inputs)
    distance = keras.ops.abs(left - right)
    return keras.Model(inputs, L.Dense(1, name="same")(distance))


def transformer():
    """Attention and its stream stay whole; what is between goes."""
    inputs = keras.Input((10, 5))
    x = L.Dense(8, name="embed")(inputs)
    for number in range(2):
        y = L.LayerNormalization()(x)
        y = L.MultiHeadAttention(2, 4, name=f"attention{number}")(y, y)
        x = L.Add()([x, y])
        y = L.LayerNormalization()(x)
        y = L.Dense(32, activation="gelu", name=f"widen{number}")(y)
        y = kg.FilterGate()(y)
        x = L.Add()([x, L.Dense(8, name=f"narrow{number}")(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def shuffle():
    """Grouped convolutions with their channels shuffled, and split."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 16, "stem")
    y = conv(x, 8, "squeeze", size=1, groups=2)
    y = L.Reshape((8, 8, 2, 4))(y)
    y = L.Reshape((8, 8, 8))(L.Permute((1, 2, 4, 3))(y))
    y = L.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = L.BatchNormalization()(y)
    y = L.Conv2D(16, 1, groups=2, name="expand")(y)
    x = L.ReLU()(L.Add()([x, kg.FilterGate()(y)]))
    left, right = keras.ops.split(x, 2, axis=-1)
    right = conv(right, 8, "right", before=True)
    x = L.GlobalAveragePooling2D()(L.Concatenate()([left, right]))
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def se_resnext():
    """Grouped bottlenecks whose channels a small network weighs."""
    inputs = keras.Input((8, 8, 3))
    x = conv(inputs, 16, "stem")
    for number in range(2):
        y = conv(x, 16, f"reduce{number}", size=1)
        y = conv(y, 16, f"grouped{number}", groups=4)
        y = L.Conv2D(16, 1, use_bias=False, name=f"widen{number}")(y)
        y = kg.FilterGate()(L.BatchNormalization()(y))
        s = L.GlobalAveragePooling2D(keepdims=True)(y)
        s = L.Conv2D(8, 1, activation="relu", name=f"squeeze{number}")(s)
        s = kg.FilterGate()(s)
        s = L.Conv2D(16, 1, activation="sigmoid", name=f"excite{number}")(s)
        x = L.ReLU()(L.Add()([x, L.Multiply()([y, s])]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def detector():
    """Two levels of a pyramid, and heads that both of them share."""
    inputs = keras.Input((16, 16, 3))
    fine = conv(inputs, 8, "fine", strides=2)
    coarse = conv(fine, 16, "coarse", strides=2, before=True)
    top = L.Conv2D(8, 1, name="lateral_coarse")(coarse)
    side = L.Conv2D(8, 1, name="lateral_fine")(fine)
    top = kg.FilterGate()(top)
    levels = [top, L.Add()([side, L.UpSampling2D()(top)])]
    levels[1] = kg.FilterGate()(levels[1])
    hidden = L.Conv2D(8, 3, padding="same", activation="relu", name="head")
    gate = kg.FilterGate()
    ends = {
        "box": L.Conv2D(4, 1, name="box"),
        "label": L.Conv2D(3, 1, activation="sigmoid", name="label"),
    }
    outputs = {}
    for number, x in enumerate(levels):
        x = gate(hidden(x))
        for name, end in ends.items():
            outputs[f"{name}{number}"] = end(x)
    return keras.Model(inputs, outputs)


def close_half(model):
    """Close every other channel of each gate, exactly."""
    for gate in helpers.gates_of(model):
        factor = helpers.numpy_of(gate.factor)
        odd = np.arange(factor.size) % 2 == 1
        gate.factor.assign(np.where(odd, 0.0, 1 + 0.1 * np.sin(factor)))
    return model


# Builder -> the channels that its layers have left when half of each gate is
# closed. Where that is one more than half of them, it is the channel that all
# constants before a zero border have merged into.
TABLE = {
    unet: "down1 5, down2 6, bottom 9, up2 6, merge2 6, merge1 4, mask 2",
    # Nothing is gated on the stream that the blocks add to.
    tcn: "stem 8, first0 6, second0 8, first1 7, second1 8, first2 6",
    volumes: "conv1 4, conv2 6, conv3 6, logits 4",
    crnn: "conv1 4, conv2 6, between 5, last 5, logits 4",
    siamese: "conv1 5, conv2 6, code 3, same 1",
    transformer: "embed 8, widen0 16, narrow0 8, widen1 16, narrow1 8",
    shuffle: "stem 8, squeeze 4, expand 8, right 4, logits 4",
    se_resnext: "stem 8, reduce0 8, grouped0 8, widen0 8, squeeze0 4",
    detector: "fine 4, coarse 8, lateral_coarse 4, lateral_fine 4, head 4",
}


def expected(build):
    """`{layer: channels}` of a row of `TABLE`."""
    pairs = (entry.split() for entry in TABLE[build].split(", "))
    return {name: int(channels) for name, channels in pairs}
